"""What the curves of a pretraining say about its health, in words.

The width of the embeddings and the number of prototypes are not in the curves, so a run is judged against its own
beginning; `zwicky.methods.collapse` judges by absolute values while it trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zwicky.report.material import is_number


@dataclass(frozen=True)
class Health:
    """state: healthy | doubtful | collapsed | unknown; reasons: one sentence each."""

    state: str
    reasons: tuple[str, ...]


def series(rows: Sequence[dict[str, Any]], column: str) -> np.ndarray:
    """[T] float: a column of the curves, NaN where it holds no number. A logged `nan` or `inf` stays as it is."""
    return np.array([float(value) if isinstance(value := row.get(column), int | float) else math.nan for row in rows])


def ends(values: np.ndarray) -> tuple[float, float] | None:
    """Mean of the first and of the last tenth of the finite values; None with fewer than four."""
    finite = values[np.isfinite(values)]
    share = max(1, len(finite) // 10)
    return (float(finite[:share].mean()), float(finite[-share:].mean())) if len(finite) >= 4 else None


def health(rows: Sequence[dict[str, Any]], warnings: Any = None) -> Health:
    """Judge one pretraining by its loss and gauges, and by the warnings it gave while it trained, if any."""
    if any(isinstance(row.get("loss"), float) and not is_number(row["loss"]) for row in rows):
        return Health("collapsed", ("The loss became infinite or not a number: lower the learning rate.",))
    bad = [f"It warned: {warning}." for warning in warnings] if isinstance(warnings, list) else []
    doubts: list[str] = []
    good: list[str] = []
    loss = ends(series(rows, "loss"))
    if loss is None:
        return Health("doubtful" if bad else "unknown", (*bad, "Too few steps were logged to judge."))
    for column in dict.fromkeys(key for row in rows for key in row):
        if (pair := ends(series(rows, column))) is None:
            continue
        first, last = pair
        # Some methods need little spread at the start, so the best of the run is the measure.
        best = float(np.nanmax(series(rows, column)[np.isfinite(series(rows, column))]))
        if column.endswith("embedding_std"):
            if last < 0.1 * best:
                bad.append(
                    f"The spread of the embeddings fell to {last / best:.0%} of its best: they became nearly constant."
                )
            else:
                good.append(f"the embeddings keep their spread ({first:.3g} → {last:.3g})")
        elif "rank" in column:
            if last < 2:
                bad.append(f"The effective rank of the embeddings is {last:.1f}: they lie on a line.")
            elif last < 0.25 * best:
                doubts.append(f"The effective rank of the embeddings fell from {best:.1f} to {last:.1f}.")
            else:
                good.append(f"their effective rank ends at {last:.1f}")
        elif column.endswith("marginal_entropy") and last < 0.2 * best:
            bad.append("The teacher gives nearly all images one of a few answers: collapse onto few prototypes.")
        elif column.endswith("teacher_kl") and last < 0.02 * loss[1] and abs(loss[1] - loss[0]) < 0.02 * abs(loss[0]):
            bad.append("Loss and teacher entropy are equal and flat: the teacher is undecided, collapse to uniform.")
    kl = ends(series(rows, "teacher_kl"))
    if loss[1] < loss[0] - 0.01 * abs(loss[0]):
        good.insert(0, f"the loss fell from {loss[0]:.3g} to {loss[1]:.3g}")
    elif kl is not None and kl[1] < 0.9 * kl[0]:
        # The loss is teacher entropy + KL, and only the KL says how well the student follows.
        good.insert(0, f"the loss did not fall, but the student follows its teacher (KL {kl[0]:.3g} → {kl[1]:.3g})")
    else:
        doubts.append(
            f"The loss did not fall ({loss[0]:.3g} → {loss[1]:.3g}): train longer or lower the learning rate."
        )
    if bad:
        return Health("collapsed", (*bad, *doubts))
    sentence = "; ".join(good)
    praise = (sentence[0].upper() + sentence[1:] + ".",) if good else ()
    return Health("doubtful" if doubts else "healthy", (*doubts, *praise))
