"""Curves agree with the tables and with scikit-learn; drawings and pictures show what the arrays hold."""

import base64
import io
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_curve

from zwicky.evaluation.bootstrap import Replicates
from zwicky.report import figures, tables
from zwicky.report.data import RATES, load_results

from .conftest import make_run


@pytest.fixture(scope="module")
def data(run):
    return load_results(run)


def test_roc_is_the_mean_of_scikit_learns_curves(data):
    for labels, curves in data.roc.items():
        for arm, curve in curves.items():
            expected = []
            for cell in data.predicted[labels][arm.name]:
                fpr, recall, _ = roc_curve(cell.truth, cell.predicted[:, 1], drop_intermediate=False)
                expected.append(np.interp(data.fpr, fpr, recall))
            off_steps = np.abs(data.fpr * data.n_negatives - np.round(data.fpr * data.n_negatives)) > 1e-6
            np.testing.assert_allclose(curve.value[off_steps], np.mean(expected, axis=0)[off_steps], atol=1e-12)
            assert (curve.low <= curve.value).all()
            assert (curve.value <= curve.high).all()


def test_roc_bands_and_summary_intervals_agree(run):
    """The area under each replicate's curve has the interval of the AUC in summary.csv."""
    data = load_results(run)
    data.__dict__["fpr"] = np.linspace(0, 1, 2001)  # fine enough to integrate
    for labels, replicates in data.roc_replicates.items():
        both = (replicates.values, replicates.samples)
        areas = ({arm: np.trapezoid(curve, data.fpr, axis=-1) for arm, curve in of.items()} for of in both)
        area = Replicates(replicates.bootstrap, *areas)
        for arm in data.roc[labels]:
            summary, interval = data.estimate(arm, labels, "auc"), area.interval(arm.name)
            ends = [(i.value, i.low, i.high) for i in (interval, summary)]
            assert ends[0] == pytest.approx(ends[1], abs=1e-3)


def test_purity_follows_from_the_band(tmp_path):
    data = load_results(make_run(tmp_path, objects=300))
    table = tables.purity_table(data).reset_index()
    rate = RATES[0]
    curve = data.roc[400][data.primary]
    recall = np.array([band[np.searchsorted(data.fpr, rate)] for band in (curve.value, curve.low, curve.high)])
    expected = 100 * recall * 1e-3 / (recall * 1e-3 + rate * (1 - 1e-3))
    numbers = [float(text) for text in re.findall(r"[\d.]+", table.filter(like="1\u2009000").iloc[0, 0])]
    np.testing.assert_allclose(numbers, expected, rtol=0.05)
    assert table.iloc[0]["False-positive rate"].startswith("0.1\n")


def test_fits_without_labels_for_selection_have_curves(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with_selection = figures.finetuning(load_results(copy))
    for path in copy.glob("cells/*/metrics.csv"):
        pd.read_csv(path).drop(columns="select_loss").to_csv(path, index=False)
    alone = figures.finetuning(load_results(copy))
    assert [panel.description for panel in alone] == [panel.description for panel in with_selection]
    assert alone[0].svg.count("<path") < with_selection[0].svg.count("<path")


def test_tables_of_confusion_and_correspondence(data):
    for _, shares, counts in tables.confusion(data):
        np.testing.assert_allclose(shares.sum(axis=1), 100)
        np.testing.assert_allclose(shares, 100 * counts / counts.sum(axis=1, keepdims=True))
        assert counts.sum() == 80
    assert tables.correspondence(data)["pretrained"].tolist() == ["31.0\n[29.0, 33.0]"] * 4


def test_match_lines_show_the_matches(data):
    arrays = np.load(data.path / "pretrain/dino-vit-s0/correspondence.npz", allow_pickle=False)
    for k, panel in enumerate(figures.matches(arrays, (4, 4), ("g", "r", "i"), "DINO")):
        counted = arrays["partner"][k] >= 0
        correct = counted & (arrays["match"][k] == arrays["partner"][k])
        assert f"{correct.sum()} of {counted.sum()} regions correct" in panel.description
        shown = np.flatnonzero(counted & arrays["informative"][k])
        assert len(shown) <= figures.MATCHES_SHOWN
        assert ("var(--good)" in panel.svg) == correct[shown].any()
        assert ("var(--bad)" in panel.svg) == (~correct[shown]).any()
        assert "attention" in panel.svg


def test_eight_bit_images_keep_their_values():
    image = np.random.default_rng(0).integers(0, 256, (3, 7, 9), dtype=np.uint8)
    uri = figures.data_uri(image, ("R", "G", "B"))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    np.testing.assert_array_equal(np.asarray(picture), image.transpose(1, 2, 0)[..., [0, 1, 2]])


def test_cutouts_are_shown_in_order(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    images = np.random.default_rng(0).normal(size=(5, 3, 9, 9))
    figures.show_cutouts(images, "gri", titles="abcde", colours=["red"] * 5, columns=3)
    axes = pyplot.gcf().axes
    assert [axis.get_title() for axis in axes] == [*"abcde", ""]
    for axis, image in zip(axes, images, strict=False):
        np.testing.assert_array_equal(axis.images[0].get_array(), figures.to_rgba(image, "gri"))
    figures.show_cutouts(images[:0], "gri")
    pyplot.close("all")


def test_longest_wavelength_is_red_and_one_band_is_grey():
    image = np.zeros((3, 5, 5), np.uint8)
    image[2] = 200  # the i band
    bands = "g,r,i HSC-G,HSC-R,HSC-I F115W,F277W,F444W NIR_Y,NIR_J,NIR_H J,H,Ks g_band,r_band,i_band b,v,vis"
    for names in bands.split():
        assert figures.to_rgba(image, names.split(","))[2, 2].tolist() == [200, 0, 0, 255]
    assert figures.to_rgba(image, ("one", "two", "three"))[2, 2].tolist() == [0, 0, 200, 255]  # unknown names: in order
    assert (figures.to_rgba(image[2:], ("gray",))[..., :3] == 200).all()


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_invalid_pixels_are_transparent(bands):
    image = np.random.default_rng(bands).exponential(size=(bands, 12, 10)).astype(np.float32)
    image[:, :3] = np.nan
    picture = figures.to_rgba(image, [f"band {k}" for k in range(bands)])
    np.testing.assert_array_equal(picture[..., 3] == 255, np.isfinite(image[0]))


@given(st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_pictures_do_not_depend_on_unit_or_sky_level(scale, level):
    image = np.random.default_rng(1).exponential(size=(3, 16, 16)).astype(np.float32)
    other = (scale * (image + level)).astype(np.float32)
    assert np.abs(figures.to_rgba(image, "abc").astype(int) - figures.to_rgba(other, "abc")).max() <= 1
