"""Where regions go: what the drawings show is what the arrays say."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zwicky.io import write_csv
from zwicky.report.correspondence import correspondence, starts
from zwicky.report.matches import HEAD, LINES, SIDE, complete, drawing
from zwicky.report.material import Material, Missing, gather

BANDS = ("g", "r", "i")


@pytest.fixture
def material(shared_result: Path) -> Material:
    return gather(shared_result)


@pytest.fixture
def arrays(material: Material) -> dict[str, np.ndarray]:
    return material.regions("dino-s11")


def test_lines_end_at_the_matches_and_their_style_says_which_are_right(arrays: dict[str, np.ndarray]) -> None:
    for position in range(len(arrays["ids"])):
        text = str(drawing(arrays, position, (4, 4), BANDS, "DINO", set()))
        lines = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" style="stroke:var\(--(good|bad)\)(;[^"]*)"', text)
        match, partner = arrays["match"][position], arrays["partner"][position]
        drawn = set()
        for x, y, u, v, kind, style in lines:
            here, there = (
                int((float(b) - HEAD) // (SIDE / 4)) * 4 + int((float(a) - offset) // (SIDE / 4))
                for a, b, offset in ((x, y, 0), (u, v, SIDE + 8))
            )
            drawn.add(here)
            assert partner[here] >= 0
            assert match[here] == there
            assert (kind == "good") == (match[here] == partner[here])
            assert ("dasharray" in style) == (kind == "bad")  # never colour alone
        wanted = set(np.flatnonzero((partner >= 0) & arrays["informative"][position]))
        assert drawn <= wanted
        assert len(drawn) == min(LINES, len(wanted)) > 0
        right = int(((partner >= 0) & (match == partner)).sum())
        assert f"{right} of {(partner >= 0).sum()} regions right" in text


def test_a_view_is_written_once(arrays: dict[str, np.ndarray]) -> None:
    drawn: set[str] = set()
    texts = [str(drawing(arrays, 0, (4, 4), BANDS, title, drawn)) for title in ("one", "two")]
    assert [text.count("<image id=") for text in texts] == [2, 0]
    assert [text.count("<use ") for text in texts] == [4, 4]


def test_without_attention_there_is_no_second_row(arrays: dict[str, np.ndarray]) -> None:
    del arrays["attention"]
    assert complete(arrays, (4, 4))
    text = str(drawing(arrays, 0, (4, 4), BANDS, "DINO", set()))
    assert "attention" not in text
    assert f'viewBox="0 0 208 {HEAD + SIDE}"' in text


@pytest.mark.parametrize(
    "damage",
    [
        {"match": np.zeros((3, 9), np.int32)},
        {"match": np.full((3, 16), 16, np.int32)},
        {"crops": np.zeros((3, 2, 3, 8, 8), np.float32)},
        {"crops": np.zeros((3, 3, 8, 8), np.uint8)},
        {"attention": np.zeros((3, 2, 3, 3), np.float32)},
        {"ids": np.array(["a"])},
    ],
)
def test_arrays_that_do_not_fit_are_not_drawn(arrays: dict[str, np.ndarray], damage: dict[str, np.ndarray]) -> None:
    assert complete(arrays, (4, 4))
    assert not complete(arrays | damage, (4, 4))
    del arrays["partner"]
    assert not complete(arrays, (4, 4))


def test_section_names_values_and_controls(material: Material) -> None:
    text = correspondence(material)
    for words in ("dino, vit_small", "31.0", "[29.0, 33.0]", "−21.0 [−23.5, −18.5]", "6.2", "256 test objects"):
        assert words in text
    assert text.count("<h3>") == 1  # one of the two kept its arrays
    assert "No pictures" not in text


def test_several_pretrainings_are_averaged_with_their_range(result_maker: Callable[..., Path]) -> None:
    run = result_maker(objects=60)
    rows = gather(run).correspondence
    write_csv(run / "correspondence.csv", [*rows, rows[0] | {"seed": 12, "exact": 0.41, "run": "gone"}])
    (one, other) = starts(gather(run))
    assert one.mean("exact") == pytest.approx(0.36)
    assert one.bounds("exact") == (0.31, 0.41)
    assert other.bounds("exact") == (0.5, 0.54)
    assert "lowest and highest" in correspondence(gather(run))


def test_damaged_arrays_leave_a_line(result_maker: Callable[..., Path]) -> None:
    run = result_maker(objects=60)
    path = run / "pretrain" / "dino-s11" / "correspondence.npz"
    whole = path.read_bytes()
    pickled = io.BytesIO()
    np.savez(pickled, ids=np.array([{}], dtype=object))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for content in (b"garbage", whole[: len(whole) // 2], whole[:-1], b"", pickled.getvalue(), empty.getvalue()):
        path.write_bytes(content)
        text = correspondence(gather(run))
        assert "No pictures" in text
        assert "31.0" in text


def test_nothing_measured_is_said(result_maker: Callable[..., Path]) -> None:
    run = result_maker(objects=60)
    (run / "correspondence.csv").unlink()
    with pytest.raises(Missing, match="Not measured"):
        correspondence(gather(run))
