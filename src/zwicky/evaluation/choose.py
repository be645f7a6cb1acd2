"""Which pretrained networks are worth fine-tuning, found without a test object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zwicky.evaluation.arms import Arm
from zwicky.evaluation.design import Draw
from zwicky.evaluation.learners import Bench, frozen
from zwicky.evaluation.metrics import classification_scores
from zwicky.evaluation.probes import linear_probe
from zwicky.io import read_json, write_json


def best(bench: Bench, everyone: Sequence[Arm], draws: Sequence[Draw]) -> list[Arm]:
    """`everyone` without the fine-tuned arms that `finetune_best` leaves out.

    A pretrained network's score is the AUC of a linear probe on its frozen features, fitted to the labels of a draw
    that are fitted and scored on those kept for selection, at the largest number of labels; the mean over the draws.
    The scores are kept in `chosen.json`.
    """
    count = bench.config.finetune_best
    networks = list(dict.fromkeys((arm.method, arm.backbone) for arm in everyone if arm.method))
    if not count or count >= len(networks):
        return list(everyone)
    path = bench.folder / "chosen.json"
    if not path.exists():
        scores = {f"{method}-{network}": _score(bench, method, network, draws) for method, network in networks}
        write_json(path, {"auc": scores})
    scores = read_json(path)["auc"]
    chosen = sorted(scores, key=lambda name: -scores[name])[:count]
    return [arm for arm in everyone if not (arm.method and arm.fitted) or f"{arm.method}-{arm.backbone}" in chosen]


def _score(bench: Bench, method: str, network: str, draws: Sequence[Draw]) -> float:
    scores = []
    for draw in draws:
        features, truth = frozen(bench, network, method, draw), bench.truth
        fit, select = draw.rows(bench.cutouts, max(draw.subsets))
        probabilities = linear_probe(features[fit], truth[fit], features[select], len(bench.classes))
        scores.append(classification_scores(truth[select], probabilities)["auc"])
    return float(np.mean(scores))
