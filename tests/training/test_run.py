"""A run directory resumes with the same settings and data, and refuses others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.training.config import PretrainConfig, TrainConfig
from zwicky.training.run import Run, fingerprint, to_plain


def train(folder):
    """Leave what a run leaves once it has trained."""
    (folder / "checkpoint").mkdir(exist_ok=True)
    (folder / "checkpoint" / "last.pt").write_bytes(b"")


def test_the_same_run_resumes_and_finishes_once(tmp_path):
    config = PretrainConfig(seed=3)
    run = Run(tmp_path / "run", "pretrain", config, 3, "data")
    assert not run.finished
    train(run.path)
    again = Run(tmp_path / "run", "pretrain", PretrainConfig(seed=3), 3, "data")
    again.finish(steps=7)
    assert Run(tmp_path / "run", "pretrain", config, 3, "data").finished
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["kind"], info["seed"], info["steps"], info["schema_version"]) == ("pretrain", 3, 7, 2)
    assert info["versions"]["torch"]
    assert info["seconds"] >= 0


def test_the_settings_written_are_all_of_them(tmp_path):
    config = PretrainConfig(train=TrainConfig(lr=1e-5, weight_decay_end=None))
    Run(tmp_path, "pretrain", config, 0, "data")
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written == to_plain(config)
    assert written["train"]["lr"] == 1e-5


def test_other_settings_are_refused_by_name(tmp_path):
    Run(tmp_path, "pretrain", PretrainConfig(), 0, "data")
    train(tmp_path)
    other = PretrainConfig(seed=1, train=TrainConfig(lr=9.0, weight_decay_end=0.4))
    with pytest.raises(UserError, match=r"seed, train\.lr") as caught:
        Run(tmp_path, "pretrain", other, 1, "data")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds a pretrain run"):
        Run(tmp_path, "finetune", PretrainConfig(), 0, "data")
    with pytest.raises(UserError, match="other data"):
        Run(tmp_path, "pretrain", PretrainConfig(), 0, "other data")


def test_settings_may_change_while_nothing_is_train(tmp_path):
    """A mistake found after the directory was made must not bar the corrected command from it."""
    Run(tmp_path, "pretrain", PretrainConfig(seed=1), 1, "data")
    Run(tmp_path, "pretrain", PretrainConfig(seed=2), 2, "other")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 2
    assert json.loads((tmp_path / "run.json").read_text())["data"] == "other"
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "result.json").write_text("{}")
    with pytest.raises(UserError, match="other settings"):
        Run(tmp_path, "pretrain", PretrainConfig(seed=3), 3, "other")


def test_a_run_killed_between_its_first_two_files_starts_again(tmp_path):
    Run(tmp_path, "pretrain", PretrainConfig(seed=1), 1, "data")
    (tmp_path / "config.yaml").unlink()
    Run(tmp_path, "pretrain", PretrainConfig(seed=2), 2, "data")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 2


def test_foreign_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a zwicky run"):
        Run(tmp_path, "pretrain", PretrainConfig(), 0, "data")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="not a zwicky run"):
        Run(tmp_path / "thesis.tex", "pretrain", PretrainConfig(), 0, "data")


def test_runs_of_another_version_are_refused(tmp_path):
    Run(tmp_path, "pretrain", PretrainConfig(), 0, "data")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(UserError, match="another version"):
        Run(tmp_path, "pretrain", PretrainConfig(), 0, "data")


def test_files_are_compared_by_content_not_by_path(tmp_path):
    first, moved, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    first.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    out = tmp_path / "run"

    def open_run(path):
        return Run(out, "finetune", {"start": str(path)}, 0, "data", {"start": path})

    open_run(first)
    train(out)
    first.unlink()
    assert not open_run(moved).finished
    with pytest.raises(UserError, match=r"other settings \(start\)"):
        open_run(other)
    out.rename(tmp_path / "renamed")
    assert not Run(tmp_path / "renamed", "finetune", {"start": str(moved)}, 0, "data", {"start": moved}).finished


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(UserError, match="seed"):
        Run(tmp_path, "pretrain", PretrainConfig(seed=-1), -1, "data")


def test_the_fingerprint_is_of_what_is_train(make_blobs):
    cutouts, labels = make_blobs(10)
    rows, truth = np.arange(6), labels.of(cutouts.ids[:6])
    first = fingerprint(cutouts, rows, truth)
    assert first == fingerprint(make_blobs(10)[0], rows, truth)
    pixels = cutouts.images.copy()
    pixels[5] += 1
    changed = make_cutouts(pixels, cutouts.bands, ids=cutouts.ids, pixel_scale=[0.2] * 10)
    others = [
        fingerprint(cutouts, np.arange(5), truth[:5]),
        fingerprint(cutouts, rows[::-1], truth),
        fingerprint(cutouts, rows, truth[::-1]),
        fingerprint(changed, rows, truth),
        fingerprint(make_cutouts(cutouts.images, ("g", "r"), ids=cutouts.ids), rows, truth),
    ]
    assert len({first, *others}) == 6
    assert fingerprint(changed, np.arange(5), truth[:5]) == others[0]  # other rows may change
