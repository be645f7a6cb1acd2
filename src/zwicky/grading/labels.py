"""Labels from grades: what `zwicky finetune --grades` learns from, and what it leaves out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data.catalog import read_catalog
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import GRADES, Labels
from zwicky.data.splits import RANDOM_STRATUM, Split
from zwicky.errors import UserError

CLASSES = ("nonlens", "lens")


def learn_from_grades(path: Path, cutouts: Cutouts, labels: Labels, split: Split) -> tuple[Labels, Split]:
    """Add the grades of a catalogue to the labels of a store, and the graded objects to its training objects.

    The target of a graded object is its `p_lens`, else `grade_mean` / 3: the probability of the positive class. Objects
    of the random stratum stay out of the training, so that estimates from them are honest, and so do test objects.

    Args:
        path: catalogue of `zwicky grade --merge`.
        cutouts: the store.
        labels: its labels, which those of graded objects replace.
        split: its split; graded objects without a label in it are added to the role train.

    Raises:
        UserError: if the catalogue has no grades, or not of these objects.
    """
    table = read_catalog(path)
    if missing := {"id", "grade_mean"} - set(table.columns):
        raise UserError(f"{path} lacks the column {min(missing)!r}; write it with `zwicky grade --merge`")
    numbers = table.reindex(columns=["p_lens", "grade_mean"]).apply(pd.to_numeric, errors="coerce")
    probability = numbers["p_lens"].fillna(numbers["grade_mean"] / GRADES["A"]).to_numpy()
    is_here = table["id"].astype(str).isin(set(cutouts.ids)).to_numpy() & np.isfinite(probability)
    if not is_here.any():
        raise UserError(f"{path} has no graded object of this store; give the store that was graded")
    classes = labels.classes if len(labels.classes) == 2 else CLASSES
    soft = dict(zip(table["id"].astype(str)[is_here], probability[is_here].tolist(), strict=True))
    values = labels.values | {name: classes[int(p >= 0.5)] for name, p in soft.items()}
    tables = [part for part in (table, cutouts.table) if "stratum" in part]
    in_stratum = {name for part in tables for name in part["id"][part["stratum"] == RANDOM_STRATUM].astype(str)}
    roles = {name: role for name, role in split.roles.items() if name not in in_stratum}
    roles |= {name: "train" for name in soft if roles.get(name) == "unlabelled"}
    learned = replace(labels, values=values, positive=classes[1], source=str(path), soft=soft)
    return learned, Split("grades", roles, split.groups)
