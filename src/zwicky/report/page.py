"""The page: what stands where. Each section is a function; one that cannot be made leaves a line of why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from zwicky.data.contract import Cutouts
from zwicky.io import write_text
from zwicky.report import examples, repeat, sections, tables, words
from zwicky.report.correspondence import correspondence
from zwicky.report.material import Material, Missing, gather, is_number
from zwicky.report.networks import networks
from zwicky.report.verdict import verdict


@dataclass(frozen=True)
class Section:
    """One section of the page; `missing` is the line that stands where the body cannot be made."""

    key: str
    title: str
    body: Markup
    missing: str = ""


def write_report(run: Path, data: Cutouts | None = None, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a benchmark.

    Args:
        run: the directory `zwicky benchmark` wrote.
        data: the cutouts it was run on, for the pictures; None leaves them out.
        out: where to write; None means RUN/report.html.

    Raises:
        UserError: the directory holds no finished cell, or the page cannot be written.
    """
    out = run / "report.html" if out is None else out
    write_text(out, render(gather(run), data))
    return out


def render(material: Material, store: Cutouts | None) -> str:
    """The page as text."""
    parts: list[tuple[str, str, Callable[[], Markup]]] = [
        ("audit", "Data audit", lambda: sections.audit(material)),
        *(
            [("networks", "Network comparison", lambda: networks(material))]
            if material.data.get("compare_with")
            else []
        ),
        ("efficiency", "Label efficiency", lambda: sections.efficiency(material)),
        ("differences", "Paired differences", lambda: tables.differences(material)),
        ("roc", "ROC curves", lambda: sections.roc(material)),
        ("recall", "Recall at few false positives, and purity", lambda: sections.recall(material)),
        ("curves", "Training curves", lambda: sections.curves(material)),
        ("regions", "Region correspondence", lambda: correspondence(material)),
        ("confusion", "Confusion matrices", lambda: sections.confusion(material)),
        ("calibration", "Calibration", lambda: sections.calibration(material)),
        ("examples", "Correct and incorrect examples", lambda: examples.extremes(material, store)),
        ("gallery", "The data", lambda: examples.gallery(material, store)),
        ("repeat", "Reproducibility", lambda: repeat.repeat(material)),
    ]
    built = [_section(*part) for part in parts]
    folder = resources.files("zwicky.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=material.data.get("title")
        or f"{material.data.get('name') or material.result.path.resolve().name}: label efficiency",
        verdict=verdict(material),
        size_note=material.data.get("size_note"),
        facts=facts(material),
        sections=built,
        style=Markup((folder / "style.css").read_text(encoding="utf-8")),
    )


def _section(key: str, title: str, build: Callable[[], Markup]) -> Section:
    try:
        return Section(key, title, build())
    except Missing as reason:
        return Section(key, title, Markup(""), str(reason))


def facts(material: Material) -> Markup:
    """What the numbers were measured on, in a few words."""
    data = material.data
    size, scale = data.get("size"), data.get("pixel_scale")
    pixels = " × ".join(str(side) for side in size) + " px" if isinstance(size, list) else None
    if pixels and is_number(scale):
        pixels += f" at {scale:g}″ a pixel"
    classes = data.get("class_counts")
    seeds = material.pretrain_seeds
    return tables.facts(
        [
            ("Data", words.data_kind(data.get("simulated"))),
            ("Survey", data.get("survey")),
            ("Objects", words.count(data["objects"]) if is_number(data.get("objects")) else None),
            (
                "Classes",
                ", ".join(f"{name} {words.count(n)}" for name, n in classes.items())
                if isinstance(classes, dict)
                else None,
            ),
            ("Positive class", data.get("positive")),
            ("Bands", ", ".join(map(str, data["bands"])) if isinstance(data.get("bands"), list) else None),
            ("Size", pixels),
            ("Labels", ", ".join(words.count(n) for n in material.labels)),
            ("Averaged over", material.trials),
            ("Pretraining seeds", f"1 (conditional on {material.conditional})" if seeds == 1 else seeds or "none"),
            ("Test objects", words.count(material.test_objects)),
        ]
    )
