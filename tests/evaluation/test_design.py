"""The draws of a benchmark: nested, drawn from train alone, a function of the seeds."""

from __future__ import annotations

import numpy as np
import pytest

from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.evaluation.config import BenchmarkConfig, DesignConfig
from zwicky.evaluation.design import Draw, make_draws
from zwicky.training.config import FitConfig


@pytest.fixture(scope="module")
def data():
    """400 labelled objects (a quarter lenses) in pairs of one source each, and 50 without a label."""
    count = 450
    rng = np.random.default_rng(0)
    cutouts = make_cutouts(
        rng.normal(size=(count, 1, 4, 4)).astype(np.float32),
        ("g",),
        [f"o{row:03d}" for row in range(count)],
        source=[f"s{row // 2}" for row in range(count)],
        origin=["sw" if row % 4 < 2 else "other" for row in range(count)],
    )
    names = {f"o{row:03d}": "lens" if row % 8 < 2 else "nonlens" for row in range(400)}
    return cutouts, Labels(names)


def of(config, data):
    return make_draws(config, *data)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("group", [None, "source"])
def test_holdout_draws(data, balanced, group):
    cutouts, labels = data
    design = DesignConfig(fractions=(0.8, 0.0, 0.2), group=group)
    config = BenchmarkConfig(design=design, labels=[20, 60, 0], draws=3, balanced=balanced)
    draws = of(config, data)
    assert [draw.unit for draw in draws] == ["draw 0", "draw 1", "draw 2"]
    assert len({id(draw.split) for draw in draws}) == 1
    train, test = set(draws[0].split.ids("train")), set(draws[0].split.ids("test"))
    assert len(train) + len(test) == 400
    assert not train & test
    for draw in draws:
        assert list(draw.subsets) == [20, 60, len(train)]
        before: set[str] = set()
        for count, (fit, select) in draw.subsets.items():
            together = set(fit) | set(select)
            assert len(together) == len(fit) + len(select) == count  # n counts selection too
            # Groups are unbroken, so the share is met within a pair.
            assert abs(len(select) - round(0.2 * count)) <= 1
            assert before <= together <= train
            lenses = sum(labels.values[i] == "lens" for i in together)
            if count < len(train):
                assert abs(lenses - count * (0.5 if balanced else 0.25)) <= 2
            before = together
            rows = np.concatenate(draw.rows(cutouts, count))
            assert set(cutouts.ids[rows]) == together
        assert set(cutouts.ids[draw.test_rows(cutouts)]) == test
        pretrain = set(cutouts.ids[draw.pretrain_rows(cutouts)])
        assert not pretrain & test
        assert pretrain >= train
    chosen = [frozenset(np.concatenate(draw.subsets[60])) for draw in draws]
    assert len(set(chosen)) == 3
    again = of(config, data)
    for first, second in zip(draws, again, strict=True):
        for count in first.subsets:
            assert all(np.array_equal(a, b) for a, b in zip(first.subsets[count], second.subsets[count], strict=True))


def test_folds_test_each_object_once_a_repeat(data):
    cutouts, labels = data
    design = DesignConfig(kind="folds", folds=4, repeats=2, group="source", test_where={"origin": "sw"})
    draws = of(BenchmarkConfig(design=design, labels=[0]), data)
    assert [draw.unit for draw in draws] == ["r0"] * 4 + ["r1"] * 4
    assert len({key for draw in draws for key in draw.subsets}) == 1  # one place on the axis
    eligible = {i for i, origin in zip(cutouts.ids, cutouts.column("origin"), strict=True) if origin == "sw"}
    eligible &= set(labels.values)
    source = dict(zip(cutouts.ids, cutouts.column("source"), strict=True))
    for repeat in (draws[:4], draws[4:]):
        tested = [i for draw in repeat for i in cutouts.ids[draw.test_rows(cutouts)]]
        assert sorted(tested) == sorted(eligible)
        for draw in repeat:
            test = set(draw.split.ids("test"))
            learnt = set(cutouts.ids[draw.pretrain_rows(cutouts)])
            assert not {source[i] for i in test} & {source[i] for i in learnt}


def test_a_label_from_the_test_is_refused(data):
    cutouts, _ = data
    ids = cutouts.ids[:4]
    split = Split("s", {ids[0]: "train", ids[1]: "train", ids[2]: "test", ids[3]: "validation"})
    for fit, select in ((ids[:3], ids[1:2]), (ids[:1], ids[3:4])):
        with pytest.raises(UserError, match="leak"):
            Draw(0, "draw 0", split, {4: (fit, select)}, (4,)).rows(cutouts, 4)
    rows = Draw(0, "draw 0", split, {2: (ids[:1], ids[1:2])}, (2,)).rows(cutouts, 2)
    assert [row.tolist() for row in rows] == [[0], [1]]


def test_selection_can_be_capped_or_left_out(data):
    capped = BenchmarkConfig(labels=[100], draws=1, finetune=FitConfig(select=0.5, select_most=10))
    fit, select = of(capped, data)[0].subsets[100]
    assert len(fit) + len(select) == 100
    assert 9 <= len(select) <= 10  # each class is within one of its share
    none = BenchmarkConfig(labels=[100], draws=1, finetune=FitConfig(select=0.0))
    assert [len(part) for part in of(none, data)[0].subsets[100]] == [100, 0]
