"""Time budgets: steps follow from measured times, and a run with the same budget keeps its steps."""

import time

import pytest
import yaml

from zwicky import cli
from zwicky.errors import UserError
from zwicky.training import budget
from zwicky.training.budget import LEAST_STEPS, RESERVE, TRIAL_STEPS, Fits, fits_of, spend
from zwicky.training.config import FinetuneConfig, FitConfig, PretrainConfig, TrainConfig
from zwicky.training.run import to_plain


def trial_of(trains, seconds, overhead, clock):
    def trial(folder):
        assert {steps for train in trains for steps in (train.min_steps, train.max_steps)} == {TRIAL_STEPS}
        clock[0] += overhead + TRIAL_STEPS * seconds
        return seconds

    return trial


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("minutes", [1, 5, 30])
def test_what_is_bought_takes_the_budget(tmp_path, clock, minutes):
    """The time of all fits, overheads and trials is the budget without the reserve; ratios of steps are kept."""
    config = PretrainConfig(train=TrainConfig(min_steps=1000, max_steps=1000))
    fast, slow = both = config.train, TrainConfig(min_steps=200, max_steps=200)
    trials = [(3, trial_of(both, 0.2, 0.5, clock)), (1, trial_of(both, 0.4, 1.0, clock))]
    used = [Fits(fast, 500, [(1, trial_of(both, 0.05, 2.0, clock))]), Fits(slow, 500, trials)]
    spend(minutes, config, tmp_path, lambda folder: used, other=3.0, images=3840)
    assert config.budget_minutes == minutes
    other = 3.0 + 3840 * 0.4 / (3 * 128)  # a prediction is a third of a step of the last trial
    total = clock[0] + other + (2.0 + 3 * 0.5 + 1.0) + fast.max_steps * 0.05 + slow.max_steps * (3 * 0.2 + 0.4)
    assert total == pytest.approx(60 * minutes * (1 - RESERVE), abs=1.1)
    assert fast.max_steps / slow.max_steps == pytest.approx(5, rel=0.05)
    wanted = fast.max_steps
    spend(100 * minutes, config, tmp_path, lambda folder: used, longest=1.0)
    assert fast.max_steps == wanted


def test_students_are_counted_with_their_teachers_or_by_themselves():
    fit, trials = FitConfig(self_training=2), [(10, 2, "polar"), (10, 0, "vit")]
    (both,) = fits_of(fit, 100, 5000, trials)
    assert (both.train, both.images, both.trials) == (fit.train, 100, [(30, "polar"), (10, "vit")])
    fit.student = TrainConfig(max_steps=1600)
    teachers, students = fits_of(fit, 100, 5000, trials)
    assert (teachers.images, teachers.trials) == (100, [(10, "polar"), (10, "vit")])
    assert (students.train, students.images, students.trials) == (fit.student, 5000, [(20, "polar")])
    assert len(fits_of(fit, 100, 5000, trials[1:])) == 1


def test_too_small_a_budget_is_said_and_steps_remain(tmp_path, clock, capsys):
    config = PretrainConfig()
    used = [Fits(config.train, 64, [(1, trial_of([config.train], 9.0, 1.0, clock))])]
    spend(0.1, config, tmp_path, lambda folder: used)
    assert config.train.min_steps == config.train.max_steps == LEAST_STEPS
    assert "too few" in capsys.readouterr().err


def test_the_same_budget_in_the_same_run_measures_nothing(tmp_path):
    bought = FinetuneConfig(budget_minutes=3)
    bought.fit.train.min_steps = bought.fit.train.max_steps = 77
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(bought)))
    config = FinetuneConfig()
    spend(3, config, tmp_path, lambda folder: pytest.fail("measured again"))
    assert (config.fit.train.min_steps, config.fit.train.max_steps, config.budget_minutes) == (77, 77, 3)
    with pytest.raises(ZeroDivisionError):  # another one measures
        spend(4, config, tmp_path, lambda folder: 1 / 0)


def test_a_budget_needs_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "world_size", lambda: 2)
    with pytest.raises(UserError, match="one process"):
        spend(1, PretrainConfig(), tmp_path, lambda folder: [])


def test_commands_keep_the_steps_they_bought(tmp_path, store_of_blobs, capsys):
    store = ["--data", str(store_of_blobs(48))]
    polar = ["polar-finetune", "--size", "smoke", "--views.crop", "16", "--fit.train.evaluations=1", *store]
    polar += ["--minutes", "0.02", "--out", str(tmp_path / "fit")]
    cli.run(["finetune", *polar])
    config = yaml.safe_load((tmp_path / "fit" / "config.yaml").read_text())
    steps = config["fit"]["train"]["max_steps"]
    assert steps == config["fit"]["train"]["min_steps"] >= LEAST_STEPS
    assert config["budget_minutes"] == 0.02
    assert f"fit.train {steps}" in capsys.readouterr().err
    written = (tmp_path / "fit" / "network.safetensors").stat().st_mtime
    cli.run(["finetune", *polar])  # finished: read back
    assert (tmp_path / "fit" / "network.safetensors").stat().st_mtime == written
    cli.run(["finetune", str(tmp_path / "fit" / "config.yaml"), *store, "--out", str(tmp_path / "again")])
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text()) == config
