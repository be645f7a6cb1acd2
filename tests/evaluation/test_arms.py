"""Which arms a recipe makes, which networks are fine-tuned, and what is compared with what."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels, read_labels, write_labels
from zwicky.data.store import StoreWriter, open_store
from zwicky.errors import UserError
from zwicky.evaluation import choose
from zwicky.evaluation.arms import arms, pairs
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.config import BenchmarkConfig, DesignConfig, SelfSupervision
from zwicky.evaluation.design import make_draws
from zwicky.evaluation.learners import Bench
from zwicky.evaluation.results import BenchmarkResult
from zwicky.io import read_json
from zwicky.methods import MethodConfig
from zwicky.training.config import FitConfig, TrainConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Round and stretched blobs."""
    path, rng = tmp_path_factory.mktemp("data") / "store", np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] - 7.5
    lens = np.arange(80) % 2 == 1
    width = np.where(lens, 1.2, 2.0)[:, None, None]
    images = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))[:, None] + rng.normal(0, 0.5, (80, 1, 16, 16))
    cutouts = make_cutouts(images.astype(np.float32), ("r",), [f"o{row:03d}" for row in range(80)])
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
    write_labels(path, Labels({i: "lens" if a else "not" for i, a in zip(cutouts.ids, lens, strict=True)}, "made"))
    return path


def settings(**changes):
    train = TrainConfig(max_steps=2, batch_size=16, precision="float32", evaluations=1)
    small = {"prototypes": 16, "hidden": 16, "bottleneck": 8}

    def ssl(networks=()):
        return SelfSupervision(
            MethodConfig("dino", small), ViewsConfig(local_crops=1, local_size=8), train, list(networks)
        )

    def net(width):
        return BackboneConfig("vit_tiny", {"patch_size": 8, "width": width, "depth": 1, "heads": 2})

    return BenchmarkConfig(
        **{
            "design": DesignConfig(fractions=(0.7, 0.0, 0.3)),
            "labels": [20, 40],
            "draws": 2,
            "backbones": {"A": net(32), "B": net(16)},
            "methods": {"dino": ssl(), "other": ssl(["B"])},
            "probes": ["linear"],
            "finetune": FitConfig(train=train),
            "scratch": FitConfig(train=train),
            "baselines": [],
            "replicates": 20,
        }
        | changes
    )


def bench_of(config, store, folder):
    cutouts, labels = open_store(store), read_labels(store)
    truth = np.array([labels.classes.index(name) for name in labels.of(cutouts.ids)])
    return Bench(config, cutouts, labels.classes, truth, folder, quiet=True), make_draws(config, cutouts, labels)


def test_methods_meet_the_networks_they_name(store, tmp_path):
    bench, _ = bench_of(settings(), store, tmp_path)
    assert [arm.name for arm in arms(bench)] == [
        *("dino-A-finetune", "dino-A-linear", "A-supervised"),
        *("dino-B-finetune", "dino-B-linear", "other-B-finetune", "other-B-linear", "B-supervised"),
    ]
    titles = {arm.name: arm.title for arm in arms(bench)}
    assert titles["dino-A-linear"] == "DINO pretraining, A, frozen, linear probe"
    assert titles["other-B-finetune"] == "DINO (other) pretraining, B, fine-tuned"


def test_networks_are_compared_method_by_method(store, tmp_path):
    bench, _ = bench_of(settings(one_view=True), store, tmp_path)
    everyone = arms(bench)
    plain, more = set(pairs(everyone)), set(pairs(everyone, "A"))
    assert plain == {
        *(("dino-A-finetune", "A-supervised"), ("dino-A-finetune-one-view", "A-supervised-one-view")),
        ("dino-A-linear", "A-supervised"),
        *(("dino-B-finetune", "B-supervised"), ("dino-B-finetune-one-view", "B-supervised-one-view")),
        ("dino-B-linear", "B-supervised"),
        *(("other-B-finetune", "B-supervised"), ("other-B-finetune-one-view", "B-supervised-one-view")),
        ("other-B-linear", "B-supervised"),
    }
    assert more - plain == {
        (f"{start}B-{end}", f"{start}A-{end}")
        for start, end in [
            *(("dino-", "finetune"), ("dino-", "finetune-one-view"), ("dino-", "linear")),
            *(("", "supervised"), ("", "supervised-one-view")),
        ]
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compare_with": "C"}, "choose of A, B"),
        ({"fit_labels": [30]}, "labels"),
        ({"methods": {"dino": SelfSupervision(networks=["C"], views=ViewsConfig(local_size=8))}}, "'C'"),
        ({"baselines": ["tea_leaves"]}, "tea_leaves"),
    ],
)
def test_recipes_that_do_not_fit_together_are_one_line(changes, words, store, tmp_path):
    bench, _ = bench_of(settings(**changes), store, tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        arms(bench)
    assert "\n" not in str(caught.value)


def test_one_view_differs_from_the_mean_over_turns_and_fits_nothing_again(store, tmp_path):
    config = settings(one_view=True, fit_labels=[20], methods={}, draws=1, compare_with="A")
    result = benchmark(config, store, tmp_path / "run", quiet=True)
    with (tmp_path / "run" / "results.csv").open(newline="") as stream:
        rows = {(row["arm"], row["labels"]): row for row in csv.DictReader(stream)}
    assert set(rows) == {(f"{net}-supervised{end}", "20") for net in "AB" for end in ("", "-one-view")}
    for net in "AB":
        mean, single = (rows[f"{net}-supervised{end}", "20"] for end in ("", "-one-view"))
        assert mean["nll"] != single["nll"]
        assert {k: mean[k] for k in ("steps", "pflops")} == {k: single[k] for k in ("steps", "pflops")}
        folder = tmp_path / "run" / "cells" / f"{net}-supervised-one-view-n20-d0"
        assert not (folder / "metrics.csv").exists()
    assert ("B-supervised", "A-supervised") in set(
        zip(result.comparisons["arm"], result.comparisons["reference"], strict=True)
    )


def test_only_the_best_probes_are_fine_tuned_and_no_test_object_chooses(store, tmp_path, monkeypatch):
    config = settings(finetune_best=1, fit_labels=[20])
    tested = {}
    probe = choose.linear_probe

    def spy(train, y, test, classes):
        tested.setdefault("seen", []).append(np.concatenate([train, test]))
        return probe(train, y, test, classes)

    monkeypatch.setattr(choose, "linear_probe", spy)
    benchmark(config, store, tmp_path / "run", quiet=True)
    scores = read_json(tmp_path / "run" / "chosen.json")["auc"]
    assert set(scores) == {"dino-A", "dino-B", "other-B"}
    best = max(scores, key=scores.get)
    cells = {path.name for path in (tmp_path / "run" / "cells").iterdir()}
    assert {name for name in cells if "finetune" in name} == {f"{best}-finetune-n20-d{draw}" for draw in (0, 1)}
    assert {name for name in cells if "-linear-" in name} == {
        f"{arm}-linear-n{count}-d{draw}" for arm in scores for count in (20, 40) for draw in (0, 1)
    }
    # The features of a test object never reach the probe that chooses.
    bench, draws = bench_of(config, store, tmp_path / "run")
    seen = np.concatenate([rows for rows in tested["seen"] if rows.shape[1] == 32])
    for draw in draws:
        features = choose.frozen(bench, "A", "dino", draw)[draw.test_rows(bench.cutouts)]
        assert not (seen[:, None] == features[None]).all(-1).any()
    assert len(BenchmarkResult(tmp_path / "run").summary)
