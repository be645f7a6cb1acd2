"""Write docs/results.md from the tables in docs/tables: `python benchmarks/results_page.py`.

`--add NAME RUN` first copies the tables of a finished benchmark, with the command, date, commit and the digests of its
recipe and of tests/golden.json. A table is stale when one of the two has changed since: the settings, or the numbers of
the pipeline, are others. Sections of the template that describe the code as it is call `current(NAME)`, which refuses
stale tables; older ones stand under their own heading, with the date.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

ROOT = Path(__file__).parent.parent
TABLES, PAGE, RECORDS = ROOT / "docs/tables", ROOT / "docs/results.md", ROOT / "docs/tables/tables.json"
METHODS = {"dino": "DINO", "ibot": "iBOT", "esvit": "EsViT", "simsiam": "SimSiam", "simmim": "SimMIM", "mae": "MAE"}
METHODS |= {"byol": "BYOL", "beit": "BEiT", "lejepa": "LeJEPA"}
METHODS |= {"rings": "zwicky-rings"}
ENDS = {"finetune": "fine-tuned", "linear": "frozen, linear probe", "knn": "frozen, kNN probe"}
ENDS |= {"blocks": "frozen, probe of all blocks", "supervised": "from scratch", "selftrain": "self-trained"}
NAMES = {"radial-colour": "radial colours + logistic regression", "pca-linear": "PCA + logistic regression"}
NAMES["pca-logistic"] = NAMES["pca-linear"]  # in older tables
NAMES |= {"pca-boosting": "PCA + boosted trees", "modes": "radial × azimuthal modes + logistic regression"}


def digest(path: Path) -> str:
    """Return the first digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def state(recipe: str) -> dict[str, str]:
    """Return what must be the same for a table to be current."""
    files = {"recipe": ROOT / f"src/zwicky/recipes/{recipe}.yaml", "golden": ROOT / "tests/golden.json"}
    return {name: digest(path) for name, path in files.items() if path.exists()}


def add(name: str, run: Path) -> None:
    """Copy summary.csv and comparisons.csv of a finished benchmark and record how they were made."""
    record = json.loads((run / "run.json").read_text())
    for table in ("summary", "comparisons", "correspondence"):
        if (run / f"{table}.csv").exists():
            shutil.copy(run / f"{table}.csv", TABLES / f"{name}-{table}.csv")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    words = shlex.split(record["command"])  # with the folders of the docs
    for option, folder in (("--data", "stores"), ("--out", "runs")):
        words[words.index(option) + 1] = f"{folder}/{Path(words[words.index(option) + 1]).name}"
    made = {"command": shlex.join(words), "date": str(record["finished"])[:10], "commit": commit.strip()}
    recipe = words[2] if words[1] == "benchmark" else name
    made |= {"of": recipe} if recipe != name else {}
    records = json.loads(RECORDS.read_text()) | {name: made | state(recipe)}
    RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")


def title(arm: str) -> str:
    """Return the name of an arm in words."""
    if arm in NAMES:
        return NAMES[arm]
    averaged = arm.removesuffix("-one-view").removesuffix("-no-tta")
    view, arm = ", one view" * (arm != averaged), averaged
    arm = arm.replace("self-training", "selftrain")
    method = next((m for m in METHODS if arm.startswith(f"{m}-")), "")
    network, _, end = arm.removeprefix(f"{method}-").rpartition("-")
    network = "ResNet-18" if network == "resnet18" else network.replace("-", " ")
    if not method:
        return f"{network} {ENDS.get(end, end)}{view}"
    return f"{METHODS[method]}, {network}, {ENDS.get(end, end)}{view}"


class Page:
    """What the template calls."""

    def __init__(self) -> None:
        self.records = json.loads(RECORDS.read_text())

    def has(self, name: str) -> bool:
        """Return whether a table is there."""
        return (TABLES / f"{name}-summary.csv").exists()

    def stale(self, name: str) -> str:
        """Return why a table is older than the code; "" if it is not."""
        record = self.records[name]
        changed = [what for what, value in state(record.get("of", name)).items() if record.get(what) != value]
        return " and ".join({"recipe": "its recipe", "golden": "the numbers of the pipeline"}[what] for what in changed)

    def current(self, name: str) -> str:
        """Return when a table was made; ValueError if it is stale."""
        if reason := self.stale(name):
            raise ValueError(f"table {name} is stale, {reason} changed; run again: {self.records[name]['command']}")
        return self.made(name)

    def made(self, name: str) -> str:
        """Return when a table was made, by which commit."""
        return f"Made on {self.records[name]['date']} at commit {self.records[name]['commit']}"

    def read(self, name: str, kind: str = "summary") -> pd.DataFrame:
        """Read a table."""
        return pd.read_csv(TABLES / f"{name}-{kind}.csv", comment="#")

    def value(self, name: str, arm: str, labels: int, metric: str = "auc") -> str:
        """Return "0.834 [0.799, 0.861]", in per cent for accuracies."""
        row = self.read(name).query("arm == @arm and labels == @labels and metric == @metric")
        return interval(row.iloc[0], "value", metric) if len(row) else ""

    def gap(self, name: str, arm: str, reference: str, labels: int, metric: str = "auc") -> str:
        """Return a paired difference with its interval, and a star if it is significant."""
        row = self.read(name, "comparisons").query(
            "arm == @arm and reference == @reference and labels == @labels and metric == @metric"
        )
        return interval(row.iloc[0], "difference", metric) + " ★" * bool(row.iloc[0]["significant"])

    def table(
        self, name: str, metric: str = "auc", only: str | tuple[str, ...] = "", labels: tuple[int, ...] = ()
    ) -> str:
        """Return arms × numbers of labels; `only` keeps the arms whose names end so."""
        rows = self.read(name).query("metric == @metric")
        counts = labels or sorted(rows["labels"].unique())
        arms = [arm for arm in rows["arm"].unique() if arm.endswith(only)]
        head = "accuracy, %" if metric == "accuracy" else metric.upper()
        lines = [[title(arm), *(self.value(name, arm, n, metric) for n in counts)] for arm in arms]
        return markdown([head, *(f"{n:,} labels" for n in counts)], lines)

    def pairs(self, name: str, metric: str = "auc", reference: str | tuple[str, ...] = "", arm: str = "") -> str:
        """Return paired differences, all or those of an arm or against a reference (by the ends of their names)."""
        rows = self.read(name, "comparisons").query("metric == @metric")
        rows = rows[rows["reference"].str.endswith(reference) & rows["arm"].str.endswith(arm)]
        head = ["labels", "arm", "against", f"difference in {metric.upper()}", "p (Holm)"]
        lines = [
            [f"{row.labels:,}", title(row.arm), title(row.reference), interval(row._asdict(), "difference", metric)]
            + [f"{row.p_holm:.3f}" + " ★" * bool(row.significant)]
            for row in rows.itertuples()
        ]
        return markdown(head, lines)

    def cell(self, path: str, text: str, query: str) -> str:
        """Return the format string `text` filled from the one row of another table that the query finds."""
        (row,) = pd.read_csv(ROOT / path, comment="#").query(query).to_dict("records")
        return text.format(**row)

    def rows(self, path: str, columns: dict[str, str], query: str = "") -> str:
        """Return rows of another table: `columns` maps headings to format strings of a row's fields."""
        frame = pd.read_csv(ROOT / path, comment="#")
        frame = frame.query(query) if query else frame
        lines = [[text.format(**row) for text in columns.values()] for row in frame.to_dict("records")]
        return markdown(list(columns), lines)


def interval(row: Any, column: str, metric: str) -> str:
    """Format value and interval of a row."""
    scale, digits = (100, 1) if metric == "accuracy" else (1, 3)
    sign = "+" if column == "difference" else ""
    return "{0:{s}.{d}f} [{1:{s}.{d}f}, {2:{s}.{d}f}]".format(
        *(scale * row[name] for name in (column, "low", "high")), s=sign, d=digits
    )


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def render() -> str:
    """Return the page; ValueError if the template calls a stale table current."""
    loader = jinja2.FileSystemLoader(TABLES)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    page = Page()
    names = {name: getattr(page, name) for name in dir(page) if not name.startswith("_")}
    return environment.get_template("results.md.jinja").render(**names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=2, metavar=("NAME", "RUN"), help="copy the tables of a finished benchmark first")
    given = parser.parse_args()
    if given.add:
        add(given.add[0], Path(given.add[1]))
    PAGE.write_text(render())
