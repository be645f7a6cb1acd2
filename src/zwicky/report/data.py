"""What the report shows, read from the directory of a benchmark.

A file that a finished benchmark lacks is a `UserError`; in an unfinished one the section says that it was not run yet.
"""

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.errors import UserError
from zwicky.evaluation.arms import Arm
from zwicky.evaluation.bootstrap import Bootstrap, Cell, Interval, Replicates
from zwicky.evaluation.metrics import CLASSIFICATION, roc_curve
from zwicky.evaluation.results import BenchmarkResult, read_table

KINDS = ("ssl", "semi", "supervised", "baseline")
METRICS = (*CLASSIFICATION, "mae", "r2")
RATES = (1e-1, 1e-2, 1e-3, 1e-4)  # false-positive rates at which purity is given
ROC_POINTS = 150
ROC_REPLICATES = 1000  # at most, since a curve takes longer than a number


class NotRun(Exception):
    """A section of the page has nothing to show; the message is printed instead."""


class ReportData(BenchmarkResult):
    """A benchmark's results and what the page derives from them, read on demand."""

    def has(self, name: str) -> bool:
        """Whether a file of the run exists; a finished benchmark must have it."""
        exists = (self.path / name).exists()
        if not exists and self.run.get("finished"):
            raise UserError(f"{self.path / name} is missing from a finished benchmark; restore it or run again")
        return exists

    def require(self, name: str) -> Path:
        """Return the path of a file of the run; `NotRun` if an unfinished benchmark lacks it."""
        if not self.has(name):
            raise NotRun(f"Not run yet: {name} does not exist. Repeat `zwicky benchmark` to finish the benchmark.")
        return self.path / name

    @property
    def main_metrics(self) -> tuple[str, str]:
        """The metrics of the label-efficiency figure; the first is that of the verdict."""
        if not self.columns:
            return "auc", "accuracy"
        return "r2", "mae" if len(self.columns) == 1 else f"mae_{self.columns[0]}"

    @cached_property
    def arms(self) -> list[Arm]:
        """All arms: self-supervised, supervised, baselines; each in the order of the benchmark."""
        rows = self.results.drop_duplicates("arm").fillna({"method": "", "backbone": ""})
        rows = rows[[field.name for field in fields(Arm)]]
        return sorted((Arm(*row) for row in rows.itertuples(index=False)), key=lambda arm: KINDS.index(arm.kind))

    def arm(self, name: str) -> Arm:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    @cached_property
    def labels(self) -> list[int]:
        """The numbers of labels, ascending."""
        return sorted(self.results["labels"].unique().tolist())

    @cached_property
    def first(self) -> int:
        """The smallest number of labels at which the primary arm was run: that of the verdict."""
        rows = self.results[self.results["arm"] == self.primary.name] if self.primary else self.results
        return int(rows["labels"].min())

    @cached_property
    def ends(self) -> list[int]:
        """`first` and the largest number of labels at which a featured arm was run, or the only one."""
        featured = self.results["arm"].isin([arm.name for arm in self.featured])
        return sorted({self.first, int(self.results["labels"][featured].max())})

    @property
    def trials(self) -> str:
        """What the values are means over."""
        design = self.config["design"]
        if design["kind"] == "folds":
            return f"{design['repeats']} × {design['folds']}-fold cross-validation"
        draws = self.results["draw"].nunique()
        return f"{draws} draw{'s' if draws > 1 else ''} of the labels"

    @property
    def condition(self) -> str:
        """What the intervals are conditional on: one pretraining seed, or nothing."""
        if self.results.groupby("arm")["pretrain_seed"].nunique().max() != 1:
            return ""
        is_holdout = self.config["design"]["kind"] == "holdout"
        return "one pretraining" + ("" if is_holdout else " seed, one pretraining per fold")

    @cached_property
    def test_objects(self) -> int:
        """The number of test objects; with folds those of all folds together."""
        return int((self.summary if self.has("summary.csv") else self.results)["test_objects"].max())

    @cached_property
    def primary(self) -> Arm | None:
        """The arm of the verdict: the first fine-tuned one, else the first self-supervised one."""
        arms = [arm for arm in self.arms if arm.kind == "ssl"]
        return next((arm for arm in arms if arm.is_finetuned), arms[0] if arms else None)

    def reference(self, arm: Arm | None) -> Arm | None:
        """Return the same network trained from scratch, else the first network that was, else None."""
        scratch = [other for other in self.arms if arm and other.kind == "supervised" and other.tta == arm.tta]
        return max(scratch, key=lambda other: arm is not None and other.backbone == arm.backbone, default=None)

    def best_baseline(self, network: bool) -> Arm | None:
        """Return the best supervised arm at the fewest labels that is no reference, a network or a simple model."""
        references = [self.reference(arm) for arm in self.arms if arm.kind == "ssl"]
        values = {}
        supervised = [arm for arm in self.arms if arm.kind in ("supervised", "baseline") and arm.tta]
        for arm in [arm for arm in supervised if arm not in references]:
            estimate = self.estimate(arm, self.first, self.main_metrics[0])
            if estimate and (arm.protocol == "scratch") == network:
                values[arm] = estimate.value
        return max(values, key=values.__getitem__, default=None)

    @cached_property
    def featured(self) -> list[Arm]:
        """At most four arms for crowded figures: primary, its reference, best baselines, fine-tuned ones, others."""
        leading = [self.primary, self.reference(self.primary), self.best_baseline(True), self.best_baseline(False)]
        others = sorted(self.arms, key=lambda arm: not arm.is_finetuned)
        return list(dict.fromkeys(arm for arm in [*leading, *others] if arm is not None))[:4]

    @property
    def scattered(self) -> list[Arm]:
        """The first two featured arms with predictions at the largest number of labels."""
        return [arm for arm in self.featured if arm.name in self.predicted[self.ends[-1]]][:2]

    @cached_property
    def markers(self) -> dict[str, int]:
        """Number of the colour and marker of each arm by its title, the featured arms first."""
        return {arm.title: index for index, arm in enumerate(dict.fromkeys([*self.featured, *self.arms]))}

    @cached_property
    def estimates(self) -> dict[tuple[str, int, str], Interval]:
        """Mean over draws by (arm, labels, metric); its limits are NaN for what has no interval in summary.csv."""
        metrics = [name for name in self.results if name.split("_")[0] in METRICS]
        means = self.results.groupby(["arm", "labels"])[metrics].mean().stack()
        estimates = {key: Interval(value, np.nan, np.nan) for key, value in means.dropna().items()}
        for row in self.summary.dropna(subset="value").itertuples() if self.has("summary.csv") else ():
            estimates[row.arm, row.labels, row.metric] = Interval(row.value, row.low, row.high)
        return estimates

    def estimate(self, arm: Arm, labels: int, metric: str) -> Interval | None:
        """Return an entry of `estimates`, None where it was not measured."""
        return self.estimates.get((arm.name, labels, metric))

    @cached_property
    def defined_comparisons(self) -> pd.DataFrame:
        """Rows of comparisons.csv but those whose metric is not defined, such as TPR10 of fewer than 10 negatives."""
        return read_table(self.require("comparisons.csv")).dropna(subset="difference")

    @cached_property
    def differences(self) -> dict[tuple[str, str, int, str], Any]:
        """Rows of comparisons.csv by (arm, reference, labels, metric), in both directions; empty where not run yet."""
        if not self.has("comparisons.csv"):
            return {}
        rows = self.defined_comparisons
        names = {"arm": "reference", "reference": "arm", "low": "high", "high": "low"}
        swapped = rows.rename(columns=names)[rows.columns]
        swapped[["difference", "low", "high"]] *= -1
        both = [*swapped.itertuples(), *rows.itertuples()]
        return {(row.arm, row.reference, row.labels, row.metric): row for row in both}

    def difference(self, arm: Arm | None, reference: Arm | None, labels: int, metric: str = "") -> Any:
        """Return arm − reference in a metric (by default that of the verdict), None where it was not tested."""
        names = (arm and arm.name, reference and reference.name)
        return self.differences.get((*names, labels, metric or self.main_metrics[0]))  # type: ignore[arg-type]

    @cached_property
    def predicted(self) -> dict[int, dict[str, list[Cell]]]:
        """Predictions of the featured arms at both `ends`: number of labels → arm → one cell per draw."""
        return {labels: self.cells(labels, [arm.name for arm in self.featured]) for labels in self.ends}

    @cached_property
    def n_negatives(self) -> int:
        """Test objects that are not of the positive class, in the draw that has most."""
        cells = [cell for arms in self.predicted.values() for arm in arms.values() for cell in arm]
        return max(int(np.sum(cell.truth != len(self.classes) - 1)) for cell in cells)

    @cached_property
    def fpr(self) -> np.ndarray:
        """The false-positive rates of the ROC curves: 0, `ROC_POINTS` rates and `RATES`."""
        return np.unique([0.0, *np.geomspace(1 / self.n_negatives, 1, ROC_POINTS), *RATES])

    @cached_property
    def roc_replicates(self) -> dict[int, Replicates]:
        """Recall at `fpr` of the featured arms at both `ends`, with the bootstrap and the seed of summary.csv."""
        options = min(ROC_REPLICATES, self.config["replicates"]), self.config["seed"]
        return {n: Bootstrap(cells, *options).apply(roc_curve(self.fpr)) for n, cells in self.predicted.items()}

    @cached_property
    def roc(self) -> dict[int, dict[Arm, Interval]]:
        """Mean and 95 % interval of `roc_replicates`."""
        curves = self.roc_replicates.items()
        return {n: {arm: r.interval(arm.name) for arm in self.featured if arm.name in r.values} for n, r in curves}

    @cached_property
    def correspondence(self) -> pd.DataFrame:
        """correspondence.csv with a column `title`, one row per pretraining."""
        if not self.config["correspondence"]:
            raise NotRun("Not measured; `correspondence: 256` in the recipe matches regions of 256 test objects.")
        if not self.config["methods"]:
            raise NotRun("Not measured: nothing was pretrained.")
        table = read_table(self.require("correspondence.csv"))
        return table.assign(title=table["method"] + ", " + table["network"])


def load_results(run: Path | str) -> ReportData:
    """Open the directory of a benchmark with at least one finished cell."""
    data = ReportData(Path(run))
    if data.results.empty:
        raise UserError(f"{data.path / 'results.csv'} has no finished cell; repeat `zwicky benchmark` to finish one")
    return data
