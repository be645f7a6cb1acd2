"""The audit finds what was planted, and nothing where nothing is; its AUC and interval against other ways."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from zwicky.data import audit as audit_module
from zwicky.data import shortcuts as shortcuts_module
from zwicky.data.audit import audit, audit_text, image_statistics
from zwicky.data.cutouts import Cutouts, make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.shortcuts import category_scores, out_of_fold, separation, trivial_features

COUNT = 300


def sky(seed: int = 0, count: int = COUNT, bands: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 1, (count, bands, 16, 16)).astype(np.float32)


def halves(cutouts: Cutouts, names: tuple[str, str] = ("nonlens", "lens")) -> Labels:
    return Labels({identifier: names[row % 2] for row, identifier in enumerate(cutouts.ids)}, "test")


def warned(images: np.ndarray, **columns) -> list[str]:
    cutouts = make_cutouts(images, tuple("gri")[: images.shape[1]], **columns)
    return audit(cutouts, halves(cutouts))["warnings"]


def test_noise_raises_no_warning_and_all_is_json():
    ra = np.random.default_rng(1).permutation(COUNT) * 1.0
    cutouts = make_cutouts(sky(), ("g", "r"), ra=ra, dec=[0.0] * COUNT)
    result = audit(cutouts, halves(cutouts))
    assert result["warnings"] == []
    shortcuts = result["shortcuts"]["lens"]
    assert {"total_flux", "colour_g_r", "peak", "border_mean", "border_noise", "ra", "all together"} == set(shortcuts)
    assert all(entry["low"] < 0.57 for entry in shortcuts.values())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "lens 150" in audit_text(result)
    assert "origin: unknown 300 (--simulated of" in audit_text(result)


@pytest.mark.parametrize(
    ("plant", "feature"),
    [
        (lambda images: images.__iadd__(0.2), "total_flux"),
        (lambda images: images[:, 0].__iadd__(0.2), "colour_g_r"),
        (lambda images: images[:, :, 8, 8].__iadd__(20), "peak"),
        (lambda images: images[:, :, 0].__isub__(1), "border_mean"),
        (lambda images: images[:, :, :, 0].__isub__(10).__imul__(1.5).__iadd__(10), "border_noise"),
        (lambda images: images[:, :, 3, 3:7].fill(np.nan), "nan_share"),
    ],
)
def test_planted_shortcuts_are_found(plant, feature):
    images = sky()
    lenses = images[1::2].copy()
    plant(lenses)
    images[1::2] = lenses
    lines = warned(images)
    assert any(line.startswith(f"shortcut: {feature} separates 'lens'") for line in lines)
    assert any("all trivial numbers together" in line for line in lines)


def test_position_is_a_shortcut():
    ra = np.random.default_rng(0).uniform(0, 10, COUNT)
    ra[1::2] += 50
    lines = warned(sky(), ra=ra, dec=[0.0] * COUNT)
    assert any(line.startswith("shortcut: ra separates") for line in lines)
    lines = warned(sky(), ra=[None if row % 2 else float(row) for row in range(COUNT)], dec=[0.0] * COUNT)
    assert any(line.startswith("shortcut: position_known separates") for line in lines)


def test_only_jointly_visible_shortcuts_are_found_by_boosting():
    """Border and peak each uninformative alone; their product tells the class (an exclusive or)."""
    images = sky(bands=1)
    border = np.arange(COUNT) % 4 < 2
    bright = border ^ (np.arange(COUNT) % 2 == 1)
    images[border, :, 0] += 3
    images[bright, :, 8, 8] += 30
    lines = warned(images)
    assert len(lines) == 1
    assert lines[0].startswith("shortcut: all trivial numbers together")


def test_classes_of_one_origin_and_telling_columns_are_warned_of_but_truth_is_not():
    origin = ["sw" if row % 2 == 0 or row % 6 == 1 else "gallery" for row in range(COUNT)]
    theta = np.where(np.arange(COUNT) % 2, 1.0, 0.0) + np.linspace(0, 0.1, COUNT)
    columns = {"origin": origin, "theta_E": theta, "expert_grade": theta * 2, "seeing": -theta}
    columns["simulated"] = [row % 2 == 1 for row in range(COUNT)]
    columns["name"] = [f"o{row}" for row in range(COUNT)]
    cutouts = make_cutouts(sky(), ("g", "r"), **columns)
    cutouts = Cutouts(cutouts.images, cutouts.table, cutouts.bands, truth=("theta_E",))
    result = audit(cutouts, halves(cutouts))
    warnings = "\n".join(result["warnings"])
    assert "class 'nonlens' has origin == 'sw' alone" in warnings
    assert "class 'lens' has simulated == 'True' alone" in warnings
    assert "objects are mixed" in warnings
    assert "the column 'seeing' separates 'lens'" in warnings
    assert "theta_E" not in json.dumps(result)
    assert "name" not in result["properties"]  # an identifier
    assert "expert_grade" not in warnings
    assert any("expert_grade" in line for line in result["information"])


def test_duplicates_constant_images_and_scales_are_counted():
    images = sky()
    images[5] = images[4]  # another label
    images[7] = 3.0
    ra = [*map(float, range(299)), None]
    ra[11] = ra[12] = ra[10] + 0.3 / 3600
    cutouts = make_cutouts(images, ("g", "r"), pixel_scale=[0.2] * 299 + [0.3], ra=ra, dec=[0.0] * 300)
    result = audit(cutouts, halves(cutouts))
    assert result["duplicates"] == {"same_pixels": 1, "same_position": 2, "contradictory_groups": 2}
    assert result["pixel_scale"] == {"0.2": 299, "0.3": 1}
    text = "\n".join(result["warnings"])
    for part in ("contradictory labels", "1 images have the same value", "pixel scales differ", "repeat the pixels"):
        assert part in text


def test_values_and_counts_by_hand(monkeypatch):
    images = np.arange(64).reshape(2, 2, 4, 4).astype(np.float32)
    images[0, 0, 0, 0], images[1, 1, 0, :2] = 500, np.nan
    result = audit(make_cutouts(images, ("g", "r")), Labels({}))
    for band, pixels in zip("gr", images.swapaxes(0, 1), strict=True):
        numbers = [result["values"][band][name] for name in ("min", "p1", "median", "p99", "max")]
        assert numbers == pytest.approx(np.nanpercentile(pixels, [0, 1, 50, 99, 100]))
    monkeypatch.setattr(audit_module, "PERCENTILE_IMAGES", 1)  # the range is that of all images, none the less
    for seed in range(4):
        values = audit(make_cutouts(images, ("g", "r")), Labels({}), seed)["values"]["g"]
        assert (values["min"], values["max"]) == (1, 500)
    assert result["values"]["r"]["nan_share"] == 2 / 32
    assert result["labels"] == {"source": "", "labelled": 0, "unlabelled": 2, "classes": {}}
    assert result["shortcuts"] == {}
    assert "not searched" in result["information"][-1]


def test_three_classes_are_each_against_the_rest():
    images = sky()
    images[2::3] += 0.3
    cutouts = make_cutouts(images, ("g", "r"))
    labels = Labels({identifier: "abc"[row % 3] for row, identifier in enumerate(cutouts.ids)})
    shortcuts = audit(cutouts, labels)["shortcuts"]
    assert shortcuts["c"]["total_flux"]["auc"] > 0.95
    assert shortcuts["c"]["all together"]["auc"] > 0.95
    assert set(shortcuts) == {"a", "b", "c"}


@pytest.mark.parametrize("limit", ["MAX_MODES", "MAX_BOOSTED"])
@pytest.mark.parametrize("common", ["ab", "a"])
def test_a_rare_class_is_in_the_sample_and_one_object_is_not_measured(monkeypatch, limit, common):
    monkeypatch.setattr(shortcuts_module, limit, COUNT // 4)
    cutouts = make_cutouts(sky(bands=1), ("g",))
    others = dict(zip(cutouts.ids, common * COUNT, strict=False))
    for count in (1, 3):
        result = audit(cutouts, Labels(others | dict.fromkeys(cutouts.ids[:count], "lens")))
        together = {name for name, features in result["shortcuts"].items() if "all together" in features}
        measured = set("ab" if common == "ab" else "") | ({"lens"} if count > 1 else set())
        assert together == set(result["modes"]) == measured


@pytest.mark.parametrize(("count", "side"), [(0, 16), (1, 16), (2, 16), (5, 16), (40, 2), (40, 1)])
def test_tiny_data_sets_and_images_do_not_crash(count, side):
    cutouts = make_cutouts(sky(count=count)[:, :, :side], ("g", "r"))
    result = audit(cutouts, halves(cutouts))
    assert result["objects"] == count
    json.dumps(result, allow_nan=False)
    assert audit_text(result)


def test_features_by_hand():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 2, 32, 32)).astype(np.float32)
    images[1, 0, :3, 5] = np.nan
    cutouts = make_cutouts(images, ("g", "r"))
    features = trivial_features(cutouts, image_statistics(cutouts))
    for row, image in enumerate(images.astype(np.float64)):
        g, r = np.nanmean(image[0]), np.nanmean(image[1])
        edge = np.ones((32, 32), bool)
        edge[2:30, 2:30] = False
        assert features["total_flux"][row] == pytest.approx((g + r) / 2, rel=1e-4)
        assert features["colour_g_r"][row] == pytest.approx((g - r) / (abs(g) + abs(r)), rel=1e-4)
        assert features["peak"][row] == pytest.approx(np.nanmax(image))
        assert features["border_mean"][row] == pytest.approx(np.nanmean(image[:, edge]), rel=1e-4)
        assert features["border_noise"][row] == pytest.approx(np.nanstd(image[:, edge]), rel=1e-4)
        assert features["nan_share"][row] == pytest.approx(3 / 2048 if row == 1 else 0)


def test_auc_is_scikit_learns_and_its_interval_delongs():
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.3
    score = np.round(rng.normal(size=400) + positive, 1)  # with ties
    result = separation(positive, score)
    assert result["auc"] == pytest.approx(roc_auc_score(positive, score))
    assert separation(positive, -score) == pytest.approx(result)  # either direction counts
    assert separation(positive, -score, directed=True)["auc"] == pytest.approx(1 - result["auc"])
    assert separation(positive, np.ones(400)) is None
    assert separation(positive[:4], np.array([1, np.nan, np.nan, 3.0])) is None
    assert separation(np.arange(4) % 3 == 0, np.arange(4.0)) == {"auc": 0.5, "low": 0, "high": 1}
    above = (score[positive, None] > score[~positive]) + 0.5 * (score[positive, None] == score[~positive])
    placements = above.mean(1), above.mean(0)  # DeLong's, of either class
    error = sum(values.var(ddof=1) / len(values) for values in placements) ** 0.5
    assert [result["low"], result["high"]] == pytest.approx([result["auc"] + z * error for z in (-1.959964, 1.959964)])


def test_twins_are_in_one_fold():
    """Features that tell a pair of objects from the others, and classes by chance: nothing can be learned."""
    rng = np.random.default_rng(0)
    pairs = np.repeat(np.arange(100), 2)
    features, classes = rng.normal(size=(100, 5))[pairs], rng.permutation(["a", "b"] * 50)[pairs]
    learned = out_of_fold(KNeighborsClassifier(1), features, classes, pairs)[:, 1] > 0.5
    assert abs((learned == (classes == "b")).mean() - 0.5) < 0.15


def test_what_is_wrong_out_of_fold_separates_nothing():
    """Of each pair with one value, or equal features, one object is of either class: the other one misleads."""
    pair = np.arange(COUNT) // 2
    cutouts = make_cutouts(sky(), ("g", "r"), origin=[f"p{number}" for number in pair])
    labels = halves(cutouts)
    column = audit(cutouts, labels)["properties"]["origin"]["classes"]["lens"]
    is_class = {name: labels.of(cutouts.ids) == name for name in labels.classes}
    model, rows = KNeighborsClassifier(1), np.arange(COUNT)
    together = shortcuts_module._together(model, pair[:, None], rows, is_class, cutouts.ids, 0)["lens"]
    assert column["auc"] < 0.3
    assert together["auc"] < 0.3


@pytest.mark.parametrize(
    ("auc", "low", "high", "suspicious"),
    [(0.6, 0.4, 0.8, 0), (0.6, 0.51, 0.8, 1), (0.71, 0.4, 0.9, 1), (0.6, 0.55, 0.65, 0)],
)
def test_a_wide_interval_alone_is_no_suspicion(auc, low, high, suspicious):
    assert audit_module._suspicious({"auc": auc, "low": low, "high": high}) == bool(suspicious)


def test_category_scores_are_out_of_fold():
    """A name of its own for each object must not tell its class."""
    rng = np.random.default_rng(0)
    positive = np.arange(200) % 2 == 1
    scores = category_scores(np.arange(200), positive)
    assert abs(roc_auc_score(positive, scores) - 0.5) < 0.1
    assert roc_auc_score(positive, category_scores(np.where(positive, "a", "b"), positive)) == 1
    few = (category_scores(np.arange(20), np.arange(20) < count) for count in (4, 5))
    assert [scores is None for scores in few] == [True, False]
    twins = category_scores(np.arange(200) // 4 * 2 + positive, positive)
    assert set(abs(twins - 0.5)) == {0, 0.25}  # what is seen once is half believed
    noise = category_scores(rng.integers(0, 4, 200), positive)
    assert abs(roc_auc_score(positive, noise) - 0.5) < 0.15


def test_the_modes_of_a_ring_are_listed_but_no_warning():
    """A dipole on a ring: neither flux nor peak tells it, the first azimuthal mode does."""
    y, x = np.mgrid[:16, :16] - 7.5
    ring, angle = np.exp(-((np.hypot(x, y) - 5) ** 2)), np.arctan2(y, x)
    images, turns = sky(bands=1), np.random.default_rng(1).uniform(0, 2 * np.pi, COUNT)
    modes = np.where(np.arange(COUNT) % 2, 1, 2)
    images[:, 0] += 5 * ring * (1 + np.cos(modes[:, None, None] * angle + turns[:, None, None]))
    cutouts = make_cutouts(images, ("g",))
    labels = halves(cutouts).values
    result = audit(cutouts, Labels({name: labels[name] for name in cutouts.ids if int(name) % 3}))  # some have none
    assert result["warnings"] == []
    assert result["modes"]["lens"]["low"] > 0.95
    assert "azimuthal modes" in audit_text(result)
