"""`zwicky finetune`: a network, pretrained or new, is fitted to n labels of a split."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from zwicky import backbones, provenance
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import RANDOM_STRATUM, Split, label_subsets
from zwicky.errors import UserError
from zwicky.rng import seed_torch
from zwicky.training.config import FinetuneConfig
from zwicky.training.fit_labels import LabelFit, divide_labels, fit_labels
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.pretrain import cost, new_network
from zwicky.training.processes import rank
from zwicky.training.run import Run, fingerprint, to_plain
from zwicky.training.self_training import check_self_training, self_train
from zwicky.training.task import Task


def finetune(
    config: FinetuneConfig,
    start: Path | str | None,
    cutouts: Cutouts,
    labels: Labels,
    split: Split,
    out: Path | str,
    *,
    from_scratch: bool = False,
    quiet: bool = False,
) -> Network:
    """Fine-tune a network on n labels of the split's role train (`zwicky finetune`).

    Args:
        config: the settings.
        start: run to start from; None for a new network, `config.backbone` with its published weights, normalised by
            the roles train and unlabelled.
        cutouts: the data set.
        labels: its labels; not read for regression.
        split: which objects may be used; no object of the role test is.
        out: the run directory; an interrupted run resumes, a finished one is read back.
        from_scratch: use the same network with random weights, the baseline pretraining must beat.
        quiet: show no progress.

    Raises:
        UserError: if the data do not fit the network, or it was trained on the split's test objects.
    """
    if start is not None and (config.backbone is not None or config.normalisation is not None):
        raise UserError(f"finetune: {start} has a backbone and a normalisation; leave them out, or name a recipe")
    task = Task.of(cutouts, labels, config.targets)
    strata = task.strata(cutouts, labels)
    ids = label_subsets(split, strata, [config.labels], seed=config.draw, balanced=config.balanced)[config.labels]
    split.check_roles(ids, "learning from labels", ("train",))
    if "stratum" in cutouts.table and (cutouts.table["stratum"][cutouts.rows_of(ids)] == RANDOM_STRATUM).any():
        raise UserError("leak: some labels are of the random stratum, which is for estimates; --grades leaves it out")
    out, start = Path(out), None if start is None else Path(start)
    source = config.backbone.source if config.backbone and not from_scratch else None
    files = {"start": start, "backbone.pretrained": source}
    settings = {"start": start and str(start), "from_scratch": from_scratch, **to_plain(config)}
    rows = cutouts.rows_of(ids)
    pool = cutouts.rows_of(split.ids("train", "unlabelled")) if start is None or config.unlabelled else rows[:0]
    digest = fingerprint(cutouts, np.concatenate([rows, pool]), task.learned[rows])
    run = Run(out, "finetune", settings, config.seed, digest, files)
    if run.finished:
        return load_network(out)
    pretrained = load_network(start) if start is not None else _published(config, cutouts, pool, from_scratch)
    if not (start or quiet):
        print(f"finetune: stretch {pretrained.normalisation.reason}", file=sys.stderr, flush=True)
    pretrained.check(cutouts)
    before = pretrained.history.as_use("normalise") if from_scratch else pretrained.history
    test = cutouts.rows_of(split.ids("test"))
    provenance.check_no_leakage(cutouts, test, before, f"the test of split {split.name!r}")
    if from_scratch:
        seed_torch(config.seed)
        pretrained.backbone = backbones.create(**pretrained.backbone.config)
    fit_rows, select_rows = map(cutouts.rows_of, divide_labels(ids, strata, config.fit, config.draw, split))
    uses = {"fit": fit_rows, "select": select_rows} | ({"normalise": pool} if start is None else {})
    fit = replace(config.fit, head="random") if from_scratch else config.fit

    if config.unlabelled:
        check_self_training(fit, task.is_regression)
    job = LabelFit(cutouts, task, fit_rows, select_rows, config.views, fit, config.seed, out, "finetune", quiet)
    network, result = fit_labels(copy.deepcopy(pretrained), job)
    if config.unlabelled:
        uses["pseudo_label"] = np.setdiff1d(pool, select_rows)
        network, students = self_train(network, pool, pretrained, replace(job, folder=out / "self-training"))
        result = students.after(result)
    network.history = provenance.record(cutouts, uses, before)
    result.warn("finetune", network.history.warning, pretrained.normalisation.warning)
    if rank() == 0:
        save_network(out, network)
    run.finish(
        **cost(result, network.backbone),
        labels=len(ids),
        class_counts={name: int((task.truth[rows] == k).sum()) for k, name in enumerate(task.classes)} or None,
        temperature=network.temperature,
        used_probe=result.used_probe,
        warnings=result.warnings,
    )
    return network


def _published(config: FinetuneConfig, cutouts: Cutouts, rows: np.ndarray, from_scratch: bool) -> Network:
    """The recipe's network with its published weights, normalised by these rows."""
    if config.backbone is None:
        raise UserError("finetune: name the run to start from, or a recipe with a backbone")
    backbone = replace(config.backbone, pretrained=None) if from_scratch else config.backbone
    return new_network(backbone, config.normalisation, cutouts, rows, config.views, config.seed)
