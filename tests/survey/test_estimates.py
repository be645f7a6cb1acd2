"""Estimates from grades: exact where all is graded, intervals that cover the truth, files as people have them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from zwicky.data.cutouts import make_cutouts
from zwicky.data.store import open_store, write_store
from zwicky.errors import UserError
from zwicky.survey.config import ScoreConfig
from zwicky.survey.estimates import estimate, evaluate_grades, known_scores, lens_interval
from zwicky.survey.score import score


@given(size=st.integers(1, 10**8), graded=st.integers(0, 400), share=st.floats(0, 1))
def test_the_interval_is_that_of_scipy_within_what_is_known(size, graded, share):
    graded = min(graded, size)
    lenses = round(share * graded)
    value, low, high = lens_interval(size, graded, lenses)
    assert lenses <= low <= high <= size - (graded - lenses)
    if 0 < graded < size:
        expected = binomtest(lenses, graded).proportion_ci(0.95, method="exact")
        assert value == pytest.approx(size * lenses / graded)
        assert low == pytest.approx(max(lenses, size * expected.low))
        assert high == pytest.approx(min(size * expected.high, size - (graded - lenses)))
    elif graded == size:
        assert value == low == high == lenses


def test_a_survey_that_is_graded_completely_is_known_exactly():
    top, rest = np.array([1, 1, 0, 1, 0, 0.0]), np.array([0, 0, 1, 0.0])
    table = estimate(top, rest, 4, sizes=(2,)).set_index("top")
    assert table.loc[2, ["purity", "purity_low", "purity_high"]].tolist() == [1, 1, 1]
    assert table.loc[2, ["completeness", "completeness_low", "completeness_high"]].tolist() == [0.5] * 3
    assert table.loc[6, "all_lenses"] == 4


def test_a_random_stratum_without_lenses_bounds_the_completeness():
    row = estimate(np.ones(100), np.zeros(500), 10**6, sizes=()).iloc[0]
    assert (row["completeness"], row["completeness_high"]) == (1, 1)
    assert row["completeness_low"] == pytest.approx(100 / (100 + 10**6 * (1 - 0.025 ** (1 / 500))))


def test_strata_are_joined_by_their_worst_cases():
    """With two strata known in part each has the level 0.975, so that both hold together with 0.95."""
    top, rest = np.repeat([1.0, 0.0, np.nan], [50, 25, 25]), np.repeat([1.0, 0.0], [3, 197])
    row = estimate(top, rest, 5000, sizes=()).iloc[0]
    inside, beyond = lens_interval(100, 75, 50, 0.975), lens_interval(5000, 200, 3, 0.975)
    assert row[["purity", "purity_low", "purity_high"]].tolist() == [n / 100 for n in lens_interval(100, 75, 50)]
    ends = zip(inside, (beyond[0], beyond[2], beyond[1]), strict=True)
    complete = row[["completeness", "completeness_low", "completeness_high"]].tolist()
    assert complete == pytest.approx([within / (within + outside) for within, outside in ends])
    total = [one + other for one, other in zip(inside, beyond, strict=True)]
    assert row[["all_lenses", "all_lenses_low", "all_lenses_high"]].tolist() == pytest.approx(total)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prevalence", "graded_share", "random"), [(0.02, 1.0, 500), (0.002, 0.6, 500), (0.0005, 1.0, 2000)]
)
def test_intervals_cover_the_truth_of_simulated_surveys(prevalence, graded_share, random):
    """1,000 surveys of 30,000 objects, graded in part: nominal 95 %, covered in at least 93 %."""
    rng = np.random.default_rng(0)
    covered = {name: [] for name in ("purity", "completeness", "all_lenses")}
    for _ in range(1000):
        lens = rng.random(30_000) < prevalence
        lens = lens[np.argsort(-(rng.normal(size=len(lens)) + 2.5 * lens))]  # best first
        top = np.where(rng.random(400) < graded_share, lens[:400], np.nan).astype(float)
        rest = rng.choice(lens[400:], random, replace=False).astype(float)
        row = estimate(top, rest, len(lens) - 400, sizes=(150,)).iloc[0]
        truth = {"purity": lens[:150].mean(), "all_lenses": lens.sum()}
        truth["completeness"] = lens[:150].sum() / max(lens.sum(), 1)
        for name, value in truth.items():
            covered[name].append(row[f"{name}_low"] - 1e-9 <= value <= row[f"{name}_high"] + 1e-9)
    assert {name: np.mean(values) for name, values in covered.items() if np.mean(values) < 0.93} == {}


@pytest.fixture
def scored(store, make_run, tmp_path):
    out = tmp_path / "scores"
    score([make_run()], store, out, ScoreConfig(top=10, random=20), workers=1, quiet=True)
    return out


def test_grades_of_the_candidates(scored, tmp_path):
    table = open_store(scored / "candidates").table
    is_lens = np.arange(len(table)) < 6
    catalogue = pd.DataFrame({"id": table["id"], "grade_mean": np.where(is_lens, 1.5, 1.0)})
    catalogue.to_csv(tmp_path / "catalogue.csv", index=False)
    text = evaluate_grades(scored, tmp_path / "catalogue.csv")
    written = pd.read_csv(scored / "estimates.csv")
    assert written["purity"].tolist() == [0.6]
    assert written["score"].tolist() == pytest.approx([table["score"][9]])  # of the last that is inspected
    assert "top 10: purity 60.0% [60.0%, 60.0%], 1 lens in 1.7 inspected; completeness 100.0%" in text
    grades = pd.DataFrame({"id": table["id"], "grade": [["A", "X"] if lens else ["B", "X"] for lens in is_lens]})
    grades.explode("grade").to_csv(tmp_path / "grades.csv", index=False)
    assert evaluate_grades(scored, tmp_path / "grades.csv") == text


def test_known_lenses_are_matched_by_position_and_id(cutouts, scored, tmp_path):
    best = open_store(scored / "candidates").table
    pd.DataFrame({"id": best["id"], "grade_mean": 2}).to_csv(tmp_path / "g.csv", index=False)
    inside = best["id"].isin(best["id"][:10])
    positions = cutouts.table[["ra", "dec"]].iloc[:12] + [0, 0.3 / 3600]
    expected = cutouts.table["id"][:12].isin(best["id"][inside]).sum()
    positions.assign(dec=positions["dec"]).to_csv(tmp_path / "sky.csv", index=False)
    text = evaluate_grades(scored, tmp_path / "g.csv", tmp_path / "sky.csv")
    assert f"{expected} of 12 known" in text
    pd.DataFrame({"id": [*cutouts.ids[:12], "elsewhere"]}).to_csv(tmp_path / "ids.csv", index=False)
    assert evaluate_grades(scored, tmp_path / "g.csv", tmp_path / "ids.csv") == text
    best[["id"]].iloc[:10].to_csv(tmp_path / "top.csv", index=False)  # the last has the score of the threshold
    assert "10 of 10 known" in evaluate_grades(scored, tmp_path / "g.csv", tmp_path / "top.csv")


def test_a_known_lens_counts_once_by_its_best_cutout(tmp_path):
    parts = {"ra": [[10.0, 20.0], [10.0, 50.0], [40.0, 20.0]], "score": [[0.5, 0.2], [0.9, 0.6], [0.1, 0.1]]}
    for number, (ra, scores) in enumerate(zip(*parts.values(), strict=True)):
        table = pd.DataFrame({"id": [f"a{number}", "b"], "ra": ra, "dec": 0.0, "score": scores})
        table.to_parquet(tmp_path / f"part-{number:05d}.parquet")
    known = pd.DataFrame({"id": ["x", "y", "b", "z"], "ra": [10.0, 20.0, np.nan, 30.0], "dec": [0.0, 0.0, np.nan, 0.0]})
    known.to_csv(tmp_path / "known.csv", index=False)
    assert known_scores(tmp_path, tmp_path / "known.csv").tolist() == [0.9, 0.2, 0.6]


@pytest.mark.filterwarnings("error")
def test_a_random_stratum_alone_estimates_the_lenses_of_a_survey(store, make_run, cutouts, tmp_path):
    """All of the survey is the random stratum, and a third of it is graded as lenses; no top found any."""
    score([make_run()], store, tmp_path / "s", ScoreConfig(top=0, random=45), workers=1, quiet=True)
    grades = pd.DataFrame({"id": cutouts.ids, "grade_mean": np.where(np.arange(45) < 15, 3, 0)})
    grades.to_csv(tmp_path / "g.csv", index=False)
    grades[:15].to_csv(tmp_path / "known.csv", index=False)
    text = evaluate_grades(tmp_path / "s", tmp_path / "g.csv", tmp_path / "known.csv")
    assert text.splitlines()[2] == "lenses in the survey: 15 [15, 15]; 95 % intervals, given that the grades are right"
    assert pd.read_csv(tmp_path / "s" / "estimates.csv")["known_found"].tolist() == [0]


def test_grades_of_other_objects_are_refused(scored, tmp_path):
    pd.DataFrame({"id": ["x"], "grade_mean": [1]}).to_csv(tmp_path / "g.csv", index=False)
    with pytest.raises(UserError, match="no object of"):
        evaluate_grades(scored, tmp_path / "g.csv")


def test_a_top_that_is_graded_by_rank_is_no_random_sample(cutouts, make_run, tmp_path):
    images = np.random.default_rng(0).normal(1, 1, (200, 2, 16, 16)).astype(np.float32)
    write_store(images, make_cutouts(images, ("g", "r")).table, tmp_path / "store", bands=("g", "r"))
    score([make_run()], tmp_path / "store", tmp_path / "s", ScoreConfig(top=100, random=50), workers=1, quiet=True)
    table = open_store(tmp_path / "s" / "candidates").table
    for rows, warns in ((np.r_[:30, 100:150], True), (np.r_[:100:3, 100:150], False), (np.r_[:150], False)):
        pd.DataFrame({"id": table["id"].iloc[rows], "grade_mean": 0}).to_csv(tmp_path / "g.csv", index=False)
        assert ("warning: " in evaluate_grades(tmp_path / "s", tmp_path / "g.csv")) == warns
