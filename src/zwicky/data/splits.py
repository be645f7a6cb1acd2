"""Training, validation and test roles: hold-out and fold splits, nested label subsets.

Everything here is stratified by class and never separates a group (duplicates, one sky position, one source).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data.columns import as_text, to_text
from zwicky.data.cutouts import Cutouts
from zwicky.data.duplicates import find_groups
from zwicky.data.labels import Labels, order_classes, read_text_table
from zwicky.errors import UserError
from zwicky.io import write_table
from zwicky.rng import numpy_rng

ROLES = ("train", "validation", "test", "unlabelled")
DEFAULT = "holdout"
FEW = 5  # objects of a class to test, of which metrics say little
RANDOM_STRATUM = "random"  # `stratum` of candidates that are for estimates alone
SHARED = ("source_id", "lens_id", "pair_id")  # columns of simulations: the same galaxy in several images


@dataclass(frozen=True)
class Split:
    """The role of each object."""

    name: str
    roles: dict[str, str]  # one of ROLES by id
    groups: dict[str, str] = field(default_factory=dict)  # group by id; objects of a group share a role

    def ids(self, *roles: str) -> np.ndarray:
        """Return the ids with any of these roles, in the order of the table."""
        return np.array([identifier for identifier, role in self.roles.items() if role in roles], dtype=object)

    def groups_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the group of each id, [len(ids)]; an ungrouped object is its own group."""
        return np.array([self.groups.get(identifier, identifier) for identifier in ids], dtype=object)

    def check_roles(self, ids: np.ndarray, purpose: str, allowed: tuple[str, ...]) -> None:
        """Raise UserError unless the role of every id is among `allowed`: no test object in training."""
        if wrong := [identifier for identifier in ids if self.roles.get(identifier) not in allowed]:
            role = self.roles.get(wrong[0], "no role at all")
            raise UserError(
                f"leak: {len(wrong)} objects given to {purpose} may not be there (first: {wrong[0]!r}, role {role!r}; "
                f"allowed: {', '.join(allowed)}); draw them again from split {self.name!r}"
            )


def write_split(folder: Path | str, split: Split) -> None:
    """Write `NAME.csv` (id, role, group) into a folder: the `splits` of a store or a run."""
    groups = [split.groups.get(identifier, "") for identifier in split.roles]
    table = pd.DataFrame({"id": list(split.roles), "role": list(split.roles.values()), "group": groups})
    write_table(Path(folder) / f"{split.name}.csv", table)


def read_split(path: Path | str) -> Split:
    """Read `NAME.csv`; UserError where it cannot be read, lacks id or role, or has a role that is not in ROLES."""
    table = read_text_table(Path(path), ("id", "role")).set_index("id")
    if unknown := sorted(set(table["role"]) - set(ROLES)):
        raise UserError(f"{path}: unknown role {unknown[0]!r}; roles are {', '.join(ROLES)}")
    groups = table["group"][table["group"] != ""].to_dict() if "group" in table else {}
    return Split(Path(path).stem, table["role"].to_dict(), groups)


def default_split(cutouts: Cutouts, labels: Labels, columns: Sequence[str] = ()) -> Split:
    """Draw the default split: `holdout_split` with seed 0; a function of cutouts and labels alone.

    Without labels the objects that have all of `columns` (regression targets) are split, else all are `unlabelled`. A
    class that is too small to be tested is trained on, with a warning.
    """
    labels = _or_measured(cutouts, labels, columns)
    if not labels.values:
        return Split(DEFAULT, dict.fromkeys(cutouts.ids, "unlabelled"))
    split = holdout_split(cutouts, labels, seed=0, strict=False)
    count = pd.Series(labels.of(split.ids("test"))).value_counts()
    if few := [f"{count[label]} {label}" for label in labels.classes if 0 < count.get(label, 0) < FEW]:
        advice = "all labels are tested in turn by zwicky benchmark with design.kind folds"
        warnings.warn(f"only {', '.join(few)} to test, so metrics are uncertain; {advice}")
    return split


def whole_split(cutouts: Cutouts, labels: Labels, columns: Sequence[str] = ()) -> Split:
    """Return the split of a test set: all objects with a label, or with all of `columns`, are tested."""
    group = dict(zip(cutouts.ids, find_groups(cutouts), strict=True))
    tested = _or_measured(cutouts, labels, columns).values
    return Split("all", {name: "test" for name in cutouts.ids if name in tested}, group)


def clean_split(split: Split, cutouts: Cutouts, labels: Labels, group_column: str | None = None) -> Split:
    """Return a split that was given, without test objects that have no label and what belongs to a test object.

    The latter are other objects of its group (equal pixels, position, source or `group_column`), with a warning.
    UserError if nothing is left to train on or to test.
    """
    group = dict(zip(cutouts.ids, _grouped(cutouts, labels, group_column)[0], strict=True))
    roles = {n: role for n, role in split.roles.items() if n in group and (role != "test" or n in labels.values)}
    tested = {group[name] for name, role in roles.items() if role == "test"}
    kept = {name: role for name, role in roles.items() if role == "test" or group[name] not in tested}
    if lost := len(roles) - len(kept):
        warnings.warn(f"{lost} objects of split {split.name!r} equal a test object and are left out of training")
    labelled = {role for name, role in kept.items() if name in labels.values}
    if missing := {"train", "test"} - labelled:
        problem = f"split {split.name!r} of the data has no labelled object to {min(missing)}"
        raise UserError(f"{problem}; correct it, or draw one with --design.split null")
    return Split(split.name, kept, {name: group[name] for name in kept})


def _or_measured(cutouts: Cutouts, labels: Labels, columns: Sequence[str]) -> Labels:
    """`labels` or, without any, one class of the objects that have all of `columns`."""
    if labels.values or not columns:
        return labels
    measured = np.isfinite(cutouts.numbers(columns)).all(axis=1)
    return Labels(dict.fromkeys(cutouts.ids[measured], "measured"))


def holdout_split(
    cutouts: Cutouts,
    labels: Labels,
    *,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int,
    group_column: str | None = None,
    strict: bool = True,
) -> Split:
    """Draw a stratified split of the labelled objects; without groups each class is within one of its share.

    Unlabelled objects get the role `unlabelled`, except one grouped with a validation or test object, which gets none.

    `fractions` are those of train, validation and test, and sum to 1. Objects with equal values of `group_column` stay
    together, as duplicates and simulated images of one galaxy (`SHARED`) always do. UserError if there are no labels,
    or a class is too small to be in train and test, which is a warning unless `strict`.
    """
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions {tuple(fractions)} must be three shares, train, validation, test, with sum 1")
    group, classes, labelled = _grouped(cutouts, labels, group_column)
    part_of = _distribute(group[labelled], classes[labelled], fractions, numpy_rng(seed))
    for needed, share in ((0, fractions[0]), (2, fractions[2])):
        for label in labels.classes if share else ():
            parts = {key: part_of[key] for key in group[classes == label]}
            if not parts or needed in parts.values():
                continue
            spare = [key for key, part in parts.items() if part != 0 or list(parts.values()).count(0) > 1]
            if spare and len(parts) > 1:
                part_of[min(spare, key=lambda key: (group == key).sum())] = needed
                continue
            problem = f"class {label!r} has {(classes == label).sum()} objects in {len(parts)} groups (equal pixels "
            problem += f"or positions are one), too few to have one in {ROLES[needed]}"
            if strict:
                raise UserError(f"{problem}; add labels or change the split fractions")
            warnings.warn(f"{problem}: nothing can be known about it; label more")
    role = np.array([ROLES[part_of[key]] if key in part_of else "unlabelled" for key in group], dtype=object)
    role[~labelled] = [{"train": "unlabelled", "unlabelled": "unlabelled"}.get(name) for name in role[~labelled]]
    return _make_split(DEFAULT, cutouts.ids, role, group)


def fold_splits(
    cutouts: Cutouts,
    labels: Labels,
    *,
    folds: int,
    repeats: int = 1,
    seed: int,
    group_column: str | None = None,
    test_where: Mapping[str, str] | None = None,
    train_where: Mapping[str, str] | None = None,
) -> list[Split]:
    """Draw a repeated stratified group K-fold: `folds` × `repeats` splits, r0f0 to rRfF.

    In each repeat every labelled object that matches `test_where` is tested once. An object that shares a group with a
    test object and is not itself tested has no role in that fold. There is no validation role: `fit_select` draws the
    objects that select from the training labels.

    Labelled objects that do not match `train_where` are `unlabelled`, for pretraining alone. Both conditions map
    columns to values, e.g. {"origin": "sw"}; `group_column` is that of `holdout_split`. UserError if no labelled object
    matches, or a class has fewer groups than folds.
    """
    if folds < 2 or repeats < 1:
        raise UserError(f"{folds} folds, {repeats} repeats: no cross-validation; use at least 2 folds and 1 repeat")
    group, classes, labelled = _grouped(cutouts, labels, group_column)
    tested, trained = (labelled & _matching(cutouts, where) for where in (test_where, train_where))
    if not tested.any():
        condition = " and ".join(f"{column} == {value!r}" for column, value in (test_where or {}).items())
        raise UserError(f"the data has no labelled object with {condition}")
    for label in order_classes(set(classes[tested])):
        apart = len(set(group[tested & (classes == label)]))
        if apart < folds:
            problem = f"class {label!r} has {apart} independent groups to test, fewer than {folds} folds"
            raise UserError(f"{problem}; ask for fewer folds")
    splits = []
    for repeat in range(repeats):
        fold_of = _distribute(group[tested], classes[tested], [1 / folds] * folds, numpy_rng(seed, repeat))
        fold_of_row = np.array([fold_of.get(key, -1) for key in group])
        for fold in range(folds):
            role = np.where(trained, "train", "unlabelled").astype(object)
            role[fold_of_row == fold] = None
            role[(fold_of_row == fold) & tested] = "test"
            splits.append(_make_split(f"r{repeat}f{fold}", cutouts.ids, role, group))
    return splits


def label_subsets(
    split: Split, labels: Labels, counts: Sequence[int], seed: int, balanced: bool = False
) -> dict[int, np.ndarray]:
    """Draw nested subsets of the labelled training objects, each class within one object of its share: ids by count.

    A count of 0 means all labels; `balanced` draws equal numbers of each class instead of the natural shares. UserError
    if there are fewer labels than asked for, or fewer asked for than classes.
    """
    pool = np.array([identifier for identifier in split.ids("train") if identifier in labels.values], dtype=object)
    classes = labels.of(pool)
    names = order_classes(set(classes))
    per_class = ", ".join(f"{name} {(classes == name).sum()}" for name in names)
    if wrong := [count for count in counts if count < 0 or 0 < count < len(names)]:
        raise UserError(f"{wrong[0]} labels cannot hold the {len(names)} classes; ask for more, or 0 for all")
    most = max(counts, default=0)
    if most > len(pool) or not len(pool):
        found = f"split {split.name!r} has {len(pool)} to train on" + f" ({per_class})" * bool(per_class)
        advice = "ask for fewer" if len(pool) else "label some"
        raise UserError(f"{most or 'all'} labels asked for, {found}; {advice}")
    rng = numpy_rng(seed)
    queues = [rng.permutation(pool[classes == name]) for name in names]
    queues = [queues[index] for index in rng.permutation(len(names))]  # which class gets the odd one
    shares = np.array([1.0 if balanced else len(queue) for queue in queues])
    shares, taken = shares / shares.sum(), np.zeros(len(names), int)
    drawn: list[str] = []
    for _ in range(most):
        turn = _next_class(taken, shares)
        if taken[turn] == len(queues[turn]):
            problem = f"{most} balanced labels asked for, but split {split.name!r} has too few of one class"
            raise UserError(f"{problem} ({per_class}); ask for fewer or for natural shares")
        drawn.append(queues[turn][taken[turn]])
        taken[turn] += 1
    for count in counts:
        present = set(labels.of(np.array(drawn[:count] if count else pool, dtype=object)))
        if absent := [label for label in labels.classes if label not in present]:
            advice = "draw them with --balanced true" if set(absent) <= set(names) else "label some"
            warnings.warn(f"no {', '.join(absent)} among the {count or len(pool)} labels of {split.name!r}; {advice}")
    return {count: np.array(drawn[:count], dtype=object) if count else pool for count in counts}


def fit_select(
    ids: Sequence[str] | np.ndarray,
    labels: Labels,
    fraction: float = 0.2,
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide labelled objects into ids to fit and ids that select (early stopping, calibration), stratified.

    The share `fraction` selects: 300 ids and 0.2 give 240 and 60. `groups`, group by id, are not separated.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the share of labels for selection is {fraction}; it must lie between 0 and 1")
    ids = np.asarray(ids, dtype=object)
    classes = labels.of(ids)
    if count := sum(label is None for label in classes):
        raise UserError(f"{count} of the objects to fit have no label; draw them with label_subsets")
    group = Split("", {}, dict(groups or {})).groups_of(ids)
    part_of = _distribute(group, classes, (1 - fraction, fraction), numpy_rng(seed))
    selects = np.array([part_of[key] == 1 for key in group], dtype=bool)
    for part, purpose in ((~selects, "to fit"), (selects, "that select the weights and the temperature")):
        if absent := sorted(set(classes) - set(classes[part])):
            warnings.warn(f"no {', '.join(absent)} among the {part.sum()} labels {purpose}; label more")
    return ids[~selects], ids[selects]


def _grouped(cutouts: Cutouts, labels: Labels, column: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The group of each object, its class or None, and whether it is labelled; each [N]."""
    group = find_groups(cutouts, *[name for name in SHARED if name in cutouts.table], *([column] if column else []))
    classes = labels.of(cutouts.ids)
    labelled = pd.notna(classes)
    if not labelled.any():
        raise UserError("the data has no labels; give the store class folders or a catalogue")
    return group, classes, labelled


def _make_split(name: str, ids: np.ndarray, role: np.ndarray, group: np.ndarray) -> Split:
    """The split of objects with these roles; None: no role."""
    kept = pd.notna(role)
    roles, groups = (dict(zip(ids[kept], values[kept], strict=True)) for values in (role, group))
    return Split(name, roles, groups)


def _matching(cutouts: Cutouts, where: Mapping[str, str] | None) -> np.ndarray:
    """[N] bool, or True: the objects whose columns have these values."""
    texts = {column: as_text(pd.Series(cutouts.column(column))) for column in where or {}}  # 3, for 3 and for 3.0
    return np.all([texts[column] == to_text(value) for column, value in (where or {}).items()], axis=0)


def _distribute(
    group: np.ndarray, classes: np.ndarray, fractions: Sequence[float], rng: np.random.Generator
) -> dict[str, int]:
    """Assign each group to one part so that every class is close to its share in every part.

    Largest groups first, each to the part that lacks most of what the group holds. Where all groups are single
    objects every count is within one of its share (the parts' lacks always span less than one).
    """
    counts = pd.crosstab(group.astype(str), classes.astype(str))
    keys, held = counts.index, counts.to_numpy(float)  # [groups, classes]
    lacking = held.sum(axis=0) * np.asarray(fractions, dtype=float)[:, None]  # [parts, classes]
    shuffled = rng.permutation(len(keys))
    largest_first = shuffled[np.argsort(-held[shuffled].sum(axis=1), kind="stable")]
    open_parts = np.flatnonzero(np.asarray(fractions) > 0)
    parts: dict[str, int] = {}
    for row in largest_first:
        part = int(open_parts[np.argmax(np.round(lacking[open_parts] @ held[row], 9))])
        lacking[part] -= held[row]
        parts[str(keys[row])] = part
    return parts


def _next_class(taken: np.ndarray, shares: np.ndarray) -> int:
    """The next class of a sequence whose every prefix has each class within one of its share.

    Tijdeman's rule (1980, "The chairman assignment problem"): of the classes that lag far enough behind, the one
    that must come soonest.
    """
    if len(taken) == 1:
        return 0
    slack = 1 / (2 * len(taken) - 2)
    behind = shares * (taken.sum() + 1) - taken
    deadline = np.where(behind >= slack - 1e-9, (taken + 1 - slack) / shares, np.inf)
    return int(np.argmin(deadline))
