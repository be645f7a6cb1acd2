"""A run directory resumes with the same settings and data, and refuses others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from zwicky import provenance
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.provenance import check_no_leakage, find_leaked, record
from zwicky.training.checkpoint import save_weights
from zwicky.training.config import PretrainConfig, TrainConfig
from zwicky.training.run import Run, fingerprint


def pretraining(path, seed=0, data="data", **changes):
    return Run(path, "pretrain", PretrainConfig(seed=seed, **changes), seed, data)


def trained(run):
    """Leave what a run leaves once it has trained."""
    (run.path / "checkpoint").mkdir()
    (run.path / "checkpoint" / "last.pt").write_bytes(b"")
    return run


def test_the_same_run_resumes_and_finishes_once(tmp_path):
    assert not trained(pretraining(tmp_path / "run", 3)).finished
    pretraining(tmp_path / "run", 3).finish(steps=7)
    assert pretraining(tmp_path / "run", 3).finished
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["kind"], info["seed"], info["steps"], info["schema_version"]) == ("pretrain", 3, 7, 2)
    assert info["versions"]["torch"]


def test_time_is_that_of_all_sessions(tmp_path):
    """A resumed fit says how long it took itself; a benchmark writes its time as it goes."""
    pretraining(tmp_path / "fit").finish(seconds=500.0)
    assert pretraining(tmp_path / "fit").info["seconds"] == pytest.approx(500, abs=0.2)
    run = pretraining(tmp_path / "cells")
    run._started -= 100
    run.save_seconds()
    again = pretraining(tmp_path / "cells")
    again.finish()
    assert again.info["seconds"] >= 100


def test_other_settings_are_refused_by_name(tmp_path):
    trained(pretraining(tmp_path))
    with pytest.raises(UserError, match=r"seed, train\.lr"):
        pretraining(tmp_path, 1, train=TrainConfig(lr=9.0, weight_decay_end=0.4))
    with pytest.raises(UserError, match="holds a pretrain run"):
        Run(tmp_path, "finetune", PretrainConfig(), 0, "data")
    with pytest.raises(UserError, match="other data"):
        pretraining(tmp_path, data="other data")


def test_settings_may_change_until_something_is_trained(tmp_path):
    """A mistake found after the directory was made, or a kill between its first files, must not block it."""
    pretraining(tmp_path, 1)
    pretraining(tmp_path, 2, "other")
    (tmp_path / "config.yaml").unlink()
    pretraining(tmp_path, 3, "other")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 3
    assert json.loads((tmp_path / "run.json").read_text())["data"] == "other"
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "result.json").write_text("{}")
    with pytest.raises(UserError, match="other settings"):
        pretraining(tmp_path, 4, "other")


def test_other_directories_versions_and_seeds_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(UserError, match="not a zwicky run"):
            pretraining(path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    path = pretraining(tmp_path / "run").path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="another version"):
        pretraining(tmp_path / "run")
    with pytest.raises(UserError, match="seed"):
        pretraining(tmp_path / "negative", -1)


def test_files_are_compared_by_content_not_by_path(tmp_path):
    first, moved, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    for path, content in ((first, b"weights"), (moved, b"weights"), (other, b"other weights")):
        path.write_bytes(content)

    def finetuning(path):
        return Run(tmp_path / "run", "finetune", {"start": str(path)}, 0, "data", {"start": path})

    trained(finetuning(first))
    first.unlink()
    assert not finetuning(first).finished
    assert not finetuning(moved).finished
    with pytest.raises(UserError, match=r"other settings \(start\)"):
        finetuning(other)


def test_the_fingerprint_is_of_the_rows_that_are_used(make_blobs):
    cutouts, labels = make_blobs(10)
    rows, truth = np.arange(6), labels.of(cutouts.ids[:6])
    pixels = cutouts.images.copy()
    pixels[5] += 1
    changed = make_cutouts(pixels, cutouts.bands, ids=cutouts.ids, pixel_scale=[0.2] * 10)
    fingerprints = [
        fingerprint(cutouts, rows, truth),
        fingerprint(cutouts, np.arange(5), truth[:5]),
        fingerprint(cutouts, rows[::-1], truth),
        fingerprint(cutouts, rows, truth[::-1]),
        fingerprint(changed, rows, truth),
        fingerprint(make_cutouts(cutouts.images, ("g", "r"), ids=cutouts.ids), rows, truth),
    ]
    assert len(set(fingerprints)) == 6
    assert fingerprint(make_blobs(10)[0], rows, truth) == fingerprints[0]
    assert fingerprint(changed, np.arange(5), truth[:5]) == fingerprints[1]  # other rows may change


def store(ids, seed, images=None, **columns):
    if images is None:
        images = np.random.default_rng(seed).normal(size=(len(ids), 1, 4, 4)).astype(np.float32)
    return make_cutouts(images, ("g",), ids=ids, **columns)


def saved(folder, objects, **how):
    """These training objects as a weights file has them."""
    path = folder / "any name"
    save_weights(path, {"w": torch.zeros(3)} | ({} if how else objects.tensors()), objects.metadata(**how))
    return provenance.read(path)


def test_pixels_and_positions_are_evidence_in_any_store(tmp_path):
    first = store(["a", "b", "c", "d"], 0, ra=[10.0, 20.0, 359.9999, None], dec=[0.0, 60.0, -5.0, None])
    objects = saved(tmp_path, record(first, {"pretrain": np.array([0, 1]), "fit": np.array([1, 2])}))
    of_use, fitted = objects.of_use, objects.as_use("fit").of_use
    uses = (objects, of_use("fit", "select"), of_use("pretrain"), fitted("fit"), fitted("pretrain"))
    leaked = ["".join(first.ids[find_leaked(first, np.arange(4), used)]) for used in uses]
    assert leaked == ["abc", "bc", "ab", "abc", ""]
    nowhere = record(store(["a", "b"], 0, ra=[1.0, 3.0], dec=[2.0, 95.0]), {"fit": np.arange(2)}).records["dec"]
    assert (nowhere == provenance.NOWHERE).tolist() == [False, True]
    images = np.random.default_rng(1).normal(size=(6, 1, 4, 4)).astype(np.float32)
    images[1] = first.images[1]
    # x2: 0.9″ from a; x3: 1.2″ from b (a small step in ra at dec 60°); x4: 0.7″ from c, across 0°
    ra, dec = [10.0, 20.0 + 2.4 / 3600, 0.0001 - 0.00005], [0.9 / 3600, 60.0, -5.0]
    positions = {"ra": [None, None, *ra, None], "dec": [None, None, *dec, None]}
    other = store(["a", "x1", "x2", "x3", "x4", "d"], 1, images, **positions)
    assert find_leaked(other, np.arange(6), objects).tolist() == [False, True, True, False, True, False]
    with pytest.raises(UserError, match="leakage: the network was trained on 3 objects for the test"):
        check_no_leakage(other, np.arange(6), objects, "the test")
    check_no_leakage(other, np.array([0, 3, 5]), objects, "the test")
    check_no_leakage(other, np.array([], dtype=int), objects, "the test")


def test_ids_are_evidence_within_one_store_only():
    """Files of two folders often have the same names; a simulation has no pixel hashes before it is rendered."""
    train, test = store(["0.npy", "1.npy"], 0), store(["0.npy", "1.npy"], 1)
    assert not find_leaked(test, np.arange(2), record(train, {"fit": np.arange(2)})).any()
    first, second = (store([f"sim-{k}" for k in range(n)], 0) for n in (3, 5))
    for cutouts in (first, second):
        cutouts.table["pixel_hash"] = None
        cutouts.metadata["simulation"] = "pop, seed 3"
    objects = record(first, {"pretrain": np.arange(3)})
    assert find_leaked(second, np.arange(5), objects).tolist() == [True] * 3 + [False] * 2
    other = replace(second, metadata={"simulation": "pop, seed 4"})
    assert not find_leaked(other, np.arange(5), objects).any()


def test_a_weights_file_holds_its_record(tmp_path, monkeypatch):
    """As a tensor, or in the metadata; without either, the history is unknown."""
    first, second = store(["a", "b"], 0, ra=[1.0, None], dec=[2.0, 95.0]), store(["a"], 1)
    before = replace(record(first, {"pretrain": np.arange(2)}), unknown=("timm/vit",))
    objects = record(second, {"fit": np.arange(1)}, before)
    for how in ({}, {"with_records": True}):
        again = saved(tmp_path, objects, **how)
        assert np.array_equal(again.records, objects.records)
        assert again.unknown == ("timm/vit",)
        assert find_leaked(first, np.arange(2), again).all()
        assert find_leaked(second, np.arange(1), again).all()
    assert provenance.read(None).warning is None
    save_file(load_file(tmp_path / "any name"), tmp_path / "weights alone")
    for source in (str(tmp_path), "timm/vit_small", str(tmp_path / "weights.pt"), str(tmp_path / "weights alone")):
        assert provenance.read(source).unknown == (source,)
    monkeypatch.setattr(provenance, "MAX_METADATA", 10)
    assert saved(tmp_path, objects, with_records=True).unknown


def test_a_record_is_small_and_read_when_it_is_asked_for(tmp_path):
    """A million objects are 17 MB, which loading weights does not touch."""
    objects = provenance.TrainingObjects(np.zeros(10**6, provenance.RECORD))
    again = saved(tmp_path, objects)
    assert (tmp_path / "any name").stat().st_size < 17.1e6
    assert len(again.records) == 10**6
    assert again.records.base is not None  # mapped from the file, not copied
