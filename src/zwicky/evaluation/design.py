"""The draws of a benchmark: which labels each cell may use and which objects test it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, fold_splits, holdout_split, label_subsets, write_split
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.io import replacing
from zwicky.training.finetune import divide_labels

PRETRAIN_ROLES = ("train", "unlabelled")


@dataclass(frozen=True)
class Draw:
    """One draw. unit: what the bootstrap resamples it with; subsets: labels → (ids to fit, ids to select).

    fit_counts: those numbers of labels that networks are fitted with.
    """

    index: int
    unit: str
    split: Split
    subsets: dict[int, tuple[np.ndarray, np.ndarray]]
    fit_counts: tuple[int, ...]

    def rows(self, cutouts: Cutouts, labels: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to fit and to select; a label from elsewhere than the role train is refused."""
        fit, select = self.subsets[labels]
        self.split.check_roles(np.concatenate([fit, select]), "learning from labels", ("train",))
        return cutouts.rows_of(fit), cutouts.rows_of(select)

    def pretrain_rows(self, cutouts: Cutouts) -> np.ndarray:
        """Row numbers to pretrain on: the roles train and unlabelled, nothing else."""
        ids = self.split.ids(*PRETRAIN_ROLES)
        self.split.check_roles(ids, "pretraining", PRETRAIN_ROLES)
        return cutouts.rows_of(ids)

    def test_rows(self, cutouts: Cutouts) -> np.ndarray:
        return cutouts.rows_of(self.split.ids("test"))


def make_draws(config: BenchmarkConfig, cutouts: Cutouts, labels: Labels) -> list[Draw]:
    """All draws of a benchmark; a function of the data and the seeds alone.

    The key of each subset is its number of labels counted out, so that "all" (0) has a place on the axis; for folds,
    whose training sets differ by an object or two, it is their rounded mean.
    """
    design = config.design
    if design.kind == "holdout":
        split = holdout_split(
            cutouts, labels, fractions=design.fractions, seed=design.seed, group_column=design.group, name="holdout"
        )
        splits = [(split, f"draw {draw}") for draw in range(config.draws)]
    else:
        folds = fold_splits(
            cutouts,
            labels,
            folds=design.folds,
            repeats=design.repeats,
            seed=design.seed,
            group_column=design.group,
            test_where=design.test_where or None,
            train_where=design.train_where or None,
        )
        splits = [(split, split.name.split("f")[0]) for split in folds]
    subsets = [
        label_subsets(split, labels, config.labels, seed=config.seed + draw, balanced=config.balanced)
        for draw, (split, _) in enumerate(splits)
    ]
    all_count = round(float(np.mean([len(subset[0]) for subset in subsets]))) if 0 in config.labels else 0
    return [
        Draw(
            index,
            unit,
            split,
            {
                count or all_count: divide_labels(ids, labels, config.finetune, config.seed + index, split)
                for count, ids in subsets[index].items()
            },
            tuple(count or all_count for count in config.fit_labels or config.labels),
        )
        for index, (split, unit) in enumerate(splits)
    ]


def write_draws(folder: Path, draws: Sequence[Draw]) -> None:
    """`splits/NAME.parquet` and `draws.parquet` (draw, labels, use, id)."""
    for split in {draw.split.name: draw.split for draw in draws}.values():
        write_split(folder / "splits", split)
    columns: dict[str, list] = {"draw": [], "labels": [], "use": [], "id": []}
    for draw in draws:
        for count, parts in draw.subsets.items():
            for use, ids in zip(("fit", "select"), parts, strict=True):
                columns["draw"] += [draw.index] * len(ids)
                columns["labels"] += [count] * len(ids)
                columns["use"] += [use] * len(ids)
                columns["id"] += list(ids)
    with replacing(folder / "draws.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
