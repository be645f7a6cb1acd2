"""Scoring a survey: equal whatever the parts, workers and interruptions; calibrated; nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from zwicky import cli, provenance
from zwicky.data.store import open_images, open_store, write_store
from zwicky.errors import UserError
from zwicky.io import read_set_aside
from zwicky.survey.config import ScoreConfig
from zwicky.survey.ensemble import Ensemble, Training
from zwicky.survey.parts import _table
from zwicky.survey.score import score
from zwicky.training.network import load_network, save_network
from zwicky.training.task import parse_targets

SMALL = {"top": 6, "random": 5, "part_size": 8}


def tables(out):
    return pd.concat([pd.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))], ignore_index=True)


def files(out):
    """Content of all files by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_scores_of_every_format(cutouts, survey, make_run, tmp_path):
    name, path = survey
    run, out = make_run(), tmp_path / "scores"
    done = score([run], path, out, ScoreConfig(**SMALL, features=True), workers=1, quiet=True)
    assert done["scored"] == len(cutouts)
    assert done["found"] == done["scored"] + done["listed"] == len(cutouts) + (name == "hats")
    table, network = tables(out), load_network(run)
    probability = network.probabilities(cutouts.images)[:, 1]
    np.testing.assert_allclose(table["score"], probability, atol=1e-6)
    features = np.concatenate([np.load(part) for part in sorted(out.glob("features-*.npy"))])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, network.features(cutouts.images), atol=5e-3)
    candidates = open_store(out / "candidates")
    assert candidates.table["stratum"].tolist() == ["top"] * 6 + ["random"] * 5
    assert candidates.table["inclusion_probability"].tolist() == [1.0] * 6 + [5 / 39] * 5
    np.testing.assert_array_equal(candidates.table["score"][:6], np.sort(table["score"])[::-1][:6])
    number = candidates.table["id"].str.extract(r"(\d+)(?:\.fits)?$")[0].astype(int)
    np.testing.assert_array_equal(candidates.images[:], cutouts.images[number])
    assert not (out / "selection").exists()


@pytest.mark.parametrize("options", [{"views": 1}, {"prevalence": 1e-3}])
def test_scores_are_those_of_the_settings(options, cutouts, store, make_run, tmp_path):
    run, config = make_run(), ScoreConfig(**SMALL, **options)
    (run / "run.json").write_text(json.dumps({"class_counts": {"nonlens": 30, "lens": 10}}))
    score([run], store, tmp_path / "s", config, workers=1, quiet=True)
    network = load_network(run)
    odds = logit(network.probabilities(cutouts.images, turns=config.views == 8)[:, 1])
    moved = odds if config.prevalence is None else odds + logit(config.prevalence) - logit(0.25)
    np.testing.assert_allclose(logit(tables(tmp_path / "s")["score"]), moved, atol=1e-4)


def test_a_survey_smaller_than_its_strata_is_inspected_whole(store, make_run, tmp_path):
    score([make_run()], store, tmp_path / "s", ScoreConfig(top=40, random=20), workers=1, quiet=True)
    table = open_store(tmp_path / "s" / "candidates").table
    assert table["stratum"].tolist() == ["top"] * 40 + ["random"] * 5
    assert table["inclusion_probability"].tolist() == [1] * 45


def test_cutouts_without_a_finite_score_are_listed(cutouts, store, make_run, tmp_path, monkeypatch):
    def call(ensemble, images):
        table, features = original(ensemble, images)
        return table.assign(score=table["score"].where(table.index % 3 > 0)), features  # of each part

    original, run, out = Ensemble.__call__, make_run(), tmp_path / "s"
    monkeypatch.setattr(Ensemble, "__call__", call)
    done = score([run], store, out, ScoreConfig(**SMALL, features=True), workers=1, quiet=True)
    rows = np.flatnonzero(np.arange(45) % 8 % 3 > 0)
    assert (done["scored"], done["listed"]) == (len(rows), 45 - len(rows))
    assert tables(out)["id"].tolist() == cutouts.ids[rows].tolist()
    listed = dict(read_set_aside(out / "set_aside.csv"))
    assert listed == dict.fromkeys(np.delete(cutouts.ids, rows), "the network gives no finite number")
    features = np.concatenate([np.load(part) for part in sorted(out.glob("features-*.npy"))])
    np.testing.assert_allclose(features, load_network(run).features(cutouts.images[rows]), atol=5e-3)
    candidates = open_store(out / "candidates")
    np.testing.assert_array_equal(candidates.images[:], cutouts.images[cutouts.rows_of(candidates.ids)])


@pytest.mark.slow
def test_parts_and_workers_change_nothing(store, make_run, tmp_path):
    run, outs = make_run(), {}
    for name, size, options in (("a", 8, {"workers": 1}), ("b", 100, {"workers": 1}), ("c", 8, {"workers": 2})):
        outs[name] = tmp_path / name
        score([run], store, outs[name], ScoreConfig(top=6, random=5, part_size=size), quiet=True, **options)
    assert files(outs["a"]) == files(outs["c"])
    pd.testing.assert_frame_equal(tables(outs["a"]).round(6), tables(outs["b"]).round(6))
    ids = [open_store(out / "candidates").ids.tolist() for out in outs.values()]
    assert ids[0] == ids[1] == ids[2]


def test_a_job_array_scores_all_parts(store, make_run, tmp_path):
    run, whole, out = make_run(), tmp_path / "whole", tmp_path / "array"
    score([run], store, whole, ScoreConfig(**SMALL), workers=1, quiet=True)
    for task, left in (("3/3", 4), ("1/3", 2), ("2/3", 0)):
        assert score([run], store, out, ScoreConfig(**SMALL), part=task, workers=1, quiet=True)["left"] == left
    assert not (out / "summary.json").exists()
    for part in ("", "2/3"):
        assert score([run], store, out, ScoreConfig(**SMALL), part=part, workers=1, quiet=True)["scored"] == 45
    assert files(whole) == files(out)


def test_tasks_that_start_together(store, make_run, tmp_path, monkeypatch):
    """While a task writes the training features, or checks the settings, another one does the same."""
    run, out, save, glob = make_run(3), tmp_path / "scores", np.save, Path.glob
    history = provenance.record(open_store(store), {"fit": np.arange(20)})
    save_network(run, replace(load_network(run), history=history))

    def task(number, target):
        part = f"{number}/2"
        return score([run], store, target, ScoreConfig(**SMALL), training=store, part=part, workers=1, quiet=True)

    def save_late(file, array):
        monkeypatch.setattr(np, "save", save)
        task(2, out)
        save(file, array)

    def glob_late(path, pattern):
        monkeypatch.setattr(Path, "glob", glob)
        task(2, tmp_path / "other")
        return glob(path, pattern)

    monkeypatch.setattr(np, "save", save_late)
    assert task(1, out)["left"] == 0
    assert tables(out)["distance"].notna().all()
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(Path, "glob", glob_late)
    assert task(1, tmp_path / "other")["left"] == 0


def test_a_run_without_a_head_scores_nothing(store, make_run, tmp_path):
    with pytest.raises(UserError, match="has no head yet: fine-tune it, or take its features by --features true"):
        score([make_run(head=None)], store, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_other_settings_are_refused(store, make_run, tmp_path):
    run, out = make_run(), tmp_path / "scores"
    score([run], store, out, ScoreConfig(**SMALL), workers=1, quiet=True)
    with pytest.raises(UserError, match="other views, seed; choose another --out"):
        score([run], store, out, ScoreConfig(**SMALL, views=1, seed=4), workers=1, quiet=True)
    with pytest.raises(UserError, match="holds no scores"):
        score([run], store, run, ScoreConfig(**SMALL), workers=1, quiet=True)


@pytest.mark.parametrize(
    "option", ["part_size=0", "part_size=-8", "seed=-1", f"seed={2**64}", "top=-5", "random=-1", "views=4", "views=0"]
)
def test_settings_out_of_range_are_refused(option, store, make_run, tmp_path):
    with pytest.raises(UserError, match=f"{option.replace('=', ' is ')}; choose"):
        cli.run(["score", str(make_run()), "--data", str(store), "--out", str(tmp_path / "s"), f"--{option}"])


@pytest.mark.parametrize("name", ["store", "fits", "npy"])
def test_other_data_are_refused(name, cutouts, make_run, write_survey, tmp_path):
    """As many cutouts of the same names and sizes, but other pixels; the same ones elsewhere are the same data."""
    hashes = cutouts.table["pixel_hash"].to_numpy()[::-1]
    other = replace(cutouts, images=cutouts.images[::-1].copy(), table=cutouts.table.assign(pixel_hash=hashes))
    paths = {}
    for folder, content in {"a": cutouts, "b": other, "elsewhere": cutouts}.items():
        (tmp_path / folder).mkdir()
        paths[folder] = write_survey(name, content, tmp_path / folder)
    run, out = make_run(), tmp_path / "scores"
    for _ in range(2):
        score([run], paths["a"], out, ScoreConfig(**SMALL), part="1/2", workers=1, quiet=True)
        with pytest.raises(UserError, match="other data; choose another --out"):
            score([run], paths["b"], out, ScoreConfig(**SMALL), workers=1, quiet=True)
        score([run], paths["elsewhere"], out, ScoreConfig(**SMALL), workers=1, quiet=True)


def test_what_cannot_be_scored_is_listed(cutouts, make_run, tmp_path):
    images, ids = cutouts.images.copy(), np.array(["nan", *cutouts.ids[1:]], object)
    images[::5] = np.nan
    table = cutouts.table.assign(id=ids, pixel_scale=0.2 + 0.005 * (np.arange(45) == 7) + 0.003 * (np.arange(45) == 8))
    write_store(images, table, tmp_path / "store", bands=cutouts.bands)
    done = score([make_run()], tmp_path / "store", tmp_path / "s", ScoreConfig(**SMALL), workers=1, quiet=True)
    assert (done["scored"], done["listed"], done["found"]) == (35, 10, 45)
    listed = dict(read_set_aside(tmp_path / "s" / "set_aside.csv"))
    assert listed.keys() == {*ids[::5], "obj007"}
    assert listed["obj007"] == 'has 0.205" a pixel, and the network was made for 0.2"'
    assert set(tables(tmp_path / "s")["id"]) == set(ids) - set(listed)


def test_an_empty_store_has_no_scores(cutouts, make_run, tmp_path):
    write_store(cutouts.images[:0], cutouts.table[:0], tmp_path / "store", bands=cutouts.bands)
    done = score([make_run()], tmp_path / "store", tmp_path / "s", ScoreConfig(features=True), workers=1, quiet=True)
    assert (done["found"], done["candidates"]) == (0, 0)
    assert len(tables(tmp_path / "s")) == 0


def test_an_ensemble_averages_log_odds_and_moves_the_prevalence(cutouts, make_run):
    runs = [make_run(seed) for seed in range(3)]
    (runs[0] / "run.json").write_text(json.dumps({"class_counts": {"nonlens": 30, "lens": 10}}))
    odds = np.array([logit(load_network(run).probabilities(cutouts.images)[:, 1]) for run in runs])
    table, _ = Ensemble.load(runs, None, True)(cutouts.images)
    np.testing.assert_allclose(table["score"], expit(odds.mean(0)), atol=1e-6)
    np.testing.assert_allclose(table["spread"], odds.std(0, ddof=1), atol=1e-4)
    shifted, _ = Ensemble.load(runs, 1e-4, True)(cutouts.images)
    moved = odds + logit(1e-4) - np.array([[logit(0.25)], [0], [0]])
    np.testing.assert_allclose(logit(shifted["score"]), moved.mean(0), atol=1e-4)
    np.testing.assert_allclose(shifted["spread"], moved.std(0, ddof=1), atol=1e-4)
    np.testing.assert_array_equal(np.argsort(shifted["score"]), np.argsort(table["score"]))
    assert np.isnan(Ensemble.load(runs[:1], None, True)(cutouts.images)[0]["spread"]).all()


def test_a_regressed_column_called_score_is_no_probability(cutouts, store, make_run, tmp_path):
    runs = [make_run(seed, parse_targets(["score"])) for seed in range(2)]
    values = np.array([load_network(run).predict(cutouts.images)[:, 0] for run in runs])
    table, _ = Ensemble.load(runs, None, True)(cutouts.images)
    np.testing.assert_allclose(table["score"], values.mean(0), atol=1e-5)
    np.testing.assert_allclose(table["spread_score"], values.std(0, ddof=1), atol=1e-5)
    for name in ("distance", "ra"):
        with pytest.raises(UserError, match=f"predicts '{name}', a column of all tables"):
            score([make_run(0, parse_targets([name]))], store, tmp_path / "s", workers=1, quiet=True)


def test_a_run_without_counts_of_its_labels_is_named(cutouts, make_run, tmp_path, recwarn):
    run, store = make_run(), tmp_path / "store"
    write_store(cutouts.images[:4], cutouts.table[:4], store, bands=cutouts.bands)
    for number, prevalence in enumerate((None, 1e-3)):
        score([run], store, tmp_path / str(number), ScoreConfig(prevalence, views=1), workers=1, quiet=True)
    assert sum(f"{run} does not record" in str(warning.message) for warning in recwarn) == 1


@pytest.mark.parametrize("prevalence", [1e-5, 1e-4, 1e-3])
def test_scores_are_calibrated_at_the_prevalence_of_a_survey(prevalence, make_run):
    """Gaussian log-odds of lenses and others, balanced in training: by Bayes' theorem, exact in a survey."""
    rng = np.random.default_rng(0)
    ensemble = Ensemble.load([make_run()], prevalence, True)
    count, lenses = 2_000_000, rng.poisson(2_000_000 * prevalence)
    truth = np.arange(count) < lenses
    z = rng.normal(np.where(truth, 4.0, -4.0), np.sqrt(8.0))  # z = ln p(x | lens) / p(x | other)
    network = ensemble.networks[0]
    logits = np.stack([np.zeros(count), z * network.temperature], 1)
    probability = expit(ensemble._log_odds(logits, network, 0.5))[:, 0]
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 1.0)):
        inside = (probability >= low) & (probability < high)
        expected, variance = probability[inside].sum(), (probability * (1 - probability))[inside].sum()
        assert abs(truth[inside].sum() - expected) < 4.5 * np.sqrt(variance + 1)


def test_networks_of_other_tasks_are_refused(make_run):
    without_head, other_bands, other_pixels = make_run(head=""), make_run(), make_run()
    path = other_bands / "network.json"
    path.write_text(path.read_text().replace('"g"', '"i"'))
    save_network(other_pixels, replace(load_network(other_pixels), pixel_scale=0.3))
    for run, difference in ((without_head, "classes"), (other_bands, "bands"), (other_pixels, "pixel_scale")):
        with pytest.raises(UserError, match=f"differ in {difference}"):
            Ensemble.load([make_run(), run], None, True)


def test_memory_of_distances_does_not_grow_with_the_product():
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(4000, 8)), rng.normal(size=(20_000, 8))
    tracemalloc.start()
    Training.of(features).distance(others)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8


def test_distance_to_the_training_set(store, make_run, tmp_path):
    """Training objects are within the unit, noise of another kind is far outside."""
    rng = np.random.default_rng(0)
    features = rng.normal(5, [1] * 8, (500, 8))
    training = Training.of(features)
    new, odd = training.distance(rng.normal(5, 1, (500, 8))), training.distance(rng.normal(12, 1, (50, 8)))
    assert 0.9 < (new < 1).mean() <= 1
    assert (odd > 2).all()
    np.testing.assert_allclose(training.distance(features), 0, atol=2e-3)
    run = make_run(3)
    history = provenance.record(open_store(store), {"fit": np.arange(20)})
    save_network(run, replace(load_network(run), history=history))
    score([run], store, tmp_path / "s", ScoreConfig(**SMALL), training=store, workers=1, quiet=True)
    distance = tables(tmp_path / "s")["distance"]
    assert distance[:20].max() < 0.05 < distance[20:].min()
    with pytest.raises(UserError, match="not trained on"):
        score([make_run()], store, tmp_path / "t", ScoreConfig(**SMALL), training=store, workers=1, quiet=True)
    score([run], store, tmp_path / "t", ScoreConfig(**SMALL), workers=1, quiet=True)  # the mistake left nothing
    for folder, given in (("s", None), ("t", store)):
        with pytest.raises(UserError, match="other training"):
            score([run], store, tmp_path / folder, ScoreConfig(**SMALL), training=given, workers=1, quiet=True)


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_files(store, make_run, tmp_path):
    run, whole, out = make_run(), tmp_path / "whole", tmp_path / "killed"
    score([run], store, whole, ScoreConfig(top=6, random=5, part_size=1), workers=1, quiet=True)
    options = ["--data", str(store), "--out", str(out), "--top=6", "--random=5", "--part_size=1", "--workers=1"]
    command = [sys.executable, "-m", "zwicky", "score", str(run), *options]
    for parts in (3, 20):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob("part-*.parquet"))) < parts and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(out.glob("part-*.parquet"))) < 45
    score([run], store, out, ScoreConfig(top=6, random=5, part_size=1), workers=1, quiet=True)
    left = {name for name in files(out) if name.rpartition("/")[2].startswith(".")}
    assert {name: data for name, data in files(out).items() if name not in left} == files(whole)


def test_healpix_keeps_its_digits_beside_a_block_without_images():
    pixel = 2**61 + 1
    some, none = _table([{"_file": "a#0", "_healpix_29": pixel}, {"_file": "a#1", "_healpix_29": None}]), _table([])
    assert pd.concat([some, none])["healpix"].tolist()[0] == pixel


def test_a_part_of_a_store_takes_the_memory_of_its_rows(cutouts, store):
    images = open_images(store, slice(8, 16))
    assert images.rows.base is None
    assert len(images.rows) == 8
    np.testing.assert_array_equal(images[:], cutouts.images[8:16])
