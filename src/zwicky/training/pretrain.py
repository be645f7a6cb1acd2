"""Pretraining: a backbone learns from cutouts without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from zwicky import backbones, methods
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.backbones.base import Backbone
from zwicky.backbones.config import BackboneConfig
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.collapse import knn_probabilities, rankme
from zwicky.rng import numpy_rng, seed_torch
from zwicky.training import provenance
from zwicky.training.config import PretrainConfig
from zwicky.training.launch import rank
from zwicky.training.loader import TrainingSet, find_partners
from zwicky.training.loop import fit
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.run import Run, fingerprint
from zwicky.training.state import FitResult

GAUGE_IMAGES = 512  # images the gauges of an evaluation look at
KNN_NEIGHBOURS = 10


def pretrain(
    config: PretrainConfig,
    cutouts: Cutouts,
    rows: np.ndarray,
    out: Path,
    *,
    labels: np.ndarray | None = None,
    title: str = "pretrain",
    quiet: bool = False,
) -> Network:
    """Pretrain on `rows` of the cutouts into the run directory `out`, or go on there; a finished run is read back.

    labels: [len(rows)] class names or None, for the kNN gauge alone; they touch neither weights nor choices.
    """
    run = Run(out, "pretrain", config, config.seed, fingerprint(cutouts, rows))
    if run.finished:
        return load_network(out)
    if len(rows) < 2:
        raise UserError(f"{title}: {len(rows)} images to pretrain on; give a store with more")
    views = resolve_views(config.views, cutouts.size)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands, config.normalisation, rows=rows)
    seed_torch(config.seed)
    backbone = new_backbone(config.backbone, cutouts, views)
    method = methods.create(config.method.name, backbone, **config.method.options)
    needs = method.needs
    if needs.targets:
        raise UserError(f"{config.method.name} learns from labels; use `zwicky finetune`")
    if needs.local_crops and views.local_crops:
        backbone.grid(views.local_size)  # a size that does not fit is refused here
    augment = Augment.for_method(needs, views, normalisation, cutouts.size, cutouts.bands)
    if needs.preview:
        some = numpy_rng(config.seed).permutation(rows)[: needs.preview]
        raw = torch.from_numpy(cutouts.images[some])
        method.prepare(augment(raw, torch.from_numpy(some), seed=config.seed, step=0))

    network = Network(method.backbone, normalisation, views, cutouts.bands, cutouts.pixel_scale)
    watched = numpy_rng(config.seed).permutation(len(rows))[:GAUGE_IMAGES]
    shown = cutouts.images[rows[watched]]
    known = None if labels is None else labels[watched]

    def gauges(_: Method) -> dict[str, float]:
        features = network.features(shown, turns=False)
        values = {"rankme": float(rankme(features))}
        if known is not None:
            accuracy = _knn_accuracy(features, known)
            values |= {} if accuracy is None else {"knn_accuracy": accuracy}
        return values

    fitted = fit(
        method,
        TrainingSet(cutouts.images, rows, partners=find_partners(cutouts, rows) if needs.global_crops > 1 else None),
        augment,
        config.train,
        seed=config.seed,
        folder=out,
        title=title,
        evaluate=gauges,
        quiet=quiet,
    )
    if rank() == 0:
        save_network(out, network)
        provenance.write(out, provenance.record(cutouts, {"pretrain": np.asarray(rows)}))
    run.finish(**cost(fitted, network.backbone), images=len(rows), warnings=fitted.warnings)
    return network


def resolve_views(views: ViewsConfig, size: tuple[int, int]) -> ViewsConfig:
    """Fill in the window and the network's image size where the user left them open."""
    crop = min(size) if views.crop is None else views.crop
    return replace(views, crop=crop, image_size=crop if views.image_size is None else views.image_size)


def new_backbone(config: BackboneConfig, cutouts: Cutouts, views: ViewsConfig) -> Backbone:
    """A backbone for these cutouts as these views show them."""
    assert views.image_size is not None, "views are resolved first"
    return backbones.create(
        config.name,
        bands=len(cutouts.bands),
        image_size=views.image_size,
        pretrained=config.pretrained,
        **config.options,
    )


def cost(fitted: FitResult, backbone: Backbone) -> dict[str, float]:
    """What a fit cost, for `run.json` and result tables."""
    return {
        "steps": fitted.steps,
        "images_seen": fitted.images_seen,
        "pflops": fitted.flops / 1e15,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }


def _knn_accuracy(features: np.ndarray, labels: np.ndarray) -> float | None:
    """Leave-one-out kNN accuracy among the labelled, None where fewer than two classes have labels."""
    some = np.array([label is not None for label in labels])
    classes, truth = np.unique(labels[some].astype(str), return_inverse=True)
    if len(classes) < 2 or some.sum() <= 2 * KNN_NEIGHBOURS:
        return None
    half = some.sum() // 2
    x = features[some]
    probabilities = knn_probabilities(x[:half], truth[:half], x[half:], k=KNN_NEIGHBOURS, classes=len(classes))
    return float((probabilities.argmax(1) == truth[half:]).mean())
