"""The draws of a benchmark: which labels each cell may use and which objects test it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, clean_split, fold_splits, holdout_split, label_subsets, read_split, write_split
from zwicky.errors import UserError
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.io import write_table
from zwicky.training.fit_labels import divide_labels


@dataclass(frozen=True)
class LabelDraw:
    """One draw of labels."""

    index: int
    unit: str  # what the bootstrap resamples it with
    split: Split
    subsets: dict[int, tuple[np.ndarray, np.ndarray]]  # number of labels → ids to train on, ids for selection
    fit_counts: tuple[int, ...]  # the numbers of labels that networks are trained with

    def rows(self, cutouts: Cutouts, labels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return row numbers to train on and for selection; UserError if one has another role than train."""
        fit, select = self.subsets[labels]
        self.split.check_roles(np.concatenate([fit, select]), "learning from labels", ("train",))
        return cutouts.rows_of(fit), cutouts.rows_of(select)

    def pretrain_rows(self, cutouts: Cutouts) -> np.ndarray:
        """Return row numbers to pretrain on: the roles train and unlabelled, nothing else."""
        return cutouts.rows_of(self.split.ids("train", "unlabelled"))

    def test_rows(self, cutouts: Cutouts) -> np.ndarray:
        """Return row numbers of the test objects."""
        return cutouts.rows_of(self.split.ids("test"))


def make_label_draws(
    config: BenchmarkConfig, cutouts: Cutouts, labels: Labels, given: Split | None = None
) -> list[LabelDraw]:
    """Return all draws of a benchmark, a function of the data, of its `given` split if any and of the seeds alone.

    The key of a subset is its number of labels with "all" (0) written out, so that it has a place on the axis. For
    folds, whose training sets differ by an object or two, it is their rounded mean. For a regression `labels` give one
    class to all objects whose targets are known.
    """
    design = config.design
    drawn: dict[str, Any] = {"seed": design.seed, "group_column": design.group}
    if design.kind == "holdout":
        if given is None:
            split = holdout_split(cutouts, labels, fractions=design.fractions, **drawn)
        else:
            split = clean_split(given, cutouts, labels, design.group)
        splits = [(split, f"draw {draw}") for draw in range(config.draws)]
    else:
        where: dict[str, Any] = {"test_where": design.test_where, "train_where": design.train_where}
        folds = fold_splits(cutouts, labels, folds=design.folds, repeats=design.repeats, **where, **drawn)
        splits = [(split, split.name.split("f")[0]) for split in folds]
    for split, _ in splits:
        if absent := sorted(set(labels.classes).difference(labels.of(split.ids("test")))):
            advice = "correct it or design.test_where, or draw one with --design.split null"
            raise UserError(f"split {split.name!r} tests no {absent[0]}; {advice}")
    subsets = [
        label_subsets(split, labels, config.labels, seed=config.seed + draw, balanced=config.balanced)
        for draw, (split, _) in enumerate(splits)
    ]
    for ids in (ids for subset in subsets for ids in subset.values() if len(labels.classes) > 1):
        if len(names := set(labels.of(ids))) == 1:
            raise UserError(f"the {len(ids)} labels of a draw are all {names.pop()}; ask for more or set balanced true")
    all_count = round(float(np.mean([len(subset[0]) for subset in subsets]))) if 0 in config.labels else 0
    fit_counts = tuple(count or all_count for count in config.fit_labels or config.labels)
    draws = []
    for index, (split, unit) in enumerate(splits):
        divide = partial(divide_labels, labels=labels, fit=config.finetune, seed=config.seed + index, split=split)
        divided = {count or all_count: divide(ids) for count, ids in subsets[index].items()}
        draws.append(LabelDraw(index, unit, split, divided, fit_counts))
    return draws


def write_label_draws(folder: Path, draws: Sequence[LabelDraw]) -> None:
    """Write the splits and `draws.parquet` (draw, labels, use, id); UserError if other splits are there."""
    for split in {draw.split.name: draw.split for draw in draws}.values():
        path = folder / "splits" / f"{split.name}.csv"
        if path.exists() and read_split(path).roles != split.roles:
            raise UserError(f"{folder} was started with another split {split.name!r}; restore it or take another --out")
        write_split(folder / "splits", split)
    parts = [
        pd.DataFrame({"draw": draw.index, "labels": count, "use": use, "id": ids})
        for draw in draws
        for count, subset in draw.subsets.items()
        for use, ids in zip(("fit", "select"), subset, strict=True)
    ]
    write_table(folder / "draws.parquet", pd.concat(parts, ignore_index=True))
