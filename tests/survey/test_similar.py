"""Neighbours: exact against brute force, by id, position and file, with negative examples, on a page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from sklearn.metrics.pairwise import cosine_similarity

from zwicky.errors import UserError
from zwicky.survey import index
from zwicky.survey.config import ScoreConfig
from zwicky.survey.index import INDEX
from zwicky.survey.score import score
from zwicky.survey.similar import Features, similar, write_similar


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
    everything = clusters.take(slice(None)).astype(np.float64)
    standard = (everything - everything.mean(0)) / everything.std(0)
    expected = cosine_similarity(standard[[1230]], standard)[0]
    rows, values = similar(clusters, clusters.take(np.array([1230])), count=60)
    assert rows[0] == 1230
    assert values.max() <= 1
    np.testing.assert_allclose(values, expected[rows], atol=1e-2)
    assert expected[rows].min() >= np.sort(expected)[::-1][59] - 1e-2
    assert (np.diff(values) <= 0).all()


def test_negative_examples_turn_the_search(clusters):
    like = clusters.take(np.array([10, 30, 50, 70, 90]))
    rows, _ = similar(clusters, like, count=150)
    assert np.mean(rows % 10 == 0) > 0.9
    rows, _ = similar(clusters, like, clusters.take(np.array([0, 20, 40, 60, 80])), count=100)
    assert np.mean(rows % 20 == 10) > 0.9


def test_an_index_is_asked_for_as_many_as_are_wanted(clusters, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("zwicky.survey.similar.INDEX_ABOVE", 0)
    monkeypatch.setattr(index, "CANDIDATES", 20)
    monkeypatch.setattr(index, "is_available", lambda: True)
    monkeypatch.setattr(index, "candidates", lambda *args: np.arange(min(args[-1], 70)))
    scores, out = clusters.tables[0].parent, tmp_path / "n.csv"
    assert write_similar(scores, ["o30"], [], out, count=60) == 60
    assert capsys.readouterr().err == ""
    assert write_similar(scores, ["o30"], [], out, count=80) == len(pd.read_csv(out)) == 70
    assert capsys.readouterr().err == "note: 70 cutouts were found, fewer than the 80 asked for\n"


@pytest.mark.slow
def test_an_index_finds_what_the_exact_search_finds(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    features = write_features(tmp_path, centres[np.arange(6000) % 30] + 0.3 * rng.normal(size=(6000, 16)), 2500)
    like = features.take(np.array([17]))
    expected, values = similar(features, like)
    monkeypatch.setattr("zwicky.survey.similar.INDEX_ABOVE", 5999)
    found, same = similar(features, like)
    assert len(np.intersect1d(found, expected)) >= 99
    assert found[0] == expected[0] == 17
    np.testing.assert_allclose(same[:50], values[:50], atol=1e-5)
    built = (tmp_path / INDEX).stat().st_mtime_ns
    assert similar(features, features.take(np.array([5])))[0][0] == 5
    assert (tmp_path / INDEX).stat().st_mtime_ns == built


def test_examples_are_found_by_id_and_position(clusters):
    table = clusters.table(np.array([2999, 5, 1400]))
    assert table["id"].tolist() == ["o2999", "o5", "o1400"]
    near = f"{table['ra'][2]},{table['dec'][2] + 0.4 / 3600}"
    assert clusters.find(["o2999", near, "o5"]).tolist() == [2999, 1400, 5]
    far = f"{table['ra'][2]},{table['dec'][2] + 2 / 3600}"
    for unknown, message in (("2999", "did you mean 'o2999'"), (far, "within 1")):
        with pytest.raises(UserError, match=message):
            clusters.find(["o5", unknown])


def test_an_id_that_reads_like_a_position_is_an_id(tmp_path):
    features = write_features(tmp_path, np.random.default_rng(0).normal(size=(4, 8)))
    table = pd.read_parquet(features.tables[0])
    table.assign(id=["a", "b", "c", "10.5,-2"], ra=[10.5, 20, 30, 40], dec=-2.0).to_parquet(features.tables[0])
    assert features.find(["10.5,-2", "10.5,-2.0"]).tolist() == [3, 0]


def test_an_example_file_is_seen_as_the_survey_was(cutouts, store, make_run, tmp_path):
    run, out = make_run(), tmp_path / "scores"
    score([run], store, out, ScoreConfig(features=True, views=1), workers=1, quiet=True)
    np.save(tmp_path / "one.npy", cutouts.images[7])
    write_similar(out, [str(tmp_path / "one.npy")], [], tmp_path / "n.csv", run=run, count=3)
    first = pd.read_csv(tmp_path / "n.csv").iloc[0]
    assert first["id"] == "obj007"
    assert first["similarity"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match="is not the first run"):
        write_similar(out, [str(tmp_path / "one.npy")], [], tmp_path / "n.csv", run=make_run(1))


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


def test_examples_are_found_beside_parts_without_a_cutout(tmp_path):
    features = write_features(tmp_path, np.random.default_rng(0).normal(size=(30, 8)), size=10)
    for name in ("features-00000.npy", "features-00001.npy"):
        np.save(tmp_path / name, np.load(tmp_path / name)[:0])
    for path in features.tables[:2]:
        pd.read_parquet(path)[:0].to_parquet(path)
    features = Features.open(tmp_path)
    table = features.table(np.array([3]))
    assert features.find(["o23", f"{table['ra'][0]},{table['dec'][0]}"]).tolist() == [3, 3]
    assert similar(features, features.take(np.array([3])), count=5)[0][0] == 3


def test_an_example_that_the_network_cannot_take_is_named(cutouts, store, make_run, tmp_path):
    run, out = make_run(), tmp_path / "scores"
    score([run], store, out, ScoreConfig(features=True), workers=1, quiet=True)
    image, good, bad = cutouts.images[7], tmp_path / "good.npy", tmp_path / "bad.fits"
    np.save(good, image)
    header = {"BAND0": "g", "BAND1": "r"}
    for pixels, cards, reason in [
        (image, header | {"PIXSCALE": 0.3}, 'has 0.3" a pixel'),
        (np.where(np.arange(16) < 9, np.nan, image), header, "56% of its pixels are invalid"),
        (np.stack([np.full((16, 16), np.nan), image[1]]), header, "lacks the bands g"),
    ]:
        fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(bad, overwrite=True)
        for like, unlike in [([bad], []), ([good, bad], []), ([good], [bad])]:
            with pytest.raises(UserError, match=f"bad.fits {reason}"):
                write_similar(out, [*map(str, like)], [*map(str, unlike)], tmp_path / "n.csv", run=run)


def test_scores_of_other_pixels_or_without_features_are_one_line(cutouts, store, make_run, write_survey, tmp_path):
    (tmp_path / "fits").mkdir()
    for name, features in (("s", True), ("plain", False)):
        score([make_run()], store, tmp_path / name, ScoreConfig(features=features), workers=1, quiet=True)
    with pytest.raises(UserError, match="--features true"):
        write_similar(tmp_path / "plain", ["obj001"], [], tmp_path / "n.csv")
    for data in (write_survey("fits", cutouts, tmp_path / "fits"), tmp_path / "absent"):
        with pytest.raises(UserError, match="--data"):
            write_similar(tmp_path / "s", ["obj001"], [], tmp_path / "n.csv", data=data)


def test_similar_says_which_parts_are_not_scored(store, make_run, tmp_path, capsys):
    config = ScoreConfig(features=True, part_size=8)
    score([make_run()], store, tmp_path / "s", config, part="1/3", workers=1, quiet=True)
    write_similar(tmp_path / "s", ["obj001"], [], tmp_path / "n.csv", count=5)
    assert "2 of 6 parts" in capsys.readouterr().err
