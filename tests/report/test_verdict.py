"""The sentences and tables say what the paired differences show, and no more."""

import pandas as pd
import pytest

from zwicky.evaluation.bootstrap import Interval
from zwicky.io import write_json
from zwicky.report import tables
from zwicky.report.data import load_results
from zwicky.report.verdict import verdict

ROWS = (  # arm, title, kind, backbone, protocol, auc
    ("dino", "DINO", "ssl", "vit", "finetune", 0.93),
    ("vit", "ViT", "supervised", "vit", "scratch", 0.90),
    ("resnet18", "ResNet-18", "baseline", "resnet18", "scratch", 0.92),
    ("pca", "PCA", "baseline", "", "baseline", 0.85),
)
SWAPPED = (
    ("vit", "ViT", "supervised", "ViT", "scratch", 0.90),
    ("vit-dino", "DINO, ViT", "ssl", "ViT", "finetune", 0.91),
    ("d4", "D4", "supervised", "D4", "scratch", 0.92),
    ("d4-dino", "DINO, D4", "ssl", "D4", "finetune", 0.93),
)


def difference(arm, reference, low, middle, high, significant):
    row = {"labels": 300, "metric": "auc", "arm": arm, "reference": reference, "difference": middle}
    return row | {"low": low, "high": high, "p": 0.01, "p_holm": 0.02, "significant": significant}


BETTER = difference("dino", "vit", 0.01, 0.03, 0.05, True)


@pytest.fixture
def load(tmp_path):
    """A function that opens a benchmark with these differences."""

    def make(differences, draws=3, seeds=1, rows=ROWS, **card):
        columns = ["arm", "title", "kind", "backbone", "protocol", "auc"]
        table = pd.DataFrame(rows, columns=columns).merge(pd.DataFrame({"draw": range(draws)}), how="cross")
        table = table.assign(labels=300, tta=True, test_objects=500)
        table["pretrain_seed"] = (table["draw"] % seeds).where(table["kind"] == "ssl")
        table.to_csv(tmp_path / "results.csv", index=False)
        summary = pd.DataFrame([{"arm": row[0], "labels": 300, "metric": "auc", "value": row[-1]} for row in rows])
        summary.assign(low=None, high=None, test_objects=500).to_csv(tmp_path / "summary.csv", index=False)
        names = list(difference("", "", 0, 0, 0, False))
        pd.DataFrame(differences, columns=names).to_csv(tmp_path / "comparisons.csv", index=False)
        card = {"simulated": False, "design": "holdout", "compare_with": None, "columns": []} | card
        write_json(tmp_path / "data.json", card)
        write_json(tmp_path / "run.json", {"finished": "2026-03-01"})
        return load_results(tmp_path)

    return make


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("low", "middle", "high", "significant", "tone", "text"),
    [
        (0.01, 0.03, 0.05, True, "better", "+0.030 [+0.010, +0.050] relative to the same network trained"),
        (-0.05, -0.03, -0.01, True, "worse", "network trained from scratch: a significant deterioration."),
        (-0.004, 0.021, 0.046, False, "tie", "no significant difference."),
        (0.001, 0.021, 0.041, False, "tie", "not significant after Holm's correction."),
    ],
)
def test_headline(load, swapped, low, middle, high, significant, tone, text):
    row = difference("dino", "vit", low, middle, high, significant)
    if swapped:  # written the other way round
        row = difference("vit", "dino", -high, -middle, -low, significant)
    conclusion = verdict(load([row]))
    assert conclusion.headline.startswith("At 300 labels, pretraining changes AUC by ")
    assert text in conclusion.headline
    assert conclusion.tone == tone


@pytest.mark.parametrize(
    ("low", "middle", "high", "significant", "text"),
    [
        (-0.01, 0.01, 0.03, False, "no significant difference, +0.010"),
        (-0.03, -0.02, -0.01, True, "“DINO” is significantly worse, −0.020"),
        (0.002, 0.004, 0.006, True, "“DINO” is significantly better but close, +0.004"),
        (0.01, 0.03, 0.05, True, "“DINO” is significantly better, +0.030"),
    ],
)
def test_baselines(load, low, middle, high, significant, text):
    details = " ".join(verdict(load([BETTER, difference("dino", "resnet18", low, middle, high, significant)])).details)
    assert f"“ResNet-18”: {text}" in details
    assert "Best simple baseline at 300 labels, “PCA”: AUC 0.850, that of “DINO” is 0.930; not tested." in details


def test_no_claim_without_a_comparison(load):
    assert "no difference can be stated" in verdict(load([])).headline
    assert "gain from pretraining is unknown" in verdict(load([], rows=ROWS[:1])).headline
    assert "no pretraining to evaluate" in verdict(load([], rows=ROWS[1:])).headline
    assert {verdict(load([], rows=rows)).tone for rows in (ROWS, ROWS[:1], ROWS[1:])} == {"unknown"}


def test_each_arm_is_compared_with_its_own_network(load):
    swin = ("swin", "Swin", "supervised", "swin", "scratch", 0.9)
    rows = (*ROWS, ("simsiam", "SimSiam", "ssl", "swin", "finetune", 0.8), swin)
    worse = difference("simsiam", "swin", -0.2, -0.1, -0.05, True)
    details = " ".join(verdict(load([BETTER, worse], rows=rows)).details)
    assert "“SimSiam” relative to “Swin”: −0.100 [−0.200, −0.050] at 300 labels, a significant deterioration" in details
    data = load([difference("dino", "swin", 0.01, 0.03, 0.05, True)], rows=(ROWS[0], swin))
    assert "relative to a different network trained from scratch" in verdict(data).headline


def test_conditions(load):
    details = " ".join(verdict(load([], draws=1, simulated=True)).details)
    for text in ("One draw of the labels", "conditional on one pretraining", "The images are simulated"):
        assert text in details
    details = " ".join(verdict(load([], seeds=3)).details)
    assert "conditional" not in details
    assert "500 test objects, observed images, with 3 draws" in details


def test_best_arm_only_where_the_runner_up_is_beaten(load):
    assert tables.best_arm(load([BETTER]), 300, "auc") is None  # ResNet-18 is the runner-up and was not compared
    tie, win = (difference("dino", "resnet18", low, 0.02, 0.05, low > 0) for low in (-0.01, 0.01))
    assert tables.best_arm(load([BETTER, tie]), 300, "auc") is None
    data = load([BETTER, win])
    assert tables.best_arm(data, 300, "auc").title == "DINO"
    assert tables.by_labels(data, "auc").loc["DINO", "300"] == "★ 0.930"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ((0.02, True), (0.01, True), "is better in 2 and worse in 0 of 2 paired comparisons: significantly better."),
        ((-0.02, True), (0.01, False), "better in 0 and worse in 1 of 2 paired comparisons: significantly worse."),
        ((-0.02, True), (0.01, True), "better in 1 and worse in 1 of 2 paired comparisons: mixed."),
        ((-0.02, False), (0.01, False), "in 0 of 2 paired comparisons: no significant difference."),
    ],
)
def test_network_comparison(load, first, second, text):
    pairs = (("d4", "vit", *first), ("d4-dino", "vit-dino", *second))
    rows = [difference(a, b, gap - 0.005, gap, gap + 0.005, significant) for a, b, gap, significant in pairs]
    pretraining = difference("vit-dino", "vit", 0.005, 0.01, 0.015, True)  # no comparison of networks
    data = load([*rows, pretraining], rows=SWAPPED, compare_with="ViT")
    assert verdict(data).headline.startswith("D4 instead of ViT: AUC is ")
    assert text in verdict(data).headline
    assert list(tables.differences(data, tables.network_differences(data)).index) == ["D4", "DINO, D4"]


def test_numbers_intervals_counts_and_times():
    nan = float("nan")
    assert tables.number(0.12345, "auc") == "0.123"
    assert [tables.number(value, "auc", signed=True) for value in (-0.0204, -0.0001)] == ["−0.020", "0.000"]
    assert tables.number(0.917, "accuracy") == "91.7"
    assert tables.number(0.0012345, "mae_theta_E") == "0.00123"
    assert tables.measured(Interval(0.9, 0.85, 0.95), "auc") == "0.900 [0.850, 0.950]"
    assert tables.measured(Interval(0.9, nan, nan), "auc") == "0.900"
    assert tables.measured(None, "auc") == "–"
    assert [tables.count(n) for n in (5575, None)] == ["5\u2009575", "–"]
    assert [tables.duration(s) for s in (3.21, 75, 900, 9000, nan)] == ["3.2 s", "75 s", "15 min", "2.5 h", "–"]
    assert [tables.plural(n, "draw") for n in (1, 2)] == ["1 draw", "2 draws"]
