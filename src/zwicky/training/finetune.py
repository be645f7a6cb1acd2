"""Learning from labels: a head and a backbone, pretrained or new, fitted to n labels and to nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zwicky import backbones
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.backbones.base import Backbone
from zwicky.data.contract import Cutouts
from zwicky.data.splits import fit_select, label_subsets
from zwicky.data.tables import Labels, Split
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.supervised import Supervised, TargetScaler
from zwicky.metrics.calibration import fit_temperature, nll
from zwicky.rng import numpy_rng, seed_torch
from zwicky.training import provenance
from zwicky.training.config import FinetuneConfig, FitConfig
from zwicky.training.launch import rank
from zwicky.training.linear_probe import features_of_views, init_head_from_linear_probe
from zwicky.training.loader import Source
from zwicky.training.loop import fit
from zwicky.training.network import Network, columns_of, load_network, save_network
from zwicky.training.pretrain import cost, new_backbone, resolve_views
from zwicky.training.processes import run_on_rank_zero
from zwicky.training.run import Run, fingerprint, to_plain
from zwicky.training.state import FitResult

PROBE_KEPT = "fitting did not help"  # how the warning begins


@dataclass(frozen=True)
class Task:
    """What is learned. rows: all labelled rows that may be used, split into `fit` and `select` (row numbers).

    classes: names in output order, with truth[row] an index; or targets, with truth[row] their values [columns].
    truth: [N] int64 or [N, columns] float32 over all rows of the cutouts; only rows in `fit` and `select` are read.
    """

    fit: np.ndarray
    select: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()


def fit_labels(
    backbone: Backbone,
    normalisation: Normalisation,
    views: ViewsConfig,
    cutouts: Cutouts,
    task: Task,
    config: FitConfig,
    *,
    seed: int,
    folder: Path,
    title: str,
    quiet: bool = False,
) -> tuple[Network, FitResult]:
    """Fit `backbone` (in place) and a new head to `task.fit`; `task.select` chooses the weights and the temperature."""
    seed_torch(seed)
    backbone.set_trainable()  # a pretrained one may be a teacher, which had no gradients
    columns = columns_of(task.targets)
    if columns:
        scaler = TargetScaler.fit(task.truth[task.fit], task.targets, backbone.invariant)
        method = Supervised(backbone, targets=task.targets, scaler=scaler)
    else:
        scaler = TargetScaler()
        method = Supervised(backbone, classes=len(task.classes), label_smoothing=config.label_smoothing)
    truth = torch.from_numpy(task.truth.astype(np.float32 if columns else np.int64))
    augment = Augment(views, normalisation, cutouts.size, cutouts.bands, 1, False, task.targets)
    some = len(task.select) > 0
    probe: Supervised | None = None  # what comes out where fitting does not help
    if config.head == "probe" and all(target.kind == "scalar" for target in task.targets):
        labelled, fitted_to = cutouts.take(task.fit).images, task.truth[task.fit]
        if some:
            means = Network(backbone, normalisation, views, cutouts.bands, cutouts.pixel_scale).features(labelled)
            init_head_from_linear_probe(method, means[None], fitted_to, seed)
            probe = copy.deepcopy(method)
        shown = features_of_views(backbone, augment, labelled, task.fit, seed, config.train.precision)
        init_head_from_linear_probe(method, shown, fitted_to, seed)

    def network_of(learner: Method) -> Network:
        assert isinstance(learner, Supervised)
        return Network(
            learner.backbone,
            normalisation,
            views,
            cutouts.bands,
            cutouts.pixel_scale,
            learner.head,
            task.classes,
            task.targets,
            scaler,
        )

    selected, known = cutouts.images[task.select], task.truth[task.select]

    def selection(learner: Method) -> dict[str, float]:
        outputs = network_of(learner).outputs(selected, turns=False)
        if columns:
            return {"select_loss": _error(outputs, known, scaler)}
        probabilities = torch.from_numpy(outputs).double().softmax(1).numpy()
        return {"select_loss": nll(known, probabilities), "select_accuracy": float((outputs.argmax(1) == known).mean())}

    fitted = fit(
        method,
        Source(cutouts.images, task.fit, truth),
        augment,
        config.train,
        seed=seed,
        folder=folder,
        title=title,
        evaluate=selection if some else None,
        keep_lowest="select_loss" if some else None,
        quiet=quiet,
    )
    network = network_of(method)
    if not some:
        return network, fitted
    ended, network.temperature = run_on_rank_zero(partial(_calibrated, network, selected, known))
    if probe is not None:
        simple = network_of(probe)
        began, simple.temperature = run_on_rank_zero(partial(_calibrated, simple, selected, known))
        if began < ended:
            network = simple
            fitted.warnings.append(
                f"{PROBE_KEPT}: on the labels kept back the probe of the pretrained features has a loss of "
                f"{began:.3f}, the fitted network {ended:.3f}; the probe is kept"
            )
    return network, fitted


def _calibrated(network: Network, images: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(loss, temperature) of the network's answers: NLL at the temperature that is best for these labels.

    Numbers have no temperature, 1, and the loss is their error.
    """
    outputs = network.outputs(images)
    if network.targets:
        return _error(outputs, truth, network.scaler), 1.0
    temperature = fit_temperature(outputs, truth)
    return nll(truth, torch.from_numpy(outputs / temperature).double().softmax(1).numpy()), temperature


def probe_kept(fitted: FitResult) -> bool:
    """Whether fitting did not help, so that the network that came out is the probe it began with."""
    return any(warning.startswith(PROBE_KEPT) for warning in fitted.warnings)


def _error(outputs: np.ndarray, truth: np.ndarray, scaler: TargetScaler) -> float:
    """Mean absolute error of regressed numbers [N, columns], in standard deviations of what was fitted."""
    return float(np.abs((outputs - truth) / scaler.std).mean())


def finetune(
    config: FinetuneConfig,
    start: Path | None,
    cutouts: Cutouts,
    labels: Labels,
    split: Split,
    out: Path,
    *,
    from_scratch: bool = False,
    quiet: bool = False,
) -> Network:
    """`zwicky finetune`: fit a network to n labels of the split's role train.

    start: the run whose network it is; None for a new one, `config.backbone` with its published weights, normalised by
    the roles train and unlabelled. from_scratch: the same network from random weights instead, the comparison
    pretraining must win.
    """
    if start is not None and (config.backbone is not None or config.normalisation is not None):
        raise UserError(f"finetune: {start} has a backbone and a normalisation; leave them out, or name a recipe")
    ids, truth, classes, targets = _what_to_learn(config, cutouts, labels, split)
    split.check_roles(ids, "learning from labels", ("train",))
    settings = {"start": start and str(start), "from_scratch": from_scratch, **to_plain(config)}
    rows = cutouts.rows_of(ids)
    pool = cutouts.rows_of(split.ids("train", "unlabelled")) if start is None else rows[:0]
    data = fingerprint(cutouts, np.concatenate([rows, pool]), truth[rows])
    run = Run(out, "finetune", settings, config.seed, data)
    if run.finished:
        return load_network(out)
    pretrained = load_network(start) if start is not None else _published(config, cutouts, pool, from_scratch)
    pretrained.check(cutouts)
    before = None if from_scratch or start is None else provenance.read(start)
    provenance.check_no_leakage(
        cutouts, cutouts.rows_of(split.ids("test")), before, f"the test of split {split.name!r}"
    )
    backbone = pretrained.backbone
    if from_scratch:
        seed_torch(config.seed)
        backbone = backbones.create(**backbone.config)
    strata = Labels(dict.fromkeys(ids, "known")) if targets else labels  # regression needs no class labels
    fit_ids, select_ids = divide_labels(ids, strata, config.fit, config.draw, split)
    views = replace(
        config.views, crop=config.views.crop or pretrained.views.crop, image_size=pretrained.views.image_size
    )
    task = Task(cutouts.rows_of(fit_ids), cutouts.rows_of(select_ids), truth, classes, targets)
    network, fitted = fit_labels(
        backbone,
        pretrained.normalisation,
        views,
        cutouts,
        task,
        replace(config.fit, head="random") if from_scratch else config.fit,
        seed=config.seed,
        folder=out,
        title="finetune",
        quiet=quiet,
    )
    if rank() == 0:
        save_network(out, network)
        uses = {"fit": task.fit, "select": task.select} | ({"normalise": pool} if len(pool) else {})
        provenance.write(out, provenance.record(cutouts, uses, before))
    run.finish(
        **cost(fitted, network.backbone), labels=len(ids), temperature=network.temperature, warnings=fitted.warnings
    )
    return network


def _published(config: FinetuneConfig, cutouts: Cutouts, rows: np.ndarray, from_scratch: bool) -> Network:
    """The recipe's network with its published weights, normalised by these rows."""
    if config.backbone is None:
        raise UserError("finetune: name the run to start from, or a recipe with a backbone")
    views = resolve_views(config.views, cutouts.size)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands, config.normalisation, rows=rows)
    seed_torch(config.seed)
    kind = replace(config.backbone, pretrained=None) if from_scratch else config.backbone
    return Network(new_backbone(kind, cutouts, views), normalisation, views, cutouts.bands, cutouts.pixel_scale)


def divide_labels(
    ids: np.ndarray, labels: Labels, fit: FitConfig, seed: int, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the n labels into those that are fitted and those that choose weights and temperature."""
    if not fit.select:
        return ids, ids[:0]
    share = min(fit.select, fit.select_most / max(len(ids), 1))
    return fit_select(ids, labels, share, seed=seed, groups=split.groups)


def _what_to_learn(
    config: FinetuneConfig, cutouts: Cutouts, labels: Labels, split: Split
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[Target, ...]]:
    """(ids of the n labels, truth over all rows, classes, targets)."""
    if not config.targets:
        if len(labels.classes) < 2:
            raise UserError(
                f"the labels hold {len(labels.classes)} class; give at least two, or name columns with --targets"
            )
        index = {name: position for position, name in enumerate(labels.classes)}
        truth = np.array([index.get(label, -1) for label in labels.of(cutouts.ids)], dtype=np.int64)
        chosen = label_subsets(split, labels, [config.labels], seed=config.draw, balanced=config.balanced)
        return chosen[config.labels], truth, labels.classes, ()
    targets = parse_targets(config.targets)
    truth = cutouts.numbers(columns_of(targets)).astype(np.float32)
    known = set(cutouts.ids[np.isfinite(truth).all(1)])
    pool = np.array([identifier for identifier in split.ids("train") if identifier in known], dtype=object)
    if len(pool) < max(config.labels, 2):
        raise UserError(
            f"{len(pool)} training objects have finite {', '.join(config.targets)}; ask for fewer labels or ingest more"
        )
    order = numpy_rng(config.draw).permutation(len(pool))  # prefixes are nested
    return pool[order[: config.labels or None]], truth, (), targets


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """`theta_E`, `vector:dx/dy`, `spin2:gamma1/gamma2` → targets."""
    kinds = {"": ("scalar", 1), "scalar": ("scalar", 1), "vector": ("vector", 2), "spin2": ("spin2", 2)}
    targets = []
    for text in texts:
        kind, _, columns = text.rpartition(":")
        names = tuple(columns.split("/"))
        if kind not in kinds or len(names) != kinds[kind][1]:
            raise UserError(f"target {text!r}: write a column name, vector:X/Y or spin2:FIRST/SECOND")
        targets.append(Target(names, kinds[kind][0]))  # type: ignore[arg-type]
    return tuple(targets)
