"""The loop: simulated graders judge candidates, their grades are merged, and a network learns from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zwicky import cli, provenance
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, default_split
from zwicky.data.store import open_store, write_store
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.grading.database import read_judgements
from zwicky.grading.labels import learn_from_grades
from zwicky.grading.merge import merge_grades
from zwicky.grading.session import Session
from zwicky.grading.simulated import SimulatedGrader
from zwicky.training.finetune import finetune
from zwicky.training.task import Task

LOOP = {"max_steps": 20, "min_steps": 0, "batch_size": 16, "precision": "float32"}
FAST = [f"--fit.train.{name}={value}" for name, value in LOOP.items()]


@pytest.fixture
def rings(make_candidates):
    """Candidates of which every third is a bright ring, a `lens`; and the truth."""
    cutouts = make_candidates(160)
    is_lens = np.arange(160) % 3 == 0
    y, x = np.mgrid[:16, :16] - 7.5
    cutouts.images[is_lens] += 4 * np.exp(-((np.hypot(x, y) - 5) ** 2))
    return cutouts, dict(zip(cutouts.ids, is_lens.tolist(), strict=True))


def test_the_simulated_grader_errs_at_its_rates_and_anew_in_each_session(make_candidates, tmp_path):
    cutouts = make_candidates(2000)
    truth = dict(zip(cutouts.ids, (np.arange(2000) % 4 == 0).tolist(), strict=True))
    slots = Session(cutouts, SessionConfig(repeat_share=0)).slots
    grader = SimulatedGrader("sim", completeness=0.8, false_positives=0.1)
    for part in (slots[:1000], slots[1000:]):
        grader.grade(part, truth, tmp_path / "sim.db")
    table = read_judgements(tmp_path / "sim.db").sort_values("time")
    votes, lens = table["grade"].isin(["A", "B"]), table["id"].map(truth)
    assert len(table) == 2000
    assert votes[lens].mean() == pytest.approx(0.8, abs=0.06)
    assert votes[~lens].mean() == pytest.approx(0.1, abs=0.03)
    assert abs(np.corrcoef(*np.reshape(votes != lens, (2, 1000)))[0, 1]) < 0.2


def test_grades_become_soft_labels_without_the_random_stratum(rings, tmp_path):
    cutouts, truth = rings
    slots = Session(cutouts, SessionConfig(repeat_share=0)).slots
    for name, seed in (("ana", 1), ("bob", 2), ("cleo", 3)):
        SimulatedGrader(name, 0.8, 0.2, seed).grade(slots[:100], truth, tmp_path / f"{name}.db")
    merge_grades([tmp_path / f"{name}.db" for name in ("ana", "bob", "cleo")], tmp_path / "catalogue.fits")
    unlabelled = default_split(cutouts, Labels({}))
    labels, split = learn_from_grades(tmp_path / "catalogue.fits", cutouts, Labels({}), unlabelled)
    stratum = dict(zip(cutouts.ids, cutouts.table["stratum"], strict=True))
    trained = split.ids("train")
    assert set(trained) == {name for name in slots["id"][:100] if stratum[name] == "top"}
    assert not any(stratum[name] == "random" for name in split.roles)
    task = Task.classification(cutouts, labels)
    assert task.classes == ("nonlens", "lens")
    rows = cutouts.rows_of(trained)
    np.testing.assert_allclose(task.learned[rows].sum(1), 1, atol=1e-6)
    assert len(np.unique(task.learned[rows, 1])) > 4
    grades = pd.read_csv(tmp_path / "grades.csv", dtype={"id": str})
    mean = grades["grade"].map({"A": 3, "B": 2, "C": 1, "X": 0}).groupby(grades["id"]).mean()
    np.testing.assert_allclose(task.learned[rows, 1], mean[trained] / 3, atol=1e-6)


def test_labels_and_roles_of_the_store_stay(rings, tmp_path):
    cutouts, _ = rings
    ids = cutouts.ids[cutouts.table["stratum"] == "top"]
    table = pd.DataFrame({"id": ids[:6], "grade_mean": [3, 0, 3, 0, 1, 1.5]})
    table.to_csv(tmp_path / "catalogue.csv", index=False)
    roles = dict.fromkeys(cutouts.ids, "unlabelled") | {ids[0]: "test", ids[7]: "train"}
    own = Labels({ids[0]: "no", ids[7]: "arc"}, positive="arc")
    given = Split("holdout", roles, {ids[0]: "twins"})
    labels, split = learn_from_grades(tmp_path / "catalogue.csv", cutouts, own, given)
    assert [labels.values[name] for name in ids[[0, 1, 4, 5, 7]]] == ["arc", "no", "no", "arc", "arc"]
    assert split.roles[ids[0]] == "test"
    assert split.groups == {ids[0]: "twins"}
    without_role = {name: role for name, role in roles.items() if name != ids[1]}  # as the twin of a test object has
    _, other = learn_from_grades(tmp_path / "catalogue.csv", cutouts, own, Split("holdout", without_role))
    assert set(split.ids("train")) - set(other.ids("train")) == {ids[1]}
    table.assign(stratum=["top"] * 5 + ["random"]).to_csv(tmp_path / "catalogue.csv", index=False)
    _, without = learn_from_grades(tmp_path / "catalogue.csv", cutouts, own, Split("holdout", roles))
    assert set(split.ids("train")) - set(without.ids("train")) == {ids[5]}
    assert set(split.ids("train")) == set(ids[[1, 2, 3, 4, 5, 7]])
    for text, message in [("id,grade\na,1\n", "grade_mean"), ("id,grade_mean\nelsewhere,1\n", "no graded object")]:
        (tmp_path / "wrong.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            learn_from_grades(tmp_path / "wrong.csv", cutouts, own, Split("holdout", roles))


def test_grade_learn_look_again(rings, tmp_path, monkeypatch, capsys):
    """The commands of docs/grading.md in their order, with two simulated graders in place of people at the page."""
    monkeypatch.chdir(tmp_path)
    cutouts, truth = rings
    few = Labels({name: "lens" if truth[name] else "nonlens" for name in cutouts.ids[:24]})
    write_store(cutouts.images, cutouts.table[["id", "ra", "dec"]], "survey", bands=cutouts.bands, labels=few)
    Path("small.yaml").write_text(
        "backbone: {name: vit_tiny, options: {patch_size: 4, width: 32, depth: 2, heads: 2}}\nnormalisation: {}\n"
        "fit: {head: random, train: {lr: 0.01}}\n"
    )
    options = ["--views", "1", "--top", "60", "--random", "40", "--workers", "1"]
    cli.run(["finetune", "small.yaml", "--data", "survey", "--out", "first", *FAST])
    cli.run(["score", "first", "--data", "survey", "--out", "scores", *options])
    candidates = open_store("scores/candidates")
    for seed, name in enumerate(("ana", "bob")):
        slots = Session(candidates, SessionConfig(repeat_share=0, seed=seed)).slots
        SimulatedGrader(name, 0.95, 0.02, seed).grade(slots, truth, Path(f"{name}.db"))
    cli.run(["grade", "scores/candidates", "--merge", "ana.db", "bob.db", "--out", "catalogue.csv"])
    assert "Krippendorff's alpha" in capsys.readouterr().out
    cli.run(["evaluate", "scores", "--grades", "catalogue.csv"])
    assert pd.read_csv("scores/estimates.csv")["purity"].iloc[-1] > 0.6  # a third of all are lenses
    capsys.readouterr()
    cli.run(["finetune", "first", "--data", "survey", "--grades", "catalogue.csv", "--out", "second", *FAST])
    following = capsys.readouterr().out.partition("next: zwicky ")[2].split()
    cli.run(following)
    assert "accuracy" in capsys.readouterr().out
    cli.run(["finetune", "first", "--data", "scores/candidates", "--grades", "catalogue.csv", "--out", "alone", *FAST])
    assert "next: zwicky score alone --data scores/candidates" in capsys.readouterr().out  # nothing to test on
    cli.run(["score", "second", "--data", "survey", "--out", "scores2", *options])
    everything = np.arange(len(cutouts))
    before, trained = (
        cutouts.ids[provenance.find_leaked(cutouts, everything, provenance.read(run))] for run in ("first", "second")
    )
    in_stratum = candidates.ids[candidates.table["stratum"] == "random"]
    assert set(trained) & set(in_stratum) <= set(before)
    scores = pd.read_parquet("scores2/part-00000.parquet").set_index("id")["score"].drop(trained, errors="ignore")
    is_lens = scores.index.map(truth).to_numpy(bool)
    assert scores[is_lens].mean() > scores[~is_lens].mean()


def test_training_refuses_the_random_stratum(rings, tmp_path):
    from zwicky.training.config import FinetuneConfig

    cutouts, truth = rings
    labels = Labels({name: "lens" if lens else "nonlens" for name, lens in truth.items()})
    with pytest.raises(UserError, match="random stratum"):
        finetune(FinetuneConfig(), None, cutouts, labels, default_split(cutouts, labels), tmp_path / "run", quiet=True)
