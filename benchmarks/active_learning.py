"""Lenses found per inspected object over rounds of grading: `python benchmarks/active_learning.py [--data STORE]`.

A pool of objects of which few are lenses is scored by a classifier of few labels, 200 objects are graded by a simulated
grader, their grades join the labels, and so on, as `zwicky grade --next …` and `zwicky finetune --grades` do. The
classifier is the polar network, fine-tuned for `--steps` from random weights in each round, or without them a logistic
regression, so that hundreds of fits take minutes: on the features of a run (`--run`), or on 64 principal components of
the azimuthal modes of the images. A fifth of what is inspected is always the random stratum, from which nothing is
learned.

Every order starts from the same labels, pool and stratum in each repeat. `auc` is that of up to 500 lenses that are not
in the pool against the random stratum's non-lenses.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from tables import write_csv

from zwicky.data.cutouts import Cutouts
from zwicky.data.rings import ring_modes, robust_scale
from zwicky.estimators import LensClassifier
from zwicky.evaluation.bootstrap import LEVEL, resample
from zwicky.grading.config import SessionConfig
from zwicky.grading.merge import catalogue, grade_matrix, read_all
from zwicky.grading.session import Session
from zwicky.grading.simulated import SimulatedGrader
from zwicky.rng import numpy_rng
from zwicky.simulate.stream import open_data
from zwicky.training.linear_probe import fit_logistic
from zwicky.training.network import load_network

RESULTS = Path(__file__).parent / "results" / "active_learning.csv"
ORDERS = ("uncertain", "top", "diverse", "random")
LABELS = 30  # of each class to start from


Predict = Callable[[np.ndarray], np.ndarray]  # from rows to the probability of a lens


def polar_network(cutouts: Cutouts, steps: int, rows: np.ndarray, target: np.ndarray, seed: int) -> Predict:
    """Fine-tune the polar network on some rows; it is nearly equivariant, so one view predicts."""
    model = LensClassifier(steps=steps, random_state=seed).fit(cutouts.take(rows), target)
    return lambda rows: model.network_.predict(cutouts.take(rows).images, turns=False)[:, 1]


def logistic_regression(features: np.ndarray, rows: np.ndarray, target: np.ndarray, seed: int) -> Predict:
    """Fit a logistic regression to some rows of features [N, D]."""
    scaler = StandardScaler().fit(features[rows])
    model, _ = fit_logistic(scaler.transform(features[rows]), target, seed)
    return lambda rows: model.predict_proba(scaler.transform(features[rows]))[:, 1]


def one_repeat(
    cutouts: Cutouts, learn: Callable[..., Predict], is_lens: np.ndarray, order: str, seed: int, given: Namespace
) -> list[dict[str, float]]:
    """Found and inspected after each round, for one order and one drawn pool."""
    rng = numpy_rng(seed)
    lenses, others = rng.permutation(np.flatnonzero(is_lens)), rng.permutation(np.flatnonzero(~is_lens))
    start, others = np.concatenate([lenses[:LABELS], others[:LABELS]]), others[LABELS:]
    count = round(len(others) * given.prevalence / (1 - given.prevalence))
    lenses, unused = np.split(lenses[LABELS:], [count])
    pool = rng.permutation(np.concatenate([lenses, others]))
    stratum = np.full(len(cutouts), "top", object)
    stratum[rng.permutation(pool)[: round(given.rounds * given.inspected * given.random_share)]] = "random"
    test = np.concatenate([unused[:500], np.flatnonzero((stratum == "random") & ~is_lens)])
    truth = dict(zip(cutouts.ids, is_lens, strict=True))
    rows, target = list(start), list(is_lens[start].astype(int))
    grader = SimulatedGrader("simulated", given.completeness, given.false_positives, seed)
    results, inspected, found = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.db"
        for number in range(given.rounds):
            predict = learn(np.array(rows), np.array(target), seed)
            todo = cutouts.take(pool)
            todo.table["score"], todo.table["stratum"] = predict(pool), stratum[pool]
            config = SessionConfig(next=order, random_share=given.random_share, repeat_share=0, seed=number)
            slots = Session(todo, config).slots.iloc[: given.inspected]
            grader.grade(slots, truth, path)
            grades, _ = read_all([path])
            table = catalogue(grades, grade_matrix(grades), None).set_index("id")
            shown = cutouts.rows_of(slots["id"].to_numpy(object))
            votes = (table.loc[slots["id"], "grade_mean"] > 1.5).to_numpy()
            learned = stratum[shown] != "random"
            rows += list(shown[learned])
            target += list(votes[learned].astype(int))
            inspected, found = inspected + len(shown), found + int((votes & is_lens[shown]).sum())
            pool = pool[~np.isin(pool, shown)]
            auc = roc_auc_score(is_lens[test], predict(test))
            results.append(
                {"round": number + 1, "inspected": inspected, "found": found, "lenses": len(lenses), "auc": auc}
            )
    return results


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="simulate:demo-lenses:6000:0", help="labelled store or simulation")
    parser.add_argument("--run", type=Path, help="network whose features are used")
    parser.add_argument("--steps", type=int, default=0, help="of fine-tuning the polar network instead")
    parser.add_argument("--orders", nargs="+", default=ORDERS)
    parser.add_argument("--prevalence", type=float, default=0.03, help="share of the positive class in the pool")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inspected", type=int, default=200, help="objects graded a round")
    parser.add_argument("--random_share", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--completeness", type=float, default=0.9, help="share of lenses the grader recognises")
    parser.add_argument(
        "--false_positives", type=float, default=0.05, help="share of others the grader takes for lenses"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()
    data = open_data(given.data)
    cutouts = data.cutouts.take(np.flatnonzero(pd.notna(data.labels.of(data.cutouts.ids))))
    is_lens = data.labels.of(cutouts.ids) == data.labels.classes[-1]
    if given.steps:
        learn = partial(polar_network, cutouts, given.steps)
    elif given.run:
        learn = partial(logistic_regression, load_network(given.run).features(cutouts.images))
    else:
        modes = ring_modes(cutouts.images[:], *robust_scale(cutouts.images[:], 0))
        learn = partial(logistic_regression, PCA(64, random_state=0).fit_transform(modes))
    results = []
    for seed, order in product(range(given.repeats), given.orders):
        rows = one_repeat(cutouts, learn, is_lens, order, seed, given)
        print(seed, order, *(row["found"] for row in rows), flush=True)
        results += [{"order": order, "repeat": seed, **row} for row in rows]
    table = pd.DataFrame(results).assign(per_object=lambda t: t["found"] / t["inspected"])
    rows = []
    for (order, number), part in table.groupby(["order", "round"], sort=False):
        row = {"data": given.data if given.data.startswith("simulate:") else Path(given.data).name, "order": order}
        row |= {"round": number, "inspected": part["inspected"].iloc[0], "lenses_in_pool": part["lenses"].iloc[0]}
        for name in ("found", "per_object", "auc"):
            means = resample(numpy_rng(0), len(part), 2000) @ part[name].to_numpy() / max(len(part) - 1, 1)
            low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row |= {name: round(part[name].mean(), 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))
    errors = f"grader: {given.completeness:.0%} of lenses, {given.false_positives:.0%} of others graded A or B"
    classifier = f"polar network, {given.steps} steps" if given.steps else "logistic regression"
    repeats = f"{classifier}; {given.repeats} repeats, intervals of 95 % over them; prevalence {given.prevalence:.1%}"
    write_csv(given.out, rows, [f"{repeats}; {errors}"], ["scikit-learn"])


if __name__ == "__main__":
    main()
