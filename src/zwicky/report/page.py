"""The report: one self-contained HTML page about a benchmark. Layout and prose are in `templates/page.html`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup, escape
from matplotlib import style

from zwicky.data.cutouts import Cutouts
from zwicky.evaluation.results import read_table
from zwicky.io import read_json, write_text
from zwicky.report import figures, tables
from zwicky.report.data import NotRun, ReportData, load_results
from zwicky.report.verdict import network_sentences, ranking_sentence, verdict
from zwicky.training.budget import budget_text

EXAMPLES = 8  # pictures in a row
GALLERY = 24  # pictures in the gallery, shared among the classes
RANKED = 100  # pictures of the objects without a label
NO_CUTOUTS = "No pictures: the cutouts were not found; give them with `zwicky report RUN --data STORE`."
SHOWN = 6  # networks with drawings of their matches


class Picture(NamedTuple):
    """A cutout as a PNG address, with its id, true class and score."""

    address: str
    name: str
    label: str
    score: float


def write_report(run: Path | str, data: Cutouts | None = None, out: Path | str | None = None) -> Path:
    """Write the HTML page about the benchmark in `run`, by default as RUN/report.html, and return its path.

    Without `data`, the cutouts that it was run on, there are no pictures.
    """
    path = Path(run) / "report.html" if out is None else Path(out)
    with style.context(Path(__file__).parent / "templates" / "figures.mplstyle"):
        write_text(path, render(load_results(run), data))
    return path


def make_environment() -> jinja2.Environment:
    """Return the templates, with the filters and tests that they use."""
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("zwicky.report"), **options)  # type: ignore[arg-type]
    environment.globals |= {"figures": figures, "tables": tables, "markers": {}}
    environment.tests["missing"] = lambda content: isinstance(content, NotRun)
    environment.filters |= {name: getattr(tables, name) for name in ("count", "plural", "duration")}
    environment.filters["yaml"] = lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    environment.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    return environment


def render(data: ReportData, cutouts: Cutouts | None) -> str:
    """Return the page as text."""
    environment = make_environment()
    environment.globals |= {"markers": data.markers, "budget_text": budget_text}
    sections: dict[str, Callable[[], Any]] = {
        "audit": lambda: read_json(data.require("audit.json")),
        "networks": lambda: (network_sentences(data), tables.network_differences(data)),
        "differences": lambda: data.defined_comparisons,
        "purity": lambda: tables.purity_table(data) if data.classes else None,
        "finetuning": lambda: figures.finetuning(data),
        "regions": lambda: regions(data),
        "pictures": lambda: pictures(data, cutouts),
        "ranked": lambda: ranked(data, cutouts),
    }
    contents = {}
    for name, build in sections.items():
        try:
            contents[name] = build()
        except NotRun as reason:
            contents[name] = reason
    pretraining = {  # run.json of a pretraining has no warnings before it finishes
        name: ({"warnings": []} | read_json(data.path / "pretrain" / name / "run.json"), log)
        for name, log in data.pretraining().items()
    }
    metrics = list(dict.fromkeys(key[2] for key in data.estimates))
    return environment.get_template("page.html").render(
        data=data,
        card=data.data,
        verdict=verdict(data),
        cutouts=cutouts,
        pretraining=pretraining,
        efficiency=[figures.efficiency(data, name, data.arms) for name in data.main_metrics if name in metrics],
        metrics=metrics,
        **contents,
    )


def regions(data: ReportData) -> dict[str, Any]:
    """Return the drawings of region correspondence by network, and the differences between networks."""
    pictures = {}
    for title, runs in list(data.correspondence.groupby("title", sort=False))[:SHOWN]:
        path = data.require(f"pretrain/{runs['run'].iloc[0]}/correspondence.npz")
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)  # each is read once
        height, width = map(int, runs["regions"].iloc[0].split("×"))
        n_bands = arrays["crops"].shape[2]
        bands = data.data["bands"] if len(data.data["bands"]) == n_bands else [str(k) for k in range(n_bands)]
        pictures[title] = figures.matches(arrays, (height, width), bands, str(title))
    return {"pictures": pictures, "pairs": read_table(data.require("correspondence_pairs.csv"))}


def pictures(data: ReportData, cutouts: Cutouts | None) -> dict[str, dict[str, list[Picture]]]:
    """Return pictures of test objects of the primary arm at the fewest labels, scored by their mean over draws.

    `examples` are the best candidates, false positives and missed positives, or the extreme errors of a regression;
    `gallery` has a few of each class, evenly spaced in id, whatever their scores.
    """
    if cutouts is None:
        raise NotRun(NO_CUTOUTS)
    cells = []
    for cell in data.predicted[data.first][data.featured[0].name]:
        labels = np.array(data.classes)[cell.truth] if data.classes else "test objects"
        score = cell.predicted[:, -1] if data.classes else np.abs(cell.predicted - cell.truth).mean(1)
        cells.append(pd.DataFrame({"id": cell.ids, "label": labels, "score": score}))
    table = pd.concat(cells).groupby(["id", "label"], as_index=False)["score"].mean()
    table = table.assign(row=pd.Index(cutouts.ids).get_indexer(table["id"])).query("row >= 0").sort_values("id")
    if table.empty:
        raise NotRun("No pictures: none of the test objects is in these cutouts.")
    ranked = table.sort_values("score", ascending=False, kind="stable")
    if data.classes:
        is_positive = ranked["label"] == data.classes[-1]
        positive, negative = ranked[is_positive], ranked[~is_positive]
        groups = {"Best candidates": positive, "False positives": negative, "Missed": positive[::-1]}
    else:
        groups = {"Smallest error": ranked[::-1], "Largest error": ranked}
    kinds = table.groupby("label")
    n = max(2, min(EXAMPLES, GALLERY // len(kinds)))
    return {
        "examples": {title: show(group[:EXAMPLES], cutouts) for title, group in groups.items() if len(group)},
        "gallery": {kind: show(group.iloc[figures.spread(len(group), n)], cutouts) for kind, group in kinds},
    }


def ranked(data: ReportData, cutouts: Cutouts | None) -> dict[str, Any] | None:
    """Return the top of `ranked.csv` as pictures, and how many of it are positive if that is known; None without it."""
    if not (data.path / "ranked.csv").exists():
        return None
    if cutouts is None:
        raise NotRun(NO_CUTOUTS)
    table, network = read_table(data.path / "ranked.csv", ("id", "label")), read_json(data.path / "ranking.json")
    alike = table[table["distance"] <= 1] if "distance" in table else table
    top = alike.head(RANKED).rename(columns={"probability": "score"})
    top = top.assign(row=pd.Index(cutouts.ids.astype(str)).get_indexer(top["id"]), label=top.get("label"))
    known = top["label"].dropna()
    return {
        "network": network,
        "quality": ranking_sentence(data, network["arm"], network["labels"]),
        "count": len(table),
        "unlike": len(table) - len(alike),
        "known": len(known),
        "positive": int((known == data.classes[-1]).sum()),
        "pictures": show(top.fillna({"label": "no label"}).query("row >= 0"), cutouts),
    }


def show(sheet: pd.DataFrame, cutouts: Cutouts) -> list[Picture]:
    """Return pictures of the objects of a table of row, id, label and score."""
    uris = (figures.data_uri(cutouts.images[int(row)], cutouts.bands) for row in sheet["row"])
    texts = sheet[["id", "label", "score"]].itertuples(index=False, name=None)
    return [Picture(uri, str(name), label, float(score)) for uri, (name, label, score) in zip(uris, texts, strict=True)]
