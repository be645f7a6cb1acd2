"""The choice of candidates: the same whatever the parts and their order, with the right probabilities."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.data.store import open_store
from zwicky.survey.candidates import Selection, random_keys, write_candidates
from zwicky.survey.parts import display_names


def made(count, seed=0):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 20, count) / 20  # with ties
    ids = [f"o{n}" for n in range(count)]
    table = pd.DataFrame({"id": ids, "file": "", "ra": 0.0, "dec": 0.0, "score": score, "spread": np.nan})
    return table, np.arange(count)[:, None, None, None].astype(np.float32)


@settings(max_examples=15)
@given(
    top=st.integers(0, 12),
    random=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    order=st.randoms(use_true_random=False),
    workers=st.integers(1, 3),
)
def test_parts_order_and_workers_do_not_matter(top, random, cuts, order, workers):
    table, images = made(60)
    whole = Selection(top, random, 7)
    whole.add(table, images, 0, 0)
    edges = sorted({0, 60, *cuts})
    parts = list(enumerate(pairwise(edges)))
    order.shuffle(parts)
    running = [Selection(top, random, 7) for _ in range(workers)]  # what each worker has seen so far
    merged = Selection(top, random, 7)
    for turn, (part, (first, last)) in enumerate(parts):
        worker = running[turn % workers]
        worker.add(table[first:last].reset_index(drop=True), images[first:last], part, 0)
        merged.merge(worker.pop_part(part))
    assert merged.rows["id"].tolist() == whole.rows["id"].tolist()
    assert [image.item() for image in merged.rows["image"]] == [int(name[1:]) for name in merged.rows["id"]]


def test_top_are_the_best_and_the_rest_is_uniform():
    table, images = made(200)
    best = set()
    counts = np.zeros(200)
    for seed in range(100):
        selection = Selection(30, 20, seed)
        selection.add(table, images, 0, 0)
        rows = selection.rows
        assert rows["score"][:30].min() >= rows["score"][30:].max()
        assert rows["score"][:30].tolist() == sorted(table["score"], reverse=True)[:30]
        counts[[int(name[1:]) for name in rows["id"][30:]]] += 1
        best |= set(rows["id"][:30])
    below = np.array([name not in best for name in table["id"]])
    expected = 100 * 20 / 170
    chi2 = ((counts[below] - expected) ** 2 / (expected * (1 - 20 / 170))).sum()
    assert abs(chi2 - below.sum()) < 4 * np.sqrt(2 * below.sum())


def test_keys_depend_on_name_and_seed_alone(tmp_path):
    names = pd.Series(["a", "b", "a"])
    keys = random_keys(names, 1)
    assert keys[0] == keys[2] != keys[1]
    assert (random_keys(names, 2) != keys).all()
    assert random_keys(names[1:2], 1)[0] == keys[1]
    table, images = made(60)
    in_files = table.assign(id="same", file=table["id"])[::-1].reset_index(drop=True)
    chosen = []
    for one in (table, in_files):
        selection = Selection(5, 20, 7)
        selection.add(one, images, len(chosen), 0)
        chosen.append(display_names(selection.rows).tolist())
    assert chosen[0] == chosen[1]
    write_candidates(tmp_path, tmp_path / "store", selection, 60, ("g",))
    assert open_store(tmp_path / "store").ids.tolist() == chosen[0]  # equal ids give way to files
