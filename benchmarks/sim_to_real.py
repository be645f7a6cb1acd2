"""Trained on simulated lenses, tested on observed ones: `python benchmarks/sim_to_real.py --sim STORE --real STORE`.

The stores: `zwicky simulate lens-finding-cfht` and the observed cutouts with a catalogue that has the columns `origin`
and `object`. Three tests, always of the same objects, with intervals that resample them by object:

- look-alikes: the observed lenses and non-lenses of one origin, flagged by volunteers and graded by experts;
- field: observed known lenses, each against the two galaxies of the field that are nearest to it in brightness, for
  arms that saw no observed cutout at all;
- simulated: simulations of another seed.

No network sees a test object before the test, except that arms which say "real labels" learn from the other folds of a
grouped cross-validation, on features of a network that was pretrained without any labelled cutout.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tables import write_csv

from zwicky import provenance
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels, read_labels
from zwicky.data.store import open_store
from zwicky.evaluation.baselines import radial_colour
from zwicky.evaluation.bootstrap import Bootstrap, Cell
from zwicky.evaluation.metrics import statistics
from zwicky.methods import MethodConfig
from zwicky.simulate.stream import open_data
from zwicky.training.config import FitConfig, PretrainConfig, TrainConfig, augmentation_for_labels
from zwicky.training.fit_labels import LabelFit, fit_labels
from zwicky.training.linear_probe import fit_logistic
from zwicky.training.network import Network
from zwicky.training.pretrain import new_network, pretrain
from zwicky.training.run import Run, fingerprint, to_plain
from zwicky.training.task import Task

RESULTS = Path(__file__).parent / "results" / "sim_to_real.csv"
CLASSES = ("nonlens", "lens")
GRADED, KNOWN, FIELD = "sw", "known_gallery", "field"  # origins in the observed catalogue
CROP = 40  # pixels of a window that may stand at any angle in 64
VIT = BackboneConfig("vit_tiny", {"patch_size": 8, "depth": 6, "pool": "mean"})
FOLDS, REPEATS = 5, 5
JOINED = 2000  # simulated objects beside real labels


def together(first: Cutouts, second: Cutouts) -> Cutouts:
    """Both sets, with the columns they share."""
    assert (first.bands, first.size) == (second.bands, second.size)
    table = pd.concat([first.table, second.table], join="inner", ignore_index=True)
    return Cutouts(np.concatenate([first.images[:], second.images[:]]), table, first.bands)


def truth_of(labels: Labels, cutouts: Cutouts) -> np.ndarray:
    """[N] 0, 1, or −1 without a label."""
    return np.array([CLASSES.index(label) if label in CLASSES else -1 for label in labels.of(cutouts.ids)])


def alike(cutouts: Cutouts, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`rows` and, for each, the two of `others` [N] bool that are nearest in mean brightness; nobody is taken twice."""
    bright, free, taken = np.log1p(cutouts.images[:].mean((1, 2, 3))), others.copy(), list(rows)
    for row in np.repeat(rows, 2):
        nearest = np.argmin(np.where(free, np.abs(bright - bright[row]), np.inf))
        free[nearest] = False
        taken.append(nearest)
    return np.array(taken)


def weights_of(network: Network) -> str:
    """A hash of the network a fit starts from, so that a fit goes on only from the same."""
    digest = hashlib.blake2b(repr(network.normalisation).encode(), digest_size=16)
    for value in network.backbone.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def probe(x: np.ndarray, y: np.ndarray, query: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """[M, 2] probabilities of `query` by logistic regression on x; rows of a group stay in one fold."""
    scaler = StandardScaler().fit(x)
    return fit_logistic(scaler.transform(x), y, 0, groups)[0].predict_proba(scaler.transform(query))


@dataclass
class Test:
    """Objects to tell apart. images: [M, bands, H, W]; groups: [M], what each belongs to; truth: [M]."""

    images: np.ndarray
    ids: np.ndarray
    groups: np.ndarray
    truth: np.ndarray


class Table:
    """Answers by test and arm. labels: how many each arm learnt from."""

    def __init__(self, tests: dict[str, Test]) -> None:
        self.tests, self.labels = tests, dict[str, int]()
        self.used_probe: dict[str, bool] = {}  # of fine-tuned arms: whether the linear probe was better
        self.cells: dict[str, dict[str, list[Cell]]] = {name: {} for name in tests}

    def record(self, test: str, arm: str, probabilities: np.ndarray, labels: int, repeat: int = 0) -> None:
        """Probabilities [M, 2] that an arm gives to a test."""
        it, self.labels[arm] = self.tests[test], labels
        cell = Cell(it.ids, it.groups, it.truth, probabilities, repeat, repeat)
        self.cells[test].setdefault(arm, []).append(cell)
        auc = roc_auc_score(it.truth, probabilities[:, 1])
        print(f"{test}: {arm}, repeat {repeat}: AUC {auc:.3f}", flush=True)

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for test, arms in self.cells.items():
            replicates = Bootstrap(arms).apply(statistics()["auc"])
            for arm in arms:
                auc = replicates.interval(arm)
                numbers = {name: round(getattr(auc, name), 4) for name in ("value", "low", "high")}
                objects = len(self.tests[test].ids)
                row = {"test": test, "arm": arm, **numbers, "labels": self.labels[arm], "test_objects": objects}
                rows.append(row | {"used_probe": self.used_probe.get(arm)})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sim", type=Path, required=True, help="store of simulated, labelled cutouts")
    parser.add_argument("--real", type=Path, required=True, help="store of observed cutouts")
    parser.add_argument("--other", default="simulate:lens-finding-cfht:1000:22", help="simulations to test on")
    parser.add_argument("--epochs", type=float, default=15, help="of pretraining")
    parser.add_argument("--steps", type=int, default=400, help="of each fit")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()

    sim, real, other = open_store(given.sim), open_store(given.real), open_data(given.other)
    sim_y, real_y = truth_of(read_labels(given.sim), sim), truth_of(read_labels(given.real), real)
    origin = real.column("origin")
    unlabelled = np.flatnonzero(real_y < 0)
    both = together(sim, real)
    y = np.concatenate([sim_y, real_y])
    images, simulated, free = both.images, np.arange(len(sim)), len(sim) + unlabelled

    def observed(rows: np.ndarray) -> Test:
        return Test(real.images[rows], real.ids[rows], real.column("object")[rows], (real_y[rows] == 1).astype(int))

    tests = {
        "look-alikes": observed(np.flatnonzero((real_y >= 0) & (origin == GRADED))),
        "field": observed(alike(real, np.flatnonzero((real_y == 1) & (origin == KNOWN)), origin == FIELD)),
        "simulated": Test(
            other.cutouts.images[:], other.cutouts.ids, other.cutouts.ids, truth_of(other.labels, other.cutouts)
        ),
    }
    table, graded = Table(tests), tests["look-alikes"]
    views = replace(augmentation_for_labels(), crop=CROP).resolved(both.size)
    steps = {"epochs": 1000, "max_steps": given.steps, "batch_size": 64, "evaluations": 8}
    fit = FitConfig(TrainConfig(**steps, lr=2e-3, weight_decay=0.05, weight_ema=0.99))
    careful = replace(fit, head="probe", train=replace(fit.train, lr=2e-4, layer_decay=0.75))
    config = PretrainConfig(
        method=MethodConfig("simmim"),
        backbone=VIT,
        views=ViewsConfig(crop=CROP, local_crops=0, blur=0.0, noise=0.0),
        train=TrainConfig(epochs=given.epochs, batch_size=64, lr=1e-3, weight_decay=0.05, evaluations=3),
    )

    def pretrained(rows: np.ndarray, name: str, against: tuple[str, ...]) -> Network:
        network = pretrain(config, both, rows, given.runs / name)
        for test in against:
            held = both.rows_of(tests[test].ids)
            provenance.check_no_leakage(both, held, provenance.read(given.runs / name), f"the test {test!r}")
        return network

    def fitted(start: Network, how: FitConfig, arm: str, on: tuple[str, ...], shown: ViewsConfig = views) -> None:
        folder = given.runs / arm.replace(" ", "-").replace(",", "")
        settings = {"arm": arm, "fit": to_plain(how), "views": to_plain(shown), "start": weights_of(start)}
        Run(folder, "finetune", settings, 0, fingerprint(both, simulated, y[simulated]))
        start = copy.deepcopy(start)  # which a fit changes
        rows, select = simulated[:-400], simulated[-400:]
        network, done = fit_labels(start, LabelFit(both, Task(y, CLASSES), rows, select, shown, how, 0, folder, arm))
        table.used_probe[arm] = done.used_probe
        for test in on:
            table.record(test, arm, network.probabilities(tests[test].images), len(sim))

    everywhere = tuple(tests)
    for test, it in tests.items():
        bright = it.images.mean((1, 2, 3))
        table.record(test, "mean brightness", np.stack([-bright, bright], 1), 0)
    for test in everywhere:
        colours = radial_colour(images[:3000], y[:3000], tests[test].images, Task(y, CLASSES), 0)
        table.record(test, "radial colours, simulated labels", colours, 3000)
    rough = replace(views, blur=0.5, noise=0.5, brightness=0.3, contrast=0.3)
    resnet = BackboneConfig("resnet18", {})
    for name, backbone, shown in (
        ("ViT from scratch", VIT, views),
        ("ResNet-18 from scratch", resnet, views),
        ("ResNet-18 from scratch with blur, noise and brightness", resnet, rough),
    ):
        new = new_network(backbone, NormalisationConfig(), both, simulated, views, 0)
        fitted(new, fit, f"{name}, simulated labels", everywhere, shown)

    alone = pretrained(simulated, "pretrained-simulated", ("look-alikes", "field"))
    x = alone.features(sim.images)
    for test in everywhere:
        said = probe(x, sim_y, alone.features(tests[test].images))
        table.record(test, "SimMIM on simulated, probe, simulated labels", said, len(sim))
    fitted(alone, careful, "SimMIM on simulated, fine-tuned, simulated labels", everywhere)
    name = "SimMIM on simulated, fine-tuned with blur, noise and brightness, simulated labels"
    fitted(alone, careful, name, everywhere, rough)

    start = pretrained(np.concatenate([simulated, free]), "pretrained", ("look-alikes",))
    x, query = start.features(sim.images), start.features(graded.images)
    table.record("look-alikes", "SimMIM on both, probe, simulated labels", probe(x, sim_y, query), len(sim))
    # The simplest adaptation: each survey's features on their own scale, measured without labels or test objects.
    aligned = StandardScaler().fit_transform(x)
    aligned_query = StandardScaler().fit(start.features(images[free])).transform(query)
    name = "SimMIM on both, features aligned, probe, simulated labels"
    table.record("look-alikes", name, probe(aligned, sim_y, aligned_query), len(sim))
    fitted(start, careful, "SimMIM on both, fine-tuned, simulated labels", ("look-alikes",))

    truth, pictures = graded.truth, graded.images
    few = len(truth) * (FOLDS - 1) // FOLDS
    for repeat in range(REPEATS):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat).split(query, truth, graded.groups)
        real_alone, joined, colours = np.zeros((3, len(truth), 2))
        for train, held in folds:
            colours[held] = radial_colour(pictures[train], truth[train], pictures[held], Task(truth, CLASSES), repeat)
            real_alone[held] = probe(query[train], truth[train], query[held])
            again = np.repeat(train, JOINED // len(train))  # simulated and observed labels count alike
            joined[held] = probe(
                np.concatenate([aligned[:JOINED], aligned_query[again]]),
                np.concatenate([sim_y[:JOINED], truth[again]]),
                aligned_query[held],
                np.concatenate([np.arange(JOINED), JOINED + again]),
            )
        table.record("look-alikes", "radial colours, real labels", colours, few, repeat)
        table.record("look-alikes", "SimMIM on both, probe, real labels", real_alone, few, repeat)
        name = "SimMIM on both, features aligned, probe, simulated and real labels"
        table.record("look-alikes", name, joined, JOINED + few, repeat)

    notes = [f"{len(sim)} simulated and {len(free)} observed without label for pretraining, one each way"]
    write_csv(given.out, table.rows(), notes, ("torch", "scikit-learn"))
    print(given.out.read_text())


if __name__ == "__main__":
    main()
