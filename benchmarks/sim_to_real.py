"""Trained on simulated lenses, tested on observed ones: `python benchmarks/sim_to_real.py --sim STORE --real STORE`.

The stores: `zwicky simulate lens-finding-cfht` and the observed cutouts with a catalogue that has the columns `origin`
and `object`. Tested are the labelled objects of one origin, always the same; intervals resample them by object.

No network sees a test object before the test, except that arms which say "real labels" learn from the other folds of a
grouped cross-validation, on features of a network that was pretrained without any labelled cutout.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tables import write_csv

from zwicky.backbones.config import BackboneConfig
from zwicky.cutouts.contract import Cutouts
from zwicky.cutouts.store import open_store
from zwicky.cutouts.tables import read_labels
from zwicky.evaluation.baselines import radial_colour
from zwicky.methods.config import MethodConfig
from zwicky.metrics.bootstrap import Bootstrap, Cell
from zwicky.metrics.logistic import fit_logistic
from zwicky.training import seen
from zwicky.training.config import FitConfig, PretrainConfig, TrainConfig, augmentation_for_labels
from zwicky.training.finetune import Task, fit_labels
from zwicky.training.network import Network
from zwicky.training.pretrain import new_backbone, pretrain, resolve_views
from zwicky.views.config import NormalisationConfig, ViewsConfig
from zwicky.views.normalise import Normalisation

RESULTS = Path(__file__).parent / "results" / "sim_to_real.csv"
CLASSES = ("nonlens", "lens")
CROP = 40  # pixels of a window that may stand at any angle in 64
VIT = BackboneConfig("vit_tiny", {"patch_size": 8, "depth": 6, "pool": "mean"})
FOLDS, REPEATS = 5, 5
JOINED = 2000  # simulated objects beside real labels


def together(first: Cutouts, second: Cutouts) -> Cutouts:
    """Both sets, with the columns they share."""
    assert (first.bands, first.size) == (second.bands, second.size)
    columns = [name for name in first.table.column_names if name in second.table.column_names]
    table = pa.concat_tables([first.table.select(columns), second.table.select(columns)], promote_options="permissive")
    return Cutouts(np.concatenate([first.images[:], second.images[:]]), table, first.bands)


def truth_of(store: Path, cutouts: Cutouts) -> np.ndarray:
    """[N] 0, 1, or −1 without a label."""
    labels = read_labels(store).of(cutouts.ids)
    return np.array([CLASSES.index(label) if label in CLASSES else -1 for label in labels])


def probe(x: np.ndarray, y: np.ndarray, query: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[M, 2] probabilities of `query` by logistic regression on x."""
    scaler = StandardScaler().fit(x)
    return fit_logistic(scaler.transform(x), y, 0, weights)[0].predict_proba(scaler.transform(query))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sim", type=Path, required=True, help="store of simulated, labelled cutouts")
    parser.add_argument("--real", type=Path, required=True, help="store of observed cutouts")
    parser.add_argument("--origin", default="sw", help="the origin of the observed cutouts that are tested")
    parser.add_argument("--epochs", type=float, default=15, help="of pretraining")
    parser.add_argument("--steps", type=int, default=400, help="of each fit")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the pretrained networks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()

    sim, real = open_store(given.sim), open_store(given.real)
    sim_y, real_y = truth_of(given.sim, sim), truth_of(given.real, real)
    tested = np.flatnonzero((real_y >= 0) & (real.column("origin") == given.origin))
    unlabelled = np.flatnonzero(real_y < 0)
    both = together(sim, real)
    y = np.concatenate([sim_y, real_y])
    test, free = len(sim) + tested, len(sim) + unlabelled
    ids, groups, truth = both.ids[test], real.column("object")[tested], real_y[tested]
    simulated = np.arange(len(sim))
    arms: dict[str, list[Cell]] = {}

    def record(name: str, probabilities: np.ndarray, labels: int, repeat: int = 0) -> None:
        arms.setdefault(name, []).append(Cell(repeat, repeat, None, ids, groups, truth, probabilities))
        used[name] = labels
        print(f"{name}, repeat {repeat}: AUC {roc_auc_score(truth, probabilities[:, 1]):.3f}", flush=True)

    used: dict[str, int] = {}
    images = both.images
    record("radial colours, simulated labels", radial_colour(images[:3000], y[:3000], images[test], 2, 0), 3000)

    views = resolve_views(replace(augmentation_for_labels(), crop=CROP), both.size)
    fit_rows, select_rows = simulated[:-400], simulated[-400:]
    steps = {"epochs": 1000, "max_steps": given.steps, "batch_size": 64, "evaluations": 8}
    fit = FitConfig(TrainConfig(**steps, lr=2e-3, weight_decay=0.05, weight_ema=0.99))
    pool = np.concatenate([simulated, free])
    normalisation = Normalisation.fit(images, both.bands, NormalisationConfig(), rows=pool)

    def fitted(start: Network, how: FitConfig, name: str) -> None:
        folder = given.runs / name.replace(" ", "-").replace(",", "")
        task = Task(fit_rows, select_rows, y, CLASSES)
        network, _ = fit_labels(
            start.backbone, start.normalisation, views, both, task, how, seed=0, folder=folder, title=name
        )
        record(name, network.probabilities(images[test]), len(sim))

    for name, backbone in (("ViT", VIT), ("ResNet-18", BackboneConfig("resnet18", {}))):
        torch.manual_seed(0)
        new = Network(new_backbone(backbone, both, views), normalisation, views, both.bands, both.pixel_scale)
        fitted(new, fit, f"{name} from scratch, simulated labels")

    config = PretrainConfig(
        method=MethodConfig("simmim"),
        backbone=VIT,
        views=ViewsConfig(crop=CROP, local_crops=0, blur=0.0, noise=0.0),
        train=TrainConfig(epochs=given.epochs, batch_size=64, lr=1e-3, weight_decay=0.05, evaluations=3),
    )
    start = pretrain(config, both, pool, given.runs / "pretrained")
    seen.refuse_overlap(both, test, seen.read(given.runs / "pretrained"), "the test")
    careful = replace(fit, head="probe", train=replace(fit.train, lr=2e-4, layer_decay=0.75))
    features = start.features(images)
    x, query = features[simulated], features[test]
    record("SimMIM on both, probe, simulated labels", probe(x, sim_y, query), len(sim))
    # The simplest adaptation: each survey's features on their own scale, measured without labels or test objects.
    own = [StandardScaler().fit(features[rows]) for rows in (simulated, free)]
    aligned, aligned_query = own[0].transform(x), own[1].transform(query)
    name = "SimMIM on both, features aligned, probe, simulated labels"
    record(name, probe(aligned, sim_y, aligned_query), len(sim))

    for repeat in range(REPEATS):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat).split(query, truth, groups)
        real_alone, joined, colours = np.zeros((3, len(test), 2))
        for train, held in folds:
            few = len(train)
            colours[held] = radial_colour(images[test[train]], truth[train], images[test[held]], 2, repeat)
            real_alone[held] = probe(query[train], truth[train], query[held])
            weights = np.concatenate([np.full(JOINED, few / JOINED), np.ones(few)])  # both halves count alike
            joined[held] = probe(
                np.concatenate([aligned[:JOINED], aligned_query[train]]),
                np.concatenate([sim_y[:JOINED], truth[train]]),
                aligned_query[held],
                weights,
            )
        few = len(test) * (FOLDS - 1) // FOLDS
        record("radial colours, real labels", colours, few, repeat)
        record("SimMIM on both, probe, real labels", real_alone, few, repeat)
        record("SimMIM on both, features aligned, probe, simulated and real labels", joined, JOINED + few, repeat)
    fitted(start, careful, "SimMIM on both, fine-tuned, simulated labels")

    bootstrap = Bootstrap(arms, metrics=("auc",))
    rows = []
    for name in arms:
        interval = bootstrap.interval(name, "auc")
        counts = {"labels": used[name], "test_objects": len(test)}
        rows.append({"arm": name, "auc": interval.value, "low": interval.low, "high": interval.high, **counts})
    for row in rows:
        row |= {key: round(row[key], 4) for key in ("auc", "low", "high")}
    notes = [f"{len(sim)} simulated, {len(free)} observed without label, {len(test)} observed tested; one pretraining"]
    write_csv(given.out, rows, notes, ("torch", "scikit-learn"))
    print(given.out.read_text())


if __name__ == "__main__":
    main()
