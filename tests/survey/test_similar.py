"""Neighbours: exact against brute force, by id, position and file, with negative examples, on a page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from sklearn.metrics.pairwise import cosine_similarity

from zwicky.errors import UserError
from zwicky.survey.config import ScoreConfig
from zwicky.survey.index import INDEX
from zwicky.survey.score import score
from zwicky.survey.similar import Features, _separation, similar, write_similar


def write_features(folder, values, size=700):
    rng = np.random.default_rng(1)
    for number, first in enumerate(range(0, len(values), size)):
        part = values[first : first + size]
        np.save(folder / f"features-{number:05d}.npy", part.astype(np.float16))
        ids = [f"o{row}" for row in range(first, first + len(part))]
        sky = {"ra": rng.uniform(0, 360, len(part)), "dec": rng.uniform(-80, 80, len(part))}
        pd.DataFrame({"id": ids, **sky, "score": 0.5}).to_parquet(folder / f"part-{number:05d}.parquet")
    return Features.open(folder)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """Features of 3,000 objects, every tenth of which is of a rare kind, with an offset and scales of their own."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 24))
    values[::10, :3] += 6
    values[::20, 3] += 6  # half of the rare kind is of another one
    return write_features(tmp_path_factory.mktemp("features"), values * rng.uniform(0.1, 3, 24) + 20)


def test_one_example_gives_the_cosine_neighbours(clusters):
    everything = np.concatenate(clusters.arrays).astype(np.float64)
    standard = (everything - everything.mean(0)) / everything.std(0)
    expected = cosine_similarity(standard[[1230]], standard)[0]
    rows, values = similar(clusters, clusters.take(np.array([1230])), count=60)
    assert rows[0] == 1230
    np.testing.assert_allclose(values, expected[rows], atol=1e-2)
    assert expected[rows].min() >= np.sort(expected)[::-1][59] - 1e-2
    assert (np.diff(values) <= 0).all()


def test_negative_examples_turn_the_search(clusters):
    like = clusters.take(np.array([10, 30, 50, 70, 90]))
    rows, _ = similar(clusters, like, count=150)
    assert np.mean(rows % 10 == 0) > 0.9
    rows, _ = similar(clusters, like, clusters.take(np.array([0, 20, 40, 60, 80])), count=100)
    assert np.mean(rows % 20 == 10) > 0.9


@pytest.mark.slow
def test_an_index_finds_what_the_exact_search_finds(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    features = write_features(tmp_path, centres[np.arange(6000) % 30] + 0.3 * rng.normal(size=(6000, 16)), 2500)
    like = features.take(np.array([17]))
    expected, values = similar(features, like)
    found, same = similar(features, like, index_above=5999)
    assert len(np.intersect1d(found, expected)) >= 99
    assert found[0] == expected[0] == 17
    np.testing.assert_allclose(same[:50], values[:50], atol=1e-5)
    built = (tmp_path / INDEX).stat().st_mtime_ns
    assert similar(features, features.take(np.array([5])), index_above=0)[0][0] == 5
    assert (tmp_path / INDEX).stat().st_mtime_ns == built


def test_examples_are_found_by_id_and_position(clusters):
    table = clusters.table(np.array([2999, 5, 1400]))
    assert table["id"].tolist() == ["o2999", "o5", "o1400"]
    near = f"{table['ra'][2]},{table['dec'][2] + 0.4 / 3600}"
    assert clusters.find(["o2999", near, "o5"]).tolist() == [2999, 1400, 5]
    for unknown in ("o3000", f"{table['ra'][2]},{table['dec'][2] + 2 / 3600}"):
        with pytest.raises(UserError, match="within 1"):
            clusters.find(["o5", unknown])


def test_separation_agrees_with_astropy():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"ra": rng.uniform(0, 360, 50), "dec": rng.uniform(-90, 90, 50)})
    expected = SkyCoord(table["ra"], table["dec"], unit="deg").separation(SkyCoord(12.3, 45.6, unit="deg")).arcsec
    np.testing.assert_allclose(_separation(table, 12.3, 45.6), expected, rtol=1e-9)


def test_the_page_shows_the_neighbours(cutouts, survey, make_run, tmp_path):
    _, path = survey
    run, out = make_run(), tmp_path / "scores"
    score([run], path, out, ScoreConfig(features=True, part_size=10), workers=1, quiet=True)
    first = Features.open(out).table(np.array([7]), ("id", "file")).iloc[0]
    assert write_similar(out, [first["id"]], [], tmp_path / "n.csv", data=path, count=9) == 9
    table, page = pd.read_csv(tmp_path / "n.csv"), (tmp_path / "n.html").read_text()
    assert table["id"][0] == first["id"]
    assert table["rank"].tolist() == list(range(1, 10))
    assert page.count("<img") == 9
    np.save(tmp_path / "one.npy", cutouts.images[7])
    write_similar(out, [str(tmp_path / "one.npy")], [], tmp_path / "m.csv", run=run, count=9)
    assert pd.read_csv(tmp_path / "m.csv")["id"].tolist() == table["id"].tolist()


def test_mistakes_are_one_line(store, make_run, tmp_path):
    run, out = make_run(), tmp_path / "scores"
    score([run], store, out, ScoreConfig(), workers=1, quiet=True)
    with pytest.raises(UserError, match="--features true"):
        write_similar(out, ["obj001"], [], tmp_path / "n.csv")
