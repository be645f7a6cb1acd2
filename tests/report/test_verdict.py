"""The sentences and tables say what the paired differences show, and no more."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from zwicky.evaluation.arms import Arm
from zwicky.evaluation.bootstrap import Interval
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.io import write_json
from zwicky.report import tables
from zwicky.report.data import load_results
from zwicky.report.verdict import verdict
from zwicky.training.run import to_plain


def supervised(network, kind="supervised"):
    return Arm("", network, "scratch", kind, f"{network} from scratch")


def finetuned(method, network):
    return Arm(method.lower(), network, "finetune", "ssl", f"{method}, {network}")


DINO, VIT, RESNET = finetuned("DINO", "ViT"), supervised("ViT"), supervised("ResNet-18", "baseline")
PCA = Arm("pca_linear", "", "baseline", "baseline", "PCA")
AUC = {DINO: 0.93, VIT: 0.90, RESNET: 0.92, PCA: 0.85}


def difference(arm, reference, low, middle, high, significant):
    row = {"labels": 300, "metric": "auc", "arm": arm.name, "reference": reference.name, "difference": middle}
    return row | {"low": low, "high": high, "p": 0.01, "p_holm": 0.02, "significant": significant}


BETTER = difference(DINO, VIT, 0.01, 0.03, 0.05, True)


@pytest.fixture
def load(tmp_path):
    """A function that opens a benchmark with these differences."""

    def make(differences, draws=3, seeds=1, auc=AUC, simulated=False, compare_with=""):
        rows = [{"arm": arm.name, **vars(arm), "auc": value} for arm, value in auc.items()]
        table = pd.DataFrame(rows).merge(pd.DataFrame({"draw": range(draws)}), how="cross")
        table = table.assign(labels=300, test_objects=500)
        table["pretrain_seed"] = (table["draw"] % seeds).where(table["kind"] == "ssl")
        table.to_csv(tmp_path / "results.csv", index=False)
        summary = pd.DataFrame(rows)[["arm", "auc"]].rename(columns={"auc": "value"}).assign(labels=300, metric="auc")
        summary.assign(low=None, high=None, test_objects=500).to_csv(tmp_path / "summary.csv", index=False)
        pd.DataFrame(differences, columns=list(BETTER)).to_csv(tmp_path / "comparisons.csv", index=False)
        write_json(tmp_path / "config.yaml", to_plain(BenchmarkConfig(compare_with=compare_with)))
        write_json(tmp_path / "data.json", {"simulated": simulated, "columns": []})
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
    row = difference(DINO, VIT, low, middle, high, significant)
    if swapped:  # written the other way round
        row = difference(VIT, DINO, -high, -middle, -low, significant)
    conclusion = verdict(load([row]))
    assert conclusion.headline.startswith("At 300 labels, pretraining changes AUC by ")
    assert text in conclusion.headline
    assert conclusion.tone == tone


@pytest.mark.parametrize(
    ("low", "middle", "high", "significant", "text"),
    [
        (-0.01, 0.01, 0.03, False, "no significant difference, +0.010"),
        (-0.03, -0.02, -0.01, True, "“DINO, ViT” is significantly worse, −0.020"),
        (0.002, 0.004, 0.006, True, "“DINO, ViT” is significantly better but close, +0.004"),
        (0.005, 0.03, 0.055, True, "“DINO, ViT” is significantly better, +0.030"),
    ],
)
def test_baselines(load, low, middle, high, significant, text):
    auc = AUC | {replace(PCA, method="modes", title="modes"): 0.8}  # not the best
    rows = [BETTER, difference(DINO, RESNET, low, middle, high, significant)]
    details = " ".join(verdict(load(rows, auc=auc)).details)
    assert f"“ResNet-18 from scratch”: {text}" in details
    assert "Best simple baseline at 300 labels, “PCA”: AUC 0.850, that of “DINO, ViT” is 0.930; not tested." in details


def test_no_claim_without_a_comparison(load):
    for auc, text in (
        (AUC, "no difference can be stated"),
        ({DINO: 0.9}, "gain from pretraining is unknown"),
        ({VIT: 0.9, PCA: 0.8}, "no pretraining to evaluate"),
    ):
        conclusion = verdict(load([], auc=auc))
        assert text in conclusion.headline
        assert conclusion.tone == "unknown"


def test_each_arm_is_compared_with_its_own_network(load):
    simsiam, swin = finetuned("SimSiam", "Swin"), supervised("Swin")
    worse = difference(simsiam, swin, -0.2, -0.1, -0.05, True)
    details = " ".join(verdict(load([BETTER, worse], auc=AUC | {simsiam: 0.8, swin: 0.9})).details)
    text = "“SimSiam, Swin” relative to “Swin from scratch”: −0.100 [−0.200, −0.050] at 300 labels, a significant det"
    assert text in details
    data = load([difference(DINO, swin, 0.01, 0.03, 0.05, True)], auc={DINO: 0.93, swin: 0.9})
    assert "relative to a different network trained from scratch" in verdict(data).headline


def test_an_arm_without_tta_is_compared_with_one_without(load):
    dino, vit = (replace(arm, tta=False) for arm in (DINO, VIT))
    data = load([], auc=AUC | {dino: 0.92, vit: 0.89})
    assert (data.reference(DINO), data.reference(dino)) == (VIT, vit)


@pytest.mark.parametrize("metric", ["auc", "nll", "ece", "mae", "mae_theta_E"])
def test_errors_and_losses_are_better_if_lower(metric):
    lower, gap = metric != "auc", {"low": 0.05, "difference": 0.1, "high": 0.2}
    row = SimpleNamespace(metric=metric, significant=True, **gap)
    assert tables.outcome(row) == f"★ first significantly {'worse' if lower else 'better'}"
    worse, better = sorted((0.4, 0.5), reverse=lower)
    values = {VIT: Interval(worse, *[worse] * 2), DINO: Interval(better, *[better] * 2)}
    sign = -1 if lower else 1
    row.difference *= sign
    data = SimpleNamespace(arms=[VIT, DINO], estimate=lambda arm, *_: values[arm], difference=lambda *_: row)
    assert tables.best_arm(data, 300, metric) == DINO


def test_conditions(load):
    details = " ".join(verdict(load([], draws=1, simulated=True)).details)
    for text in ("One draw of the labels", "conditional on one pretraining", "The images are simulated"):
        assert text in details
    details = " ".join(verdict(load([], seeds=3)).details)
    assert "conditional" not in details
    assert "500 test objects, observed images, with 3 draws" in details


def test_best_arm_only_where_the_runner_up_is_beaten(load):
    tie, win = (difference(DINO, RESNET, low, 0.02, 0.05, low > 0) for low in (-0.01, 0.01))
    for rows in ([BETTER], [BETTER, tie]):  # ResNet-18 is the runner-up: not compared, or not beaten
        assert tables.best_arm(load(rows), 300, "auc") is None
    data = load([BETTER, win])
    assert tables.best_arm(data, 300, "auc") == DINO
    assert tables.by_labels(data, "auc").loc[DINO.title, "300"] == "★ 0.930"


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
    d4, d4_dino = supervised("D4"), finetuned("DINO", "D4")
    pairs = ((d4, VIT, *first), (d4_dino, DINO, *second))
    rows = [difference(a, b, gap - 0.005, gap, gap + 0.005, significant) for a, b, gap, significant in pairs]
    probes = [replace(arm, protocol="linear", title=f"{arm.title}, frozen") for arm in (d4_dino, DINO)]
    frozen = difference(*probes, -0.3, -0.2, -0.1, True)  # which the headline leaves out
    arms = {VIT: 0.9, DINO: 0.91, d4: 0.92, d4_dino: 0.93} | dict.fromkeys(probes, 0.8)
    data = load([*rows, frozen, BETTER], auc=arms, compare_with="ViT")  # the last is no comparison of networks
    assert verdict(data).headline.startswith("D4 instead of ViT: AUC is ")
    assert text in verdict(data).headline
    compared = list(tables.differences(data, tables.network_differences(data)).index)
    assert compared == [d4.title, d4_dino.title, probes[0].title]
    alone = load([frozen], auc={VIT: 0.9, DINO: 0.91, d4_dino: 0.93} | dict.fromkeys(probes, 0.8), compare_with="ViT")
    assert "worse in 1 of 1 paired comparison:" in verdict(alone).headline


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
