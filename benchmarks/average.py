"""What the average of arms is worth: `python benchmarks/average.py RUN ARM ARM [ARM…] --out TABLE.csv`.

RUN is a finished benchmark of classes. The probabilities of the arms are averaged as log-odds in each cell, with equal
weights, and the average is compared in pairs with each of them, on the same draws and tested objects.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from tables import write_csv

from zwicky.evaluation.bootstrap import Bootstrap, Interval, Replicates, holm
from zwicky.evaluation.metrics import statistics
from zwicky.evaluation.results import BenchmarkResult

LEAST = 1e-6  # a probability of 0 would decide alone


def averaged(probabilities: list[np.ndarray]) -> np.ndarray:
    """Return the softmax of the mean of the logarithms of probabilities [N, classes] of several arms."""
    return softmax(np.mean([np.log(np.clip(one, LEAST, 1)) for one in probabilities], axis=0), axis=1)


def interval_rows(estimate: Replicates, arms: Mapping[str, str], gaps: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """Return value and interval of each of `arms` (title → arm), its difference of `gaps` and that one's p after Holm.

    Cells are empty where an arm has no difference.
    """
    corrected, rows = dict(zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True)), []
    for title, arm in arms.items():
        value, gap = estimate.interval(arm), gaps.get(title)
        row = {"value": value.value, "low": value.low, "high": value.high}
        names = ("difference", "difference_low", "difference_high", "p_holm")
        numbers = (gap.value, gap.low, gap.high, corrected[title]) if gap else ("",) * 4
        row |= dict(zip(names, numbers, strict=True))
        rows.append({name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()})
    return rows


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result, rows = BenchmarkResult(given.run), []
    for labels in sorted(result.results["labels"].unique()):
        cells = result.cells(labels, given.arms)
        if set(cells) < set(given.arms):
            continue
        cells["average"] = []
        for members in zip(*(cells[arm] for arm in given.arms), strict=True):
            if any((one.ids != members[0].ids).any() for one in members):
                raise SystemExit("the arms were tested on other objects; take those of one benchmark")
            predicted = averaged([one.predicted for one in members])
            cells["average"].append(replace(members[0], predicted=predicted, pretrain_seed=None))
        bootstrap = Bootstrap(cells, result.config["replicates"], result.config["seed"])
        for metric in ("accuracy", "auc"):
            estimate = bootstrap.apply(statistics()[metric])
            gaps = {arm: estimate.difference("average", arm) for arm in given.arms}
            found = interval_rows(estimate, {arm: arm for arm in cells}, gaps)
            rows += [
                {"arm": arm, "labels": labels, "metric": metric} | row for arm, row in zip(cells, found, strict=True)
            ]
    if not rows:
        raise SystemExit(f"{given.run} has no number of labels with all of {', '.join(given.arms)}")
    note = f"mean log-odds of {', '.join(given.arms)}; 95 % intervals; the average minus each arm, paired"
    write_csv(given.out, rows, [note], ["torch"])
    for row in rows:
        print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
