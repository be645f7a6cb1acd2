"""The page: complete, self-contained, accessible, and clear about what is missing."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from zwicky.errors import UserError
from zwicky.io import write_json
from zwicky.report import figures
from zwicky.report.data import load_results
from zwicky.report.page import pictures, ranked, write_report
from zwicky.report.verdict import ranking_sentence

from .conftest import make_cutouts, make_run

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = ["efficiency", "differences", "roc", "recall", "calibration", "confusion", "curves", "regions"]
SECTIONS += ["examples", "gallery", "audit", "reproducibility"]


class Page(HTMLParser):
    """The tags and the text of a page; fails on a tag closed out of order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.source)
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, {key: value or "" for key, value in attributes}))

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text = " ".join([*self.text.split(" "), *data.split()])

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def missing(self) -> list[str]:
        return re.findall(r'<p class="missing">(.*?)</p>', self.source)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Page:
    return Page(write_report(run, make_cutouts(), tmp_path_factory.mktemp("page") / "report.html"))


def test_all_sections_in_order_and_nothing_missing(page):
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert "`" not in re.sub(r"<pre.*?</pre>", "", page.source, flags=re.S)
    assert [line for line in page.missing if "No purity" not in line] == []  # 40 negatives are too few for it


def test_first_screen_has_verdict_figure_and_pictures(page):
    first = page.source[: page.source.index('class="details"')]
    assert 'class="verdict better"' in first
    assert first.count("<svg") == 1
    assert "AUC against number of labels" in first
    assert "test objects, simulated images; mean over" in first.split("<figcaption>")[1]
    assert first.count("<img") == 12
    assert "total flux has AUC 0.74" in first


def test_short_table_of_differences_before_the_folded_one(page):
    section = page.source.split('<section id="differences">')[1].split("</section>")[0]
    short, full = section.split("<details>")
    assert short.count('<tr><th scope="row">') == 6  # three pairs at two numbers of labels
    assert full.count('<tr><th scope="row">') == 24  # four metrics
    assert "first significantly better" in short
    assert ".scroll caption { position: sticky" in page.source  # whole on a phone, where the table scrolls
    assert "details::details-content { display: block; content-visibility: visible" in page.source  # open in print


def test_self_contained(page):
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"url\((?!#)|@import|//cdn", page.source)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert len(page.source) < 1_500_000


def test_accessible(page):
    drawings = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(drawings) == len(page.all("svg")) > 10
    assert all(len(drawing["aria-label"]) > 20 for drawing in drawings)
    assert all(len(picture["alt"]) > 5 for picture in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 8
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))


def test_ids_are_unique_and_references_resolve(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"|url\()#([\w-]+)", page.source)) <= set(ids)


def test_facts_warnings_and_reproducibility(page):
    texts = ["simulated images", "conditional on one pretraining", "rotation: auto", "2.8.0", "75 s"]
    texts += ["the loss stopped falling", "DINO, fine-tuned: in 2 of 4 fits"]
    texts += ["zwicky benchmark desk --data stores/demo --out runs/desk"]
    assert [text for text in texts if text not in page.text] == []


def test_same_input_same_page(run, tmp_path):
    one, two = (write_report(run, None, tmp_path / name).read_text() for name in ("a.html", "b.html"))
    assert one == two
    assert one.count("No pictures") == 3
    other_objects = Page(write_report(run, make_cutouts(0), tmp_path / "report.html"))
    assert sum("none of the test objects" in line for line in other_objects.missing) == 3


def test_names_are_escaped(tmp_path):
    name = "<script>alert('x')</script>&\"lens"
    run = make_run(tmp_path, classes=("no", name), survey=name, title=name, size_note=name)
    page = Page(write_report(run, make_cutouts()))
    assert "<script" not in page.source
    assert name in page.text
    assert any(name in picture["alt"] for picture in page.all("img"))


@pytest.mark.parametrize("name", ["summary.csv", "comparisons.csv", "audit.json", "correspondence.csv", "cells"])
def test_missing_file_of_a_finished_run_is_an_error(name, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / name) if name == "cells" else (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}.* is missing"):
        write_report(copy)


def test_unfinished_run_says_what_was_not_run(tmp_path):
    run = make_run(tmp_path, finished=False)
    for name in ("summary.csv", "comparisons.csv", "correspondence.csv"):
        (run / name).unlink()
    page = Page(write_report(run, make_cutouts()))
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert "not finished: no difference has been tested" in page.text
    assert all(any(name in line for line in page.missing) for name in ("comparisons.csv", "correspondence.csv"))


def test_three_classes_and_one_draw(tmp_path):
    run = make_run(tmp_path, classes=("no_sub", "sphere", "vort"), draws=1)
    page = Page(write_report(run, make_cutouts(bands=("gray",))))
    assert "One draw of the labels" in page.text
    assert all(f"predicted {name}" in page.text for name in ("no_sub", "sphere", "vort"))


def test_ids_and_labels_of_the_ranking_are_text(tmp_path):
    run, cutouts = make_run(tmp_path, classes=("0", "1")), make_cutouts()
    cutouts.table["id"] = [f"{number:04d}" for number in range(len(cutouts))]
    (run / "ranked.csv").write_text("id,file,label,probability\n0003,a,1,0.9\n0001,b,,0.8\n0002,c,0,0.7\n")
    write_json(run / "ranking.json", {"arm": load_results(run).featured[0].name, "title": "T", "labels": 100})
    top = ranked(load_results(run), cutouts)
    assert (top["known"], top["positive"], len(top["pictures"])) == (2, 1, 3)
    lines = ("id,probability,distance", "0003,0.9,0.5", "0001,0.8,1.5", "0002,0.7,1.0")
    (run / "ranked.csv").write_text("\n".join(lines) + "\n")
    top = ranked(load_results(run), cutouts)
    assert [picture.name for picture in top["pictures"]] == ["0003", "0002"]  # alike to what was learned from
    assert (top["count"], top["unlike"]) == (3, 1)
    assert "best network, “DINO, fine-tuned”" in ranking_sentence(load_results(run), "pca-linear", 100)


def test_examples_are_the_extremes_of_the_score(run, tmp_path):
    cutouts, number = make_cutouts(), make_run(tmp_path / "run", columns=("theta_E",))
    classes, errors = (pictures(load_results(path), cutouts)["examples"] for path in (run, number))
    scores = {title: [picture.score for picture in shown] for title, shown in (classes | errors).items()}
    for title, falls in (("Best candidates", True), ("False positives", True), ("Missed", False)):
        assert scores[title] == sorted(scores[title], reverse=falls)
        assert {picture.label for picture in classes[title]} == {"nonlens" if title == "False positives" else "lens"}
    assert scores["Missed"][-1] < scores["Best candidates"][-1]
    assert scores["Smallest error"][0] < scores["Smallest error"][-1] < scores["Largest error"][-1]
    for picture in classes["Missed"]:
        (row,) = cutouts.rows_of([picture.name])
        assert picture.address == figures.data_uri(cutouts.images[row], cutouts.bands)


def test_the_legend_of_a_scatter_is_of_its_points(tmp_path):
    run = make_run(tmp_path, columns=("theta_E",), objects=60)
    first, second, third, *_ = (arm for arm in load_results(run).featured)
    table = pd.read_csv(run / "results.csv")
    table[(table["arm"] != first.name) | (table["labels"] < table["labels"].max())].to_csv(run / "results.csv")
    assert load_results(run).featured[0] == first
    section = Page(write_report(run, make_cutouts(60))).source.split('<section id="scatter">')[1].split("</section>")[0]
    assert [arm.title in section for arm in (first, second, third)] == [False, True, True]


@pytest.mark.parametrize("columns", [(), ("theta_E",)])
def test_more_labels_may_be_those_of_arms_that_are_not_featured(tmp_path, columns):
    """Probes and baselines are trained with all numbers of labels, networks perhaps with the fewest only."""
    run = make_run(tmp_path, columns=columns, objects=60)
    table = pd.read_csv(run / "results.csv")
    table.loc[table["labels"] == 400, ["arm", "method", "protocol", "kind"]] = ["modes"] * 2 + ["baseline"] * 2
    table.to_csv(run / "results.csv")
    assert load_results(run).ends == [100]
    assert "400" in Page(write_report(run)).text


def test_what_is_not_defined_is_no_tie(tmp_path):
    """Recall with 10 false positives among 7 negatives; and draws that no pretraining seed was used for."""
    run = make_run(tmp_path / "run", objects=14, pretrain_seeds=5)
    page = Page(write_report(run))
    assert "nan" not in page.text
    assert "<dt>Pretraining seeds</dt><dd>1<" in page.source


def test_regression(tmp_path):
    run = make_run(tmp_path, columns=("theta_E", "$\\foo$"), objects=60)
    page = Page(write_report(run, make_cutouts(60)))
    sections = [section["id"] for section in page.all("section")]
    assert ("scatter" in sections, "roc" in sections) == (True, False)
    assert "At 100 labels, pretraining changes R² by +" in page.text
    assert all(text in page.text for text in ("MAE of theta_E by number of labels", "Smallest error", "Largest error"))
