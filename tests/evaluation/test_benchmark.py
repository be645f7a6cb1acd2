"""A tiny benchmark from end to end: its files, its hygiene, and that it can be stopped anywhere."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels, write_labels
from zwicky.data.splits import read_split
from zwicky.data.store import StoreWriter
from zwicky.errors import UserError
from zwicky.evaluation import benchmark as room
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.config import BenchmarkConfig, DesignConfig, SelfSupervision
from zwicky.evaluation.results import RESULT_COLUMNS, cell_key
from zwicky.io import read_json
from zwicky.methods import MethodConfig
from zwicky.training import loop
from zwicky.training.config import FitConfig, TrainConfig


def write_blobs(path, count=80, unlabelled=10, seed=0):
    """A store of round and of stretched blobs; the last few have no label, and two objects are the same one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] - 7.5
    lens = np.arange(count + unlabelled) % 2 == 1
    width = np.where(lens, 1.2, 2.0)[:, None, None] * rng.uniform(0.8, 1.2, (len(lens), 1, 1))
    images = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))[:, None] + rng.normal(0, 0.5, (len(lens), 2, 16, 16))
    images = images.astype(np.float32)
    images[2] = images[0]  # a duplicate: never parted by a split
    cutouts = make_cutouts(
        images, ("g", "r"), [f"o{row:03d}" for row in range(len(lens))], pixel_scale=[0.2] * len(lens),
        object=[f"lens{row // 2}" for row in range(len(lens))],
    )  # fmt: skip
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
    names = {i: "lens" if a else "nonlens" for i, a in zip(cutouts.ids[:count], lens[:count], strict=True)}
    write_labels(path, Labels(names, "made"))
    return path


TRAIN = {"max_steps": 3, "batch_size": 16, "precision": "float32", "evaluations": 2, "checkpoint_seconds": 0.0}


def settings(**changes):
    fit = FitConfig(train=TrainConfig(**TRAIN, weight_ema=0.5))
    ssl = SelfSupervision(
        MethodConfig("dino", {"prototypes": 16, "hidden": 16, "bottleneck": 8}),
        ViewsConfig(local_crops=1, local_size=8),
        TrainConfig(**TRAIN),
    )
    options = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2, "drop_path": 0.1}
    return BenchmarkConfig(
        **{
            "design": DesignConfig(fractions=(0.7, 0.0, 0.3)),
            "labels": [20, 40],
            "draws": 2,
            "backbones": {"vit": BackboneConfig("vit_tiny", options)},
            "methods": {"dino": ssl},
            "finetune": fit,
            "scratch": fit,
            "replicates": 50,
        }
        | changes
    )


def folds(**changes):
    design = DesignConfig(kind="folds", folds=2, repeats=2, group="object")
    return settings(design=design, labels=[0], probes=["knn"], **changes)


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def without_time(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows_of(path)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module", params=["holdout", "folds"])
def done(request, tmp_path_factory, store):
    """(configuration, directory of the finished benchmark)."""
    config = settings() if request.param == "holdout" else folds()
    out = tmp_path_factory.mktemp(request.param) / "run"
    benchmark(config, store, out, quiet=True)
    return config, out


def test_every_file_is_there_with_its_columns(done):
    config, out = done
    arms = ["dino-vit-finetune", *[f"dino-vit-{probe}" for probe in config.probes], "vit-supervised", "pca-logistic"]
    counts = sorted({int(row["labels"]) for row in rows_of(out / "results.csv")})
    draws = 2 if config.design.kind == "holdout" else 4
    assert len(counts) == len(config.labels)
    for name in ("config.yaml", "run.json", "data.json", "audit.json", "draws.parquet"):
        assert (out / name).stat().st_size
    results = rows_of(out / "results.csv")
    assert tuple(results[0]) == RESULT_COLUMNS
    assert [(row["arm"], int(row["draw"]), int(row["labels"])) for row in results] == [
        (arm, draw, count) for arm in arms for draw in range(draws) for count in counts
    ]
    kept = {row["arm"]: row["used_probe"] for row in results}
    assert kept["dino-vit-finetune"] in ("True", "False")
    assert kept["vit-supervised"] == "False"
    assert {kept[arm] for arm in arms[1:-2]} | {kept["pca-logistic"]} == {""}
    comparisons = rows_of(out / "comparisons.csv")
    assert {(row["arm"], row["reference"]) for row in comparisons} == {
        (arm, reference) for arm in arms if arm.startswith("dino") for reference in ("vit-supervised", "pca-logistic")
    }
    for row in results:
        cell = out / "cells" / cell_key(row["arm"], int(row["labels"]), int(row["draw"]))
        table = pq.read_table(cell / "predictions.parquet")
        assert table.column_names == ["id", "group", "label", "p_nonlens", "p_lens"]
        assert np.allclose(table["p_nonlens"].to_numpy() + table["p_lens"].to_numpy(), 1, atol=1e-5)
        assert read_json(cell / "result.json")["accuracy"] == pytest.approx(float(row["accuracy"]))
        truth = np.array(table["label"].to_pylist()) == "lens"
        assert ((table["p_lens"].to_numpy() > 0.5) == truth).mean() == pytest.approx(float(row["accuracy"]), abs=0.03)
        assert (cell / "metrics.csv").exists() == (row["protocol"] in ("finetune", "scratch"))
        assert not (cell / "checkpoint").exists()
        assert (row["pretrain_seed"] != "") == (row["kind"] == "ssl")
    pretrainings = 1 if config.design.kind == "holdout" else 4
    assert len(list((out / "pretrain").glob("*/metrics.csv"))) == pretrainings
    data = read_json(out / "data.json")
    assert (data["objects"], data["unlabelled"], data["classes"]) == (90, 10, ["nonlens", "lens"])
    assert read_json(out / "run.json")["finished"]


def test_nobody_learns_from_what_tests_him(done):
    """Read from the files alone: splits, draws, predictions and the records of pretraining."""
    config, out = done
    draws = pq.read_table(out / "draws.parquet").to_pylist()
    for path in (out / "splits").glob("*.csv"):
        split = read_split(path)
        test = set(split.ids("test"))
        assert test
        pretrained = next((out / "pretrain").glob(f"dino-vit-{split.name}-s*"))
        record = pq.read_table(pretrained / "training_objects.parquet")
        assert set(record["id"].to_pylist()) == set(split.ids("train", "unlabelled"))
        own = {row["draw"] for row in draws} if config.design.kind == "holdout" else {draw_of(split.name)}
        for draw in own:
            used = {row["id"] for row in draws if row["draw"] == draw}
            assert used <= set(split.ids("train"))
            for cell in (out / "cells").glob(f"*-d{draw}"):
                assert set(pq.read_table(cell / "predictions.parquet")["id"].to_pylist()) == test
        groups = {split.groups[i] for i in test}
        assert not groups & {split.groups[i] for i in split.roles if i not in test}
        assert (split.roles.get("o000") == "test") == (split.roles.get("o002") == "test")  # the duplicate


def draw_of(name):
    repeat, fold = name[1:].split("f")
    return int(repeat) * 2 + int(fold)


def test_subsets_are_nested_and_hold_what_they_say(done):
    config, out = done
    table = pq.read_table(out / "draws.parquet").to_pylist()
    for draw in {row["draw"] for row in table}:
        before: set[str] = set()
        for count in sorted({row["labels"] for row in table}):
            fit, select = (
                [r["id"] for r in table if (r["draw"], r["labels"], r["use"]) == (draw, count, use)]
                for use in ("fit", "select")
            )
            together = set(fit) | set(select)
            assert len(together) == len(fit) + len(select)
            assert len(together) == count or config.design.kind == "folds"
            assert select
            assert before <= together
            before = together


def test_a_second_run_does_nothing(done, store, monkeypatch):
    config, out = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(room, "run_cell", None)
    monkeypatch.setattr(room, "summarise", None)
    result = benchmark(config, store, out, quiet=True)
    assert len(result.results) == len(rows_of(out / "results.csv"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_cell_that_was_deleted_is_done_again(done, store):
    config, out = done
    expected = without_time(out / "results.csv")
    row = expected[0]
    shutil.rmtree(out / "cells" / cell_key(row["arm"], int(row["labels"]), int(row["draw"])))
    benchmark(config, store, out, quiet=True)
    assert without_time(out / "results.csv") == expected


def test_other_settings_and_other_data_are_refused(done, store, tmp_path):
    config, out = done
    with pytest.raises(UserError, match="replicates"):
        benchmark(settings(replicates=51) if config.design.kind == "holdout" else folds(replicates=51), store, out)
    with pytest.raises(UserError, match="other data"):
        benchmark(config, write_blobs(tmp_path / "other", seed=1), out)
    relabelled = tmp_path / "relabelled"
    shutil.copytree(store, relabelled)
    names = {f"o{row:03d}": "lens" if row % 2 else "nonlens" for row in range(79)}
    write_labels(relabelled, Labels(names, "made"))
    with pytest.raises(UserError, match="other data"):
        benchmark(config, relabelled, out)


def test_interrupted_is_uninterrupted(done, store, tmp_path, monkeypatch):
    config, whole = done
    advance, left = loop.StepProgress.advance, []

    def count(self):
        advance(self)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.StepProgress, "advance", count)
    run = tmp_path / "run"
    for steps in (2, 3, 5, 10**6):  # in the first pretraining, later in it, and in a fit; then to the end
        left[:] = [steps]
        try:
            benchmark(config, store, run, quiet=True)
        except KeyboardInterrupt:
            assert steps < 10**6
    assert without_time(run / "results.csv") == without_time(whole / "results.csv")
    for name in ("summary.csv", "comparisons.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [20, 4000]}, "4000"),
        ({"labels": [1]}, "2 classes"),
        ({"baselines": ["pca"]}, "pca_logistic"),
        ({"methods": {"dino": SelfSupervision(MethodConfig("dinosaur"))}}, "dinosaur"),
        ({"methods": {"dino": SelfSupervision(views=ViewsConfig(crop=8))}}, "label_views"),
        ({"design": DesignConfig(fractions=(0.9, 0.9, 0.3))}, "fractions"),
        ({"design": DesignConfig(group="colour")}, "colour"),
        ({"backbones": {"vit": BackboneConfig("vit_tiny", {"patch_size": 5})}}, "patches of 5"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_one_line_and_do_not_bar_the_directory(store, tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        benchmark(settings(**changes), store, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    small = settings(labels=[20], draws=1, methods={}, probes=[])
    assert len(benchmark(small, store, tmp_path / "run", quiet=True).results) == 2


def test_a_store_without_classes_is_refused(store, tmp_path):
    single = tmp_path / "single"
    shutil.copytree(store, single)
    write_labels(single, Labels({"o001": "lens"}))
    with pytest.raises(UserError, match="1 class"):
        benchmark(settings(), single, tmp_path / "run")
