"""A simulated grader with stated error rates, to test the loop of grading and learning and to measure it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from zwicky.grading.database import OBJECT_COLUMNS, Judgements
from zwicky.rng import numpy_rng


@dataclass(frozen=True)
class SimulatedGrader:
    """Grades a lens A or B with probability `completeness`, anything else with `false_positives`; else C or X."""

    name: str = "simulated"  # name of the grader
    completeness: float = 0.9  # share of lenses graded A or B
    false_positives: float = 0.05  # share of other objects graded A or B
    seed: int = 0  # seed of the errors; each call of `grade` continues the stream of the number of earlier judgements

    def grade(self, slots: pd.DataFrame, is_lens: Mapping[str, bool], path: Path) -> None:
        """Append grades of `Session.slots` to a file of judgements; `is_lens` has the truth of the candidates."""
        judgements = Judgements(path)
        start = len(judgements.since(0))
        rng = numpy_rng(self.seed, start)
        first = datetime(2000, 1, 1, tzinfo=UTC)
        rows = []
        for number, slot in enumerate(slots.astype(object).where(slots.notna(), None).to_dict("records"), start):
            truth = is_lens[slot["id"]] if slot["truth"] is None else bool(slot["truth"])
            says_lens = rng.random() < (self.completeness if truth else self.false_positives)
            grade = str(rng.choice(["A", "B"] if says_lens else ["C", "X", "X", "X"]))
            row = {name: slot[name] for name in OBJECT_COLUMNS} | {"key": f"{self.name}-{number}", "grade": grade}
            row |= {"grader": self.name, "subclass": "", "comment": "", "seconds": 1.0, "view": "simulated"}
            rows.append(row | {"time": (first + timedelta(seconds=number)).isoformat()})
        judgements.append(rows)
        judgements.close()
