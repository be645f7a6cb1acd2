"""Curves, pictures, health, numbers in words."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_curve

from zwicky.report import words
from zwicky.report.health import health
from zwicky.report.pictures import LARGEST, data_uri, to_rgba
from zwicky.report.roc import Scored, band


def draw(seed: int, count: int = 200, levels: int | None = None) -> Scored:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    score = rng.normal(positive * 1.2)
    if levels:
        score = np.round(score * levels) / levels
    return Scored(positive, score, np.array([f"g{index // 2}" for index in range(count)], dtype=object))


@pytest.mark.parametrize("levels", [None, 2])
def test_roc_is_that_of_scikit_learn(levels: int | None) -> None:
    one = draw(0, levels=levels)
    fpr, recall, _ = roc_curve(one.positive, one.score, drop_intermediate=False)
    grid = np.linspace(0.003, 0.997, 101)  # off the steps, where a vertical line has no single value
    np.testing.assert_allclose(band([one], grid, repeats=2).recall, np.interp(grid, fpr, recall), atol=1e-12)


def test_band_against_a_literal_bootstrap() -> None:
    draws, grid = [draw(1, 60), draw(2, 60)], np.array([0.05, 0.2, 0.5])
    found = band(draws, grid, repeats=1500, seed=3)
    rng, names, samples = np.random.default_rng(4), sorted(set(draws[0].group)), []
    for _ in range(1500):
        picked = rng.choice(names, len(names))
        rows = np.concatenate([np.flatnonzero(draws[0].group == name) for name in picked])
        curves = []
        for index in rng.integers(2, size=2):
            fpr, recall, _ = roc_curve(draws[index].positive[rows], draws[index].score[rows], drop_intermediate=False)
            curves.append(np.interp(grid, fpr, recall))
        samples.append(np.mean(curves, axis=0))
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found.low, low, atol=0.05)
    np.testing.assert_allclose(found.high, high, atol=0.05)
    assert (found.low <= found.recall).all()
    assert (found.recall <= found.high).all()


def test_roc_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        band([Scored(np.ones(3, dtype=bool), np.zeros(3), np.array(["a", "b", "c"], dtype=object))], np.array([0.5]))


def test_eight_bit_images_keep_their_values() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 7, 9), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgba(image, ("R", "G", "B"))[..., :3], image.transpose(1, 2, 0))
    uri = data_uri(image, ("R", "G", "B"))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    np.testing.assert_array_equal(np.asarray(picture), image.transpose(1, 2, 0))


def test_the_longest_wavelength_is_red() -> None:
    image = np.zeros((3, 5, 5), np.uint8)
    image[2] = 200  # i band
    assert to_rgba(image, ("g", "r", "i"))[2, 2].tolist() == [200, 0, 0, 255]
    assert to_rgba(image, ("one", "two", "three"))[2, 2].tolist() == [0, 0, 200, 255]  # names say nothing: as they come


def test_one_band_is_grey() -> None:
    image = np.arange(25, dtype=np.uint8).reshape(1, 5, 5)
    assert (to_rgba(image, ("gray",))[..., :3] == image[0][..., None]).all()


@given(
    st.integers(1, 5), st.sampled_from(["float32", "uint16"]), st.floats(0, 1), st.floats(1e-6, 1e6), st.integers(0, 9)
)
def test_any_image_becomes_a_picture(bands: int, kind: str, invalid: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = (scale * rng.exponential(size=(bands, 12, 10))).clip(0, 65535).astype(kind)
    if kind == "float32":
        image[:, rng.random((12, 10)) < invalid] = np.nan
    picture = to_rgba(image, [f"band {index}" for index in range(bands)])
    assert picture.shape == (12, 10, 4)
    np.testing.assert_array_equal(picture[..., 3] == 255, np.isfinite(image[0].astype(float)))


@given(st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_a_picture_does_not_depend_on_unit_or_level(scale: float, level: float) -> None:
    image = np.random.default_rng(1).exponential(size=(3, 16, 16)).astype(np.float32)
    other = (scale * (image + level)).astype(np.float32)
    difference = to_rgba(image, "abc").astype(int) - to_rgba(other, "abc")
    assert np.abs(difference).max() <= 1


def test_large_cutouts_are_averaged_down() -> None:
    uri = data_uri(np.random.default_rng(0).normal(size=(1, 300, 200)).astype(np.float32), ("gray",))
    assert max(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size) == LARGEST


def rows(**columns: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_health() -> None:
    t = np.linspace(0, 1, 50)
    good = {
        "loss": 5 - 2 * t,
        "embedding_std": 0.04 + 0 * t,
        "rankme": 20 + t,
        "teacher_kl": 1 - 0.5 * t,
        "marginal_entropy": 4 + 0 * t,
    }
    assert health(rows(**good)).state == "healthy"
    assert health(rows(**good | {"embedding_std": 0.05 * (1 - t) ** 3})).state == "collapsed"
    assert health(rows(**good | {"rankme": 30 - 29.5 * t})).state == "collapsed"
    assert health(rows(**good | {"rankme": 100 - 80 * t})).state == "doubtful"
    assert health(rows(**good | {"marginal_entropy": 4 * (1 - t) ** 4})).state == "collapsed"
    assert health(rows(**good | {"loss": 5 + 0 * t, "teacher_kl": 0.01 + 0 * t})).state == "collapsed"
    assert health(rows(**good | {"loss": 5 + t})).state == "healthy"  # the teacher grew less sure, the student follows
    assert health(rows(**good | {"loss": 5 + 0 * t, "teacher_kl": 1 + 0 * t})).state == "doubtful"
    assert health(rows(**good | {"loss": np.where(t > 0.9, np.nan, 5.0)})).state == "collapsed"
    assert health(rows(**good)[:2]).state == "unknown"
    warned = health(rows(**good), ["the loss stands still"])
    assert warned.state == "collapsed"
    assert "the loss stands still" in warned.reasons[0]


def test_gauges_logged_now_and_then_are_judged_on_what_was_logged() -> None:
    sparse = [{"loss": 5 - step / 20, "rankme": 40 - step * 0.36 if step % 10 == 0 else None} for step in range(100)]
    assert health(sparse).state == "doubtful"  # 40 → 8


@pytest.mark.parametrize(
    ("value", "metric", "signed", "text"),
    [
        (0.12345, "auc", False, "0.123"),
        (-0.0204, "auc", True, "−0.020"),
        (-0.0001, "auc", True, "0.000"),
        (0.917, "accuracy", False, "91.7"),
    ],
)
def test_numbers(value: float, metric: str, signed: bool, text: str) -> None:
    assert words.number(value, metric, signed) == text


def test_counts_and_times() -> None:
    assert words.count(5575) == "5\u2009575"
    assert words.count(None) == "–"
    assert [words.duration(s) for s in (3.21, 75, 600, 9000, None)] == ["3.2 s", "75 s", "10 min", "2.5 h", "–"]
    assert words.plural(1, "draw") == "1 draw"
