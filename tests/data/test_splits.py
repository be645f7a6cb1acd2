"""The laws of splits: disjoint, groups unbroken, stratified within one, nested, no leaks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.data.cutouts import Cutouts, make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import (
    Split,
    clean_split,
    default_split,
    fit_select,
    fold_splits,
    holdout_split,
    label_subsets,
    read_split,
    write_split,
)
from zwicky.errors import UserError


def data(classes: list[str | None], **columns: list) -> tuple[Cutouts, Labels]:
    """Objects of different pixels with these labels."""
    images = np.arange(len(classes), dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32)
    cutouts = make_cutouts(images, ("g",), **columns)
    return cutouts, Labels({i: label for i, label in zip(cutouts.ids, classes, strict=True) if label is not None})


def many(lens: int = 60, non: int = 40, unlabelled: int = 30) -> list[str | None]:
    return ["lens"] * lens + ["non"] * non + [None] * unlabelled


many_classes = st.lists(st.sampled_from("abc"), min_size=1, max_size=80).map(lambda drawn: drawn + ["a", "b", "c"] * 10)


@settings(max_examples=30)
@given(many_classes, st.integers(0, 99), st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.0, 0.5), (0.34, 0.33, 0.33)]))
def test_holdout_is_stratified_within_one(classes, seed, fractions):
    cutouts, labels = data(classes)
    split = holdout_split(cutouts, labels, fractions=fractions, seed=seed)
    assert list(split.roles) == list(cutouts.ids)
    for label, total in Counter(classes).items():
        for role, share in zip(("train", "validation", "test"), fractions, strict=True):
            count = sum(labels.values[i] == label for i in split.ids(role))
            assert abs(count - share * total) < 1 + 1e-9


grouped_objects = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 25)), min_size=1, max_size=60)


@settings(max_examples=30)
@given(grouped_objects, st.integers(0, 99))
def test_groups_are_never_parted(rows, seed):
    rows = rows + [(label, 100 + number) for number in range(8) for label in "ab"]
    classes, names = zip(*rows, strict=True)
    cutouts, labels = data(list(classes), source=[f"s{name}" for name in names])
    splits = [holdout_split(cutouts, labels, seed=seed, group_column="source")]
    splits += fold_splits(cutouts, labels, folds=3, seed=seed, group_column="source")
    for split in splits:
        for source in set(names):
            ids = [i for i, name in zip(cutouts.ids, names, strict=True) if name == source]
            roles = {split.roles.get(i, "dropped") for i in ids}
            held_out = roles & {"validation", "test"}
            assert len(held_out) <= 1
            assert not held_out or not roles & {"train", "unlabelled"}
            assert len({split.groups[i] for i in ids if i in split.groups}) <= 1
        for identifier, role in split.roles.items():
            assert (role == "unlabelled") == (identifier not in labels.values)


def test_a_large_group_leaves_each_part_its_share():
    cutouts, labels = data(many(100, 0, 0), source=["large" if row >= 70 else f"s{row}" for row in range(100)])
    for seed in range(5):
        split = holdout_split(cutouts, labels, seed=seed, group_column="source")
        assert [len(split.ids(role)) for role in ("train", "validation", "test")] == [70, 10, 20]


def test_duplicates_stay_together_and_unlabelled_twins_of_test_objects_are_dropped():
    cutouts, labels = data(many())
    pixel_hash = list(cutouts.column("pixel_hash"))
    for row in range(30):  # each unlabelled object is the twin of a labelled one
        pixel_hash[100 + row] = pixel_hash[row]
    twins = Cutouts(cutouts.images, cutouts.table.assign(pixel_hash=pixel_hash), cutouts.bands)
    split = holdout_split(twins, labels, seed=0)
    for row in range(30):
        role = split.roles[twins.ids[row]]
        assert split.roles.get(twins.ids[100 + row]) == ("unlabelled" if role == "train" else None)
    assert any(split.roles[twins.ids[row]] != "train" for row in range(30))


@pytest.mark.parametrize("column", ["source_id", "lens_id", "pair_id"])
def test_images_of_one_simulated_galaxy_stay_together(column):
    tile = ["x" if row in (0, 50) else None for row in range(130)]
    cutouts, labels = data(many(), tile=tile, **{column: [f"g{row // 2}" for row in range(130)]})
    for group_column in (None, "tile"):
        roles = holdout_split(cutouts, labels, seed=0, group_column=group_column).roles
        assert all(roles[one] == roles[other] for one, other in cutouts.ids[:100].reshape(-1, 2))
    assert roles[cutouts.ids[0]] == roles[cutouts.ids[50]]


def test_a_given_split_loses_what_equals_a_test_object_and_keeps_its_groups():
    cutouts, labels = data(many(), source=[f"s{row // 2}" for row in range(130)])
    given = Split("mine", {i: "train" if row % 7 else "test" for row, i in enumerate(cutouts.ids)})
    with pytest.warns(UserWarning, match="15 objects of split 'mine' equal a test object"):
        split = clean_split(given, cutouts, labels, "source")
    tested = range(0, 100, 7)  # those with a label
    assert set(split.ids("test")) == set(cutouts.ids[tested])
    partners = {row ^ 1 for row in tested}
    assert set(split.ids("train")) == {cutouts.ids[row] for row in range(130) if row % 7 and row not in partners}
    assert all(split.groups[cutouts.ids[row]] == cutouts.ids[row - row % 2] for row in tested)


def test_rare_classes_are_trained_on_and_tested_where_that_is_possible():
    cutouts, labels = data(["lens"] * 2 + ["non"] * 60)
    with pytest.warns(UserWarning, match=r"only 1 lens to test, .* design.kind folds"):
        split = default_split(cutouts, labels)
    lenses = [i for i, name in labels.values.items() if name == "lens"]
    assert sorted(split.roles[i] for i in lenses) == ["test", "train"]
    with pytest.warns(UserWarning, match="no lens among the 4 labels .*; draw them with --balanced true"):
        label_subsets(split, labels, [4], seed=0)
    with pytest.warns(UserWarning, match="no lens among the 8 labels that select"):
        fit_select([lenses[0], *split.ids("train")[1:39]], labels, seed=0)
    cutouts, labels = data(["lens"] * 2 + ["non"] * 60)
    for seed in range(6):
        roles = holdout_split(cutouts, labels, fractions=(0.4, 0.4, 0.2), seed=seed).roles
        assert sorted(roles[i] for i in lenses) == ["test", "train"]
    with pytest.warns(UserWarning, match="only 4 lens to test"):
        default_split(*data(["lens"] * 20 + ["non"] * 60))
    cutouts, labels = data(["lens"] + ["non"] * 20)
    with pytest.warns(UserWarning, match="class 'lens' has 1 objects in 1 groups .* nothing can be known"):
        assert default_split(cutouts, labels).roles[cutouts.ids[0]] == "train"


def test_folds_test_each_matching_object_once_and_train_on_matching_ones_only():
    origin = [["sw", "gallery", "field"][row % 3] for row in range(130)]
    cutouts, labels = data(many(), origin=origin, tile=[row % 3 for row in range(130)])
    where = {"origin": "sw", "tile": 0}
    splits = fold_splits(cutouts, labels, folds=4, repeats=2, seed=3, test_where=where, train_where=where)
    assert [split.name for split in splits] == [f"r{r}f{f}" for r in range(2) for f in range(4)]
    candidates = [i for i, o in zip(cutouts.ids, origin, strict=True) if o == "sw" and i in labels.values]
    for repeat in range(2):
        folds = splits[4 * repeat : 4 * repeat + 4]
        assert sorted(i for split in folds for i in split.ids("test")) == sorted(candidates)
        for split in folds:
            assert set(split.ids("train")) == set(candidates) - set(split.ids("test"))
            assert set(split.ids("unlabelled")) == set(cutouts.ids) - set(candidates)
            for label in ("lens", "non"):
                total = sum(labels.values[i] == label for i in candidates)
                assert abs(sum(labels.values[i] == label for i in split.ids("test")) - total / 4) < 1
    assert splits[0].roles != splits[4].roles
    for split in fold_splits(cutouts, labels, folds=4, seed=3, test_where=where):  # all others train
        assert len(split.ids("train")) == 100 - len(split.ids("test"))


@settings(max_examples=30)
@given(many_classes, st.integers(0, 99), st.sets(st.integers(3, 30), max_size=5), st.booleans())
def test_subsets_are_nested_stratified_and_of_the_training_role(classes, seed, counts, balanced):
    cutouts, labels = data(classes)
    roles = {i: "test" if number % 7 == 6 else "train" for number, i in enumerate(cutouts.ids)}
    split = Split("s", roles)
    pool = Counter(labels.values[i] for i in split.ids("train"))
    most = 3 * min(pool.values()) if balanced else sum(pool.values())
    counts = {count for count in counts if count <= most}
    subsets = label_subsets(split, labels, [*counts, 0], seed, balanced)
    assert set(subsets[0]) == set(split.ids("train"))
    smaller: set[str] = set()
    for count in sorted(counts):
        ids = subsets[count]
        assert len(ids) == len(set(ids)) == count
        assert smaller <= set(ids) <= set(subsets[0])
        smaller = set(ids)
        drawn = Counter(labels.values[i] for i in ids)
        for label, total in pool.items():
            share = 1 / len(pool) if balanced else total / sum(pool.values())
            assert abs(drawn[label] - share * count) < 1 + 1e-9


DRAWS = {
    "folds": lambda c, y, s, seed: fold_splits(c, y, folds=4, seed=seed)[0].ids("test"),
    "subset": lambda c, y, s, seed: label_subsets(s, y, [10], seed)[10],
    "selection": lambda c, y, s, seed: fit_select(c.ids[:100], y, seed=seed)[1],
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_another_seed_is_another_draw(draw):
    cutouts, labels = data(many())
    split = Split("s", dict.fromkeys(cutouts.ids, "train"))
    drawn = [frozenset(draw(cutouts, labels, split, seed)) for seed in (0, 1, 2, 3, 0)]
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[4]


def test_either_class_may_get_the_odd_label():
    cutouts, labels = data(many(10, 10, 0))
    split = Split("s", dict.fromkeys(cutouts.ids, "train"))
    odd = {sum(labels.values[i] == "lens" for i in label_subsets(split, labels, [3], seed)[3]) for seed in range(20)}
    assert odd == {1, 2}


ALL = many(60, 40, 5)  # to train on
MISTAKES = [
    (ALL, lambda c, y, s: holdout_split(c, y, fractions=(0.8, 0.1, 0.2), seed=0), "three shares"),
    (ALL, lambda c, y, s: holdout_split(c, Labels({}), seed=0), "no labels"),
    (ALL, lambda c, y, s: holdout_split(c, y, seed=0, group_column="source"), "no column"),
    (["lens"] * 20 + ["non"], lambda c, y, s: holdout_split(c, y, seed=0), "class 'non' has 1 objects in 1 groups"),
    (ALL, lambda c, y, s: fold_splits(c, y, folds=1, seed=0), "at least 2 folds"),
    (ALL, lambda c, y, s: fold_splits(c, y, folds=2, seed=0, test_where={"origin": "x"}), "origin == 'x'"),
    (many(5), lambda c, y, s: fold_splits(c, y, folds=6, seed=0), "class 'lens' has 5 independent groups"),
    (ALL, lambda c, y, s: label_subsets(s, y, [101], seed=0), r"101 labels asked for.* 100 .*\(non 40, lens 60\)"),
    (ALL, lambda c, y, s: label_subsets(s, y, [90], seed=0, balanced=True), "too few of one class"),
    (ALL, lambda c, y, s: label_subsets(s, y, [1], seed=0), "cannot hold the 2 classes"),
    (ALL, lambda c, y, s: label_subsets(Split("empty", {}), y, [10], seed=0), "asked for"),
    (ALL, lambda c, y, s: fit_select([*s.ids("train"), "unknown"], y, seed=0), "no label"),
    (ALL, lambda c, y, s: fit_select(s.ids("train"), y, 1.0, seed=0), "between 0 and 1"),
]


@pytest.mark.parametrize(("classes", "draw", "message"), MISTAKES)
def test_mistakes_are_one_line(classes, draw, message):
    cutouts, labels = data(classes, origin=["sw"] * len(classes))
    with pytest.raises(UserError, match=message):
        draw(cutouts, labels, Split("s", dict.fromkeys(cutouts.ids, "train")))


def test_fit_select_carves_60_out_of_300():
    cutouts, labels = data(many(181, 119, 0))
    fit, select = fit_select(cutouts.ids, labels, seed=0)
    assert (len(fit), len(select)) == (240, 60)
    assert not set(fit) & set(select)
    assert Counter(labels.values[i] for i in select) == {"lens": 36, "non": 24}
    groups = {i: f"g{number // 3}" for number, i in enumerate(cutouts.ids)}
    fit, select = fit_select(cutouts.ids, labels, seed=0, groups=groups)
    assert not {groups[i] for i in fit} & {groups[i] for i in select}
    assert len(fit) + len(select) == 300


def test_the_default_split_depends_on_the_data_alone():
    cutouts, labels = data(many())
    split, other = (holdout_split(cutouts, labels, seed=seed) for seed in (0, 1))
    assert default_split(cutouts, labels) == split
    assert split.roles != other.roles
    assert set(default_split(cutouts, Labels({})).roles.values()) == {"unlabelled"}
    theta = [float(row) if row < 100 else None for row in range(130)]
    cutouts, _ = data(many(), theta_E=theta)
    split = default_split(cutouts, Labels({}), ["theta_E"])
    assert set(split.ids("train", "validation", "test")) == set(cutouts.ids[:100])
    assert len(split.ids("test")) == 20
    assert set(split.ids("unlabelled")) == set(cutouts.ids[100:])


def test_a_split_is_a_table_that_people_can_write(tmp_path):
    split = Split("mine", {"a,1": "train", "nan": "test", "c": "unlabelled"}, {"a,1": "g", "nan": "NA"})
    write_split(tmp_path / "splits", split)
    assert read_split(tmp_path / "splits" / "mine.csv") == split
    (tmp_path / "new.csv").write_text("role,id\ntrain,1\ntest,2\n")
    assert read_split(tmp_path / "new.csv") == Split("new", {"1": "train", "2": "test"})
    (tmp_path / "new.csv").write_text("role,id\ntrain,1\ntest,1\n")
    with pytest.raises(UserError, match="two rows for '1' that differ"):
        read_split(tmp_path / "new.csv")
    (tmp_path / "new.csv").write_text("role,id\nboth,1\n")
    with pytest.raises(UserError, match="unknown role 'both'"):
        read_split(tmp_path / "new.csv")
