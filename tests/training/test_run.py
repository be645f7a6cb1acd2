"""A run directory resumes with the same settings and data, and refuses others."""

import json

import numpy as np
import pytest
import yaml

from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
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
    assert info["seconds"] >= 0


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
