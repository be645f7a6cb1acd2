"""The words say what the tables say, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zwicky.evaluation.results import RESULT_COLUMNS
from zwicky.io import write_csv, write_json
from zwicky.report.material import Missing, gather
from zwicky.report.networks import networks
from zwicky.report.tables import winner
from zwicky.report.verdict import verdict

ROWS = (
    # arm, title, kind, backbone, protocol, auc
    ("dino", "DINO", "ssl", "vit", "finetune", 0.93),
    ("vit", "ViT", "supervised", "vit", "scratch", 0.90),
    ("resnet18", "ResNet-18", "baseline", "resnet18", "scratch", 0.92),
    ("pca", "PCA", "baseline", "", "baseline", 0.85),
)


def difference(
    arm: str, reference: str, low: float, middle: float, high: float, significant: bool
) -> dict[str, object]:
    numbers = {"difference": middle, "low": low, "high": high, "p": 0.01, "p_holm": 0.02}
    return {"labels": 300, "metric": "auc", "arm": arm, "reference": reference, **numbers, "significant": significant}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(
        differences: list[dict[str, object]], draws: int = 3, seeds: int = 1, rows: object = ROWS, **data: object
    ) -> Path:
        table = [
            dict(zip(("arm", "title", "kind", "backbone", "protocol", "auc"), row, strict=True))
            | {"labels": 300, "draw": draw, "seed": draw, "test_objects": 500}
            | {"pretrain_seed": draw % seeds if row[2] == "ssl" else None}
            for row in rows  # type: ignore[attr-defined]
            for draw in range(draws)
        ]
        write_csv(tmp_path / "results.csv", table, RESULT_COLUMNS)
        if differences:
            write_csv(tmp_path / "comparisons.csv", differences)
        write_json(tmp_path / "data.json", {"simulated": False, **data})
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("low", "middle", "high", "significant", "tone", "words"),
    [
        (
            0.01,
            0.03,
            0.05,
            True,
            "helps",
            "+0.030 [+0.010, +0.050] against the same network trained from scratch: pretraining helps.",
        ),
        (
            -0.05,
            -0.03,
            -0.01,
            True,
            "hurts",
            "−0.030 [−0.050, −0.010] against the same network trained from scratch: pretraining hurts.",
        ),
        (
            -0.004,
            0.021,
            0.046,
            False,
            "tie",
            "+0.021 [−0.004, +0.046] against the same network trained from scratch: not distinguishable",
        ),
        (0.001, 0.021, 0.041, False, "tie", "not established, since it does not outlive Holm's correction"),
    ],
)
def test_headline(
    write: Callable[..., Path], low: float, middle: float, high: float, significant: bool, tone: str, words: str
) -> None:
    found = verdict(gather(write([difference("dino", "vit", low, middle, high, significant)])))
    assert found.headline.startswith("At 300 labels, pretraining changes AUC by ")
    assert words in found.headline
    assert found.tone == tone


def test_a_comparison_written_the_other_way_round(write: Callable[..., Path]) -> None:
    found = verdict(gather(write([difference("vit", "dino", -0.05, -0.03, -0.01, True)])))
    assert "+0.030 [+0.010, +0.050]" in found.headline
    assert found.tone == "helps"


@pytest.mark.parametrize(
    ("low", "middle", "high", "significant", "words"),
    [
        (-0.01, 0.01, 0.03, False, "The network “ResNet-18” cannot be told apart from “DINO”"),
        (-0.03, -0.02, -0.01, True, "The network “ResNet-18” is better than “DINO”"),
        (0.002, 0.004, 0.006, True, "The network “ResNet-18” is close: “DINO” is above it by only +0.004"),
        (0.01, 0.03, 0.05, True, "The network “ResNet-18” is below “DINO”"),
    ],
)
def test_baseline(
    write: Callable[..., Path], low: float, middle: float, high: float, significant: bool, words: str
) -> None:
    rows = [
        difference("dino", "vit", 0.01, 0.03, 0.05, True),
        difference("dino", "resnet18", low, middle, high, significant),
    ]
    details = " ".join(verdict(gather(write(rows))).details)
    assert words in details
    assert "“PCA” has AUC 0.850, lower than “DINO” with 0.930; the difference was not tested" in details


def test_nothing_compared_claims_nothing(write: Callable[..., Path]) -> None:
    found = verdict(gather(write([])))
    assert found.tone == "unknown"
    assert "no difference can be stated" in found.headline


def test_no_reference_and_no_pretraining(write: Callable[..., Path]) -> None:
    assert "nothing follows for pretraining" in verdict(gather(write([], rows=ROWS[:1]))).headline
    assert "no pretraining to judge" in verdict(gather(write([], rows=ROWS[1:]))).headline


def test_a_reference_that_is_another_network_is_called_so(write: Callable[..., Path]) -> None:
    rows = (ROWS[0], ("swin", "Swin", "supervised", "swin", "scratch", 0.9))
    found = verdict(gather(write([difference("dino", "swin", 0.01, 0.03, 0.05, True)], rows=rows)))
    assert "against a different network trained from scratch" in found.headline


def test_each_pretrained_arm_faces_its_own_network(write: Callable[..., Path]) -> None:
    rows = (
        *ROWS,
        ("simsiam-swin", "SimSiam", "ssl", "swin", "finetune", 0.8),
        ("swin", "Swin", "supervised", "swin", "scratch", 0.9),
    )
    differences = [
        difference("dino", "vit", 0.01, 0.03, 0.05, True),
        difference("simsiam-swin", "swin", -0.2, -0.1, -0.05, True),
    ]
    details = " ".join(verdict(gather(write(differences, rows=rows))).details)
    assert "“SimSiam” against “Swin”: −0.100 [−0.200, −0.050] in AUC, pretraining hurts." in details
    assert "Swin” cannot" not in details  # it is no baseline of DINO's


def test_conditions(write: Callable[..., Path]) -> None:
    said = " ".join(verdict(gather(write([], draws=1, simulated=True))).details)
    assert "One draw of the labels" in said
    assert "conditional on one pretraining" in said
    assert "simulated" in said
    other = " ".join(verdict(gather(write([], draws=3, seeds=3))).details)
    assert "One draw" not in other
    assert "conditional" not in other
    assert "500 test objects, observed images, with 3 draws" in other


def test_winner_only_where_the_runner_up_is_beaten(write: Callable[..., Path]) -> None:
    third = difference("dino", "vit", 0.01, 0.03, 0.05, True)
    assert winner(gather(write([third])), 300, "auc") is None  # ResNet-18 is the runner-up and was not compared
    assert winner(gather(write([third, difference("dino", "resnet18", -0.01, 0.01, 0.03, False)])), 300, "auc") is None
    assert winner(gather(write([third, difference("dino", "resnet18", 0.01, 0.02, 0.03, True)])), 300, "auc") == "dino"


SWAPPED = (
    ("vit", "ViT", "supervised", "ViT", "scratch", 0.90),
    ("vit-dino", "DINO, ViT", "ssl", "ViT", "finetune", 0.91),
    ("d4", "D4", "supervised", "D4", "scratch", 0.92),
    ("d4-dino", "DINO, D4", "ssl", "D4", "finetune", 0.93),
)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((0.02, True), (0.01, True), "AUC is better in 2, worse in 0 of 2 paired comparisons: significantly better"),
        ((0.02, True), (0.01, False), "better in 1, worse in 0 of 2 paired comparisons: significantly better"),
        ((-0.02, True), (0.01, False), "better in 0, worse in 1 of 2 paired comparisons: significantly worse"),
        ((-0.02, True), (0.01, True), "better in 1, worse in 1 of 2 paired comparisons: mixed"),
        ((-0.02, False), (0.01, False), "0 of 2 paired comparisons: no significant difference"),
    ],
)
def test_the_headline_of_networks_compared_counts_what_the_table_shows(write, first, second, words):
    rows = [
        difference(arm, reference, middle - 0.005, middle, middle + 0.005, significant)
        for arm, reference, (middle, significant) in (("d4", "vit", first), ("d4-dino", "vit-dino", second))
    ]
    own = difference("vit-dino", "vit", 0.005, 0.01, 0.015, True)  # pretraining, not a network, made this one
    material = gather(write([*rows, own], rows=SWAPPED, compare_with="ViT"))
    found = verdict(material)
    assert found.headline.startswith("D4 instead of ViT: ")
    assert words in found.headline
    page = str(networks(material))
    assert page.count("<tr>") == 3
    assert "DINO, D4" in page


def test_without_a_network_to_compare_with_the_headline_is_about_pretraining(write):
    rows = [difference("dino", "vit", 0.01, 0.03, 0.05, True)]
    assert "pretraining" in verdict(gather(write(rows))).headline
    with pytest.raises(Missing):
        networks(gather(write(rows)))
