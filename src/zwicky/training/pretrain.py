"""Pretraining: a backbone is trained on cutouts without labels."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zwicky import backbones, methods, provenance
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment
from zwicky.backbones import BackboneConfig
from zwicky.backbones.base import Backbone
from zwicky.backbones.weights import published_scale
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.methods import MethodConfig
from zwicky.methods.base import Method
from zwicky.methods.collapse import knn_predict, rankme
from zwicky.rng import numpy_rng, seed_torch
from zwicky.training.checkpoint import FitResult
from zwicky.training.config import PretrainConfig
from zwicky.training.loader import TrainingSet, find_partners
from zwicky.training.loop import fit
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.processes import rank
from zwicky.training.run import Run, fingerprint

EVALUATION_IMAGES = 512
KNN_NEIGHBOURS = 10


def pretrain(
    config: PretrainConfig,
    cutouts: Cutouts,
    rows: np.ndarray,
    out: Path | str,
    *,
    labels: np.ndarray | None = None,
    title: str = "pretrain",
    quiet: bool = False,
) -> Network:
    """Pretrain on `rows` of the cutouts (`zwicky pretrain`).

    An interrupted run in the directory `out` resumes, a finished one is read back. `labels`, [len(rows)] class names
    or None, are for the kNN accuracy in metrics.csv only.
    """
    out, source, views = Path(out), config.backbone.source, config.views.resolved(cutouts.size)
    views.validate(cutouts.size, cutouts.bands)
    run = Run(out, "pretrain", config, config.seed, fingerprint(cutouts, rows), {"backbone.pretrained": source})
    if run.finished:
        return load_network(out)
    if len(rows) < 2:
        raise UserError(f"{title}: {len(rows)} images to pretrain on; give a store with more")
    network = new_network(config.backbone, config.normalisation, cutouts, rows, views, config.seed)
    backbone, normalisation = network.backbone, network.normalisation
    if not quiet:
        print(f"{title}: stretch {normalisation.reason}", file=sys.stderr, flush=True)
    method = create_method(config.method, backbone, views)
    needs = method.needs
    augment = Augment(views, normalisation, cutouts.size, cutouts.bands, needs)
    if needs.preview:
        first = numpy_rng(config.seed).permutation(rows)[: needs.preview]
        raw = torch.from_numpy(cutouts.images[first])
        method.prepare(augment(raw, torch.from_numpy(first), seed=config.seed, step=0))

    network.backbone = method.backbone
    sample = numpy_rng(config.seed).permutation(len(rows))[:EVALUATION_IMAGES]
    images = cutouts.images[rows[sample]]

    def evaluate(_: Method) -> dict[str, float]:
        features = network.features(images, turns=False)
        return {"rankme": rankme(features)} | ({} if labels is None else _knn_accuracy(features, labels[sample]))

    partners = find_partners(cutouts, rows) if needs.global_crops > 1 else None
    data, run_fit = TrainingSet(cutouts.images, rows, partners=partners), partial(fit, evaluate=evaluate, quiet=quiet)
    result = run_fit(method, data, augment, config.train, seed=config.seed, folder=out, title=title)
    network.history = provenance.record(cutouts, {"pretrain": rows}, network.history)
    result.warn(title, network.history.warning, normalisation.warning)
    if rank() == 0:
        save_network(out, network)
    run.finish(**cost(result, network.backbone), images=len(rows), warnings=result.warnings)
    return network


def create_method(config: MethodConfig, backbone: Backbone, views: ViewsConfig) -> Method:
    """Build a self-supervised method around a backbone; UserError if it does not fit the backbone or the views."""
    method = methods.create(config.name, backbone, **config.options)
    if method.needs.targets:
        raise UserError(f"{config.name} learns from labels; use `zwicky finetune`")
    if method.needs.local_crops and views.local_crops:
        backbone.grid(views.local_size)  # raises if the size does not fit
    return method


def check_pretraining(
    method: MethodConfig, backbone: BackboneConfig, views: ViewsConfig, cutouts: Cutouts, section: str
) -> None:
    """Raise UserError unless network, method and views, the settings of `section`, fit the cutouts; trains nothing."""
    bands, (_, size) = cutouts.bands, views.window(cutouts.size)
    net = backbones.create(backbone.name, bands=len(bands), image_size=size, **backbone.options)
    local = create_method(method, net, views).needs.local_crops
    views.validate(cutouts.size, bands, views.local_crops if local else 0, section=section)


def new_network(
    backbone: BackboneConfig,
    normalisation: NormalisationConfig | None,
    cutouts: Cutouts,
    rows: np.ndarray,
    views: ViewsConfig,
    seed: int,
) -> Network:
    """Build a network for `views` of these cutouts; pixels are normalised by those of `rows`.

    Published weights get pixels on the scale that they were trained on.
    """
    bands, source, (_, size) = cutouts.bands, backbone.source, views.window(cutouts.size)
    seed_torch(seed)
    net = backbones.create(backbone.name, bands=len(bands), image_size=size, pretrained=source, **backbone.options)
    history = provenance.read(source)
    # Weights with a record, as a run, file or export, are ours and have our scale.
    scale = published_scale(net, source) if source is not None and source in history.unknown else None
    fitted = Normalisation.fit(cutouts.images, bands, normalisation, rows=rows, published=scale)
    return Network(net, fitted, views.resolved(cutouts.size), bands, cutouts.pixel_scale, history=history)


def cost(result: FitResult, backbone: Backbone) -> dict[str, float]:
    """Return what a fit cost, for `run.json` and result tables; pflops are 10^15 operations."""
    same = {name: getattr(result, name) for name in ("seconds", "steps", "step_seconds", "images_seen")}
    return same | {"pflops": result.flops / 1e15, "parameters": sum(p.numel() for p in backbone.parameters())}


def _knn_accuracy(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy on one half of the labelled features by their neighbours in the other; {} with too few labels."""
    labelled = np.array([label is not None for label in labels])
    classes, truth = np.unique(labels[labelled].astype(str), return_inverse=True)
    if len(classes) < 2 or labelled.sum() <= 2 * KNN_NEIGHBOURS:
        return {}
    x, half = features[labelled], labelled.sum() // 2
    probabilities = knn_predict(x[:half], np.eye(len(classes))[truth[:half]], x[half:], k=KNN_NEIGHBOURS)
    return {"knn_accuracy": float((probabilities.argmax(1) == truth[half:]).mean())}
