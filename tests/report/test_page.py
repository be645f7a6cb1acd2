"""The whole page: it parses, needs nothing from elsewhere, can be heard, and survives whatever is missing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from zwicky.data.contract import Cutouts
from zwicky.errors import UserError
from zwicky.evaluation.results import RESULT_COLUMNS, read_table
from zwicky.io import write_csv
from zwicky.report import write_report
from zwicky.report.material import records

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = [
    "audit",
    "efficiency",
    "differences",
    "roc",
    "recall",
    "curves",
    "regions",
    "confusion",
    "calibration",
    "examples",
    "gallery",
    "repeat",
]


class Page(HTMLParser):
    """Collects what the tests ask about and fails on a tag closed out of turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> out of turn"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(shared_result: Path, store_maker: Callable[..., Cutouts], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(shared_result, store_maker(), tmp_path_factory.mktemp("page") / "report.html"))


def missing(page: Page) -> list[str]:
    return re.findall(r'<p class="missing">(.*?)</p>', page.source)


def test_every_section_in_order_and_nothing_missing(page: Page) -> None:
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert missing(page) == []
    assert page.source.index('class="verdict') < page.source.index('id="audit"')


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    for _, attributes in page.tags:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), value
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"url\((?!#)|@import|https?://|//cdn", page.source)
    assert page.all("script") == page.all("link") == page.all("iframe") == []


def test_small_enough(page: Page) -> None:
    assert len(page.source.encode()) < 3_000_000


def test_figures_have_descriptions(page: Page) -> None:
    drawings, pictures = page.all("svg"), page.all("img")
    assert len(drawings) > 10
    assert len(pictures) > 20
    assert all(drawing["role"] == "img" and len(drawing["aria-label"] or "") > 20 for drawing in drawings)
    assert all(len(picture["alt"] or "") > 5 for picture in pictures)


def test_tables_have_captions_and_scopes(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))


def test_ids_are_unique_and_every_inner_reference_has_its_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, attributes in page.tags if (value := attributes.get("href")) and value.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert wanted <= set(ids)


def test_figures_take_every_colour_from_the_page(page: Page) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page.source, flags=re.S)
    assert not any(re.search(r"(?<!url\()#[0-9a-f]{6}\b", drawing) for drawing in drawings)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page.source))
    defined = set(re.findall(r"(--[a-z0-9-]+):", page.source))
    assert used <= defined


def test_same_input_same_page(shared_result: Path, tmp_path: Path) -> None:
    one, two = (
        write_report(shared_result, None, tmp_path / "a.html"),
        write_report(shared_result, None, tmp_path / "b.html"),
    )
    assert one.read_text() == two.read_text()


def test_default_place_is_in_the_run(result_maker: Callable[..., Path]) -> None:
    run = result_maker(objects=60)
    assert write_report(run) == run / "report.html"


def test_facts_and_what_is_needed_to_repeat_it(page: Page) -> None:
    for words in (
        "simulated images",
        "conditional on one pretraining",
        "zwicky benchmark desk --data stores/bologna --out runs/desk",
        "rotation: any",
        "draws.parquet",
        "2.8.0",
        "above 0.70",
    ):
        assert words in page.text
    negatives = re.search(r"false positives among (\d+) negatives", page.text)
    assert negatives is not None
    assert "measured with " + negatives.group(1) + " negatives" in page.text


def test_size_note_stands_before_the_results(result_maker: Callable[..., Path]) -> None:
    page = Page(write_report(result_maker(objects=60, size_note="Smoke size: too small to mean anything.")))
    assert page.source.index("too small to mean anything") < page.source.index('id="audit"')


def test_fits_that_gave_back_their_probe_are_counted(result_maker: Callable[..., Path]) -> None:
    run = result_maker()
    rows = records(read_table(run / "results.csv"))
    arm = next(row["arm"] for row in rows if row["protocol"] == "finetune")
    own = [row for row in rows if row["arm"] == arm]
    assert len(own) > 1
    for row in rows:
        row["used_probe"] = False if row["protocol"] in ("finetune", "scratch") else None
    write_csv(run / "results.csv", rows, RESULT_COLUMNS)
    assert "fitting did not help" not in Page(write_report(run)).text
    own[0]["used_probe"] = True
    write_csv(run / "results.csv", rows, RESULT_COLUMNS)
    assert f"{own[0]['title']}: in 1 of {len(own)} fits" in Page(write_report(run)).text


def test_hostile_names_are_escaped(result_maker: Callable[..., Path], store_maker: Callable[..., Cutouts]) -> None:
    hostile = "<script>alert('x')</script>&\"lens"
    run = result_maker(classes=("no", hostile), objects=60, survey=hostile, store=hostile, name=hostile)
    (run / "config.yaml").write_text(f"title: {hostile}")
    page = Page(write_report(run, store_maker(classes=("no", hostile), objects=60)))
    assert "<script" not in page.source
    assert page.all("script") == []
    assert hostile in page.text  # it is shown, as text
    assert any(hostile in (picture["alt"] or "") for picture in page.all("img"))


@pytest.mark.parametrize(
    "part",
    [
        "summary.csv",
        "comparisons.csv",
        "audit.json",
        "data.json",
        "run.json",
        "config.yaml",
        "draws.parquet",
        "correspondence.csv",
        "correspondence_pairs.csv",
        "pretrain",
        "cells",
    ],
)
@pytest.mark.parametrize("damage", [pytest.param("missing", marks=pytest.mark.slow), "garbage"])
def test_a_part_that_is_missing_or_damaged(
    part: str, damage: str, shared_result: Path, store_maker: Callable[..., Cutouts], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(shared_result, run)
    files = [path for path in (run / part).rglob("*") if path.is_file()] if (run / part).is_dir() else [run / part]
    for path in files:
        path.write_bytes(b"\x00\xff{]garbage,\n\n,,\xfe") if damage == "garbage" else path.unlink()
    page = Page(write_report(run, store_maker()))
    assert [section["id"] for section in page.all("section")] == SECTIONS
    expected = {
        "comparisons.csv": "comparisons.csv",
        "audit.json": "No audit",
        "pretrain": "No pretraining curves",
        "cells": "No ROC",
        "correspondence.csv": "correspondence: 256",
    }
    if part in expected:
        assert any(expected[part] in line for line in missing(page))


def test_without_a_store_the_pictures_are_left_out(shared_result: Path, tmp_path: Path) -> None:
    page = Page(write_report(shared_result, None, tmp_path / "report.html"))
    assert page.all("img") == []
    assert sum("No pictures" in line for line in missing(page)) == 2


def test_a_store_with_other_objects(shared_result: Path, store_maker: Callable[..., Cutouts], tmp_path: Path) -> None:
    store = store_maker(objects=5)
    other = Cutouts(store.images, store.table.set_column(0, "id", [["a", "b", "c", "d", "e"]]), store.bands)
    page = Page(write_report(shared_result, other, tmp_path / "report.html"))
    assert sum("in the store" in line for line in missing(page)) == 2


def test_one_draw_and_three_classes(result_maker: Callable[..., Path], store_maker: Callable[..., Cutouts]) -> None:
    classes = ("no_sub", "sphere", "vort")
    page = Page(
        write_report(
            result_maker(classes=classes, draws=1, objects=90),
            store_maker(classes=classes, objects=90, bands=("gray",)),
        )
    )
    assert missing(page) == []
    assert "One draw of the labels" in page.text
    assert all(f"is {name}" in page.text for name in classes)


def test_a_directory_without_results_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.csv"):
        write_report(tmp_path)
    (tmp_path / "results.csv").write_text("arm,labels,draw\n")
    with pytest.raises(UserError, match="no finished cell"):
        write_report(tmp_path)


def test_nan_scores_are_left_out(result_maker: Callable[..., Path]) -> None:
    import pyarrow.parquet as pq

    run = result_maker(objects=60)
    path = run / "cells" / "dino-finetune-n300-d0" / "predictions.parquet"
    table = pq.read_table(path)
    broken = np.where(np.arange(60) < 5, np.nan, table.column("p_lens").to_numpy())
    pq.write_table(table.set_column(table.column_names.index("p_lens"), "p_lens", [broken]), path)
    assert "nan" not in Page(write_report(run)).text
