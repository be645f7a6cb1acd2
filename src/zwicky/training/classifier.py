"""A scikit-learn estimator over arrays of images, for notebooks."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.backbones.config import BackboneConfig
from zwicky.data.cutouts import PIXEL_TYPES, make_cutouts
from zwicky.data.duplicates import find_groups
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.methods import MethodConfig
from zwicky.rng import seed_torch
from zwicky.training.config import FitConfig, PretrainConfig, TrainConfig, augmentation_for_labels
from zwicky.training.finetune import divide_labels, fit_labels
from zwicky.training.network import Network, load_network
from zwicky.training.pretrain import pretrain
from zwicky.training.task import Task


class LensClassifier(ClassifierMixin, BaseEstimator):
    """Learn from many images without labels (`pretrain`, optional) and from few with (`fit`).

    Images are arrays [N, bands, H, W], NaN where invalid. `fit` starts from the network of `pretrain`, else from the
    run `pretrained`, else from random weights; it leaves `classes_`, sorted, and `network_`. Mistakes are UserErrors.

    Args:
        backbone: vit_tiny, vit_small, vit_base or resnet18.
        options: its keywords, e.g. {"patch_size": 8, "depth": 6}.
        crop: side in pixels of the window the network sees; None takes the largest that 8 (or patch_size) divides.
        pretrained: run directory of `zwicky pretrain`; it decides the network and the window.
        method: the self-supervision of `pretrain`.
        method_options: its keywords, e.g. {"prototypes": 512}.
        pretrain_epochs: passes of `pretrain` over its images.
        batch_size: images a step of `pretrain`.
        epochs: passes of `fit` over its images.
        min_steps: fewest steps of `fit`.
        random_state: seed of weights, order and augmentation.
        quiet: show no progress.
    """

    def __init__(
        self,
        backbone: str = "vit_tiny",
        *,
        options: dict[str, Any] | None = None,
        crop: int | None = None,
        pretrained: str | Path | None = None,
        method: str = "dino",
        method_options: dict[str, Any] | None = None,
        pretrain_epochs: float = 50,
        batch_size: int = 128,
        epochs: float = 60,
        min_steps: int = 300,
        random_state: int = 0,
        quiet: bool = True,
    ) -> None:
        self.backbone, self.options, self.crop, self.pretrained = backbone, options, crop, pretrained
        self.method, self.method_options, self.pretrain_epochs = method, method_options, pretrain_epochs
        self.batch_size, self.epochs, self.min_steps = batch_size, epochs, min_steps
        self.random_state, self.quiet = random_state, quiet

    def pretrain(self, images: np.ndarray, folder: Path | str | None = None) -> LensClassifier:
        """Learn from images without labels, in the run directory `folder` (goes on there) or a temporary one."""
        pixels = _pixels(images)
        cutouts, (crop, local) = make_cutouts(pixels, _bands(pixels)), self._windows(pixels)
        config = PretrainConfig(
            method=MethodConfig(self.method, self.method_options or {}),
            backbone=BackboneConfig(self.backbone, self.options or {}),
            views=ViewsConfig(crop=crop, local_size=local),
            train=TrainConfig(self.pretrain_epochs, batch_size=self.batch_size, lr=1e-3, weight_decay_end=0.4),
            seed=self.random_state,
        )
        with TemporaryDirectory() as temporary:
            rows = np.arange(len(cutouts))
            self.pretrained_ = pretrain(config, cutouts, rows, Path(folder or temporary), quiet=self.quiet)
        return self

    def fit(self, images: np.ndarray, labels: np.ndarray) -> LensClassifier:
        """Learn from labelled images; a fifth of the labels is kept back to choose weights and temperature."""
        pixels, labels = _pixels(images), np.asarray(labels)
        if labels.shape != (len(pixels),) or any(label is None or label != label for label in labels.tolist()):
            raise UserError(f"{len(pixels)} images, labels of shape {list(labels.shape)}; give one label an image")
        classes, truth = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"the labels hold {len(classes)} class; give images of at least two")
        start, pretrained = self._start(pixels)
        cutouts, views, config = make_cutouts(pixels, start.bands), augmentation_for_labels(), FitConfig()
        views.crop, views.image_size = start.views.crop, start.views.image_size
        config.train.epochs, config.train.min_steps = self.epochs, self.min_steps
        if pretrained:
            config.head = "probe"
        else:  # random weights learn alike in all layers
            config.train.layer_decay = 1.0
        known = Labels(dict(zip(cutouts.ids, map(str, truth), strict=True)))
        split = Split("all", dict.fromkeys(cutouts.ids, "train"), find_groups(cutouts))
        learn, select = divide_labels(cutouts.ids, known, config, self.random_state, split)
        task = Task(truth, tuple(map(str, classes)))
        what = (start, cutouts, task, cutouts.rows_of(learn), cutouts.rows_of(select), views, config)
        with TemporaryDirectory() as temporary:
            folder, seed = Path(temporary), self.random_state
            self.network_, _ = fit_labels(*what, seed=seed, folder=folder, title="fit", quiet=self.quiet)
        self.classes_, self.image_shape_ = classes, pixels.shape[1:]
        return self

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [N, classes] in the order of `classes_`, the mean over eight turns and mirrors."""
        check_is_fitted(self, "network_")
        pixels = _pixels(images)
        if pixels.shape[1:] != self.image_shape_:
            raise UserError(f"fitted to images {self.image_shape_}, given {pixels.shape[1:]}; cut them alike")
        return self.network_.probabilities(pixels)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The most probable class of each image [N]."""
        most = self.predict_proba(images).argmax(1)
        return self.classes_[most]

    def _start(self, pixels: np.ndarray) -> tuple[Network, bool]:
        """The network to fit, which may be changed, and whether it was pretrained."""
        start = copy.deepcopy(getattr(self, "pretrained_", None))
        if start is None and self.pretrained is not None:
            start = load_network(Path(self.pretrained))
        if start is not None:
            if len(start.bands) != pixels.shape[1]:
                raise UserError(f"pretrained on {len(start.bands)} bands, given {pixels.shape[1]}; give the same bands")
            return start, True
        seed_torch(self.random_state)
        bands, (crop, _) = _bands(pixels), self._windows(pixels)
        backbone = backbones.create(self.backbone, bands=len(bands), image_size=crop, **(self.options or {}))
        views = ViewsConfig(crop=crop, image_size=crop)
        return Network(backbone, Normalisation.fit(pixels, bands), views, bands), False

    def _windows(self, pixels: np.ndarray) -> tuple[int, int]:
        """Sides of the window and of the local crops, about half of it, both divided by the patch."""
        patch = (self.options or {}).get("patch_size", 8)
        crop = self.crop or max(min(pixels.shape[2:]) // patch, 1) * patch
        return crop, max(crop // 2 // patch, 1) * patch


def _pixels(images: np.ndarray) -> np.ndarray:
    """[N, bands, H, W] in a type the rooms take."""
    pixels = np.asarray(images)
    if pixels.ndim != 4 or not pixels.size or pixels.dtype.kind not in "buif":
        raise UserError(f"the images are {pixels.dtype} {list(pixels.shape)}; give numbers [N, bands, H, W]")
    return pixels if pixels.dtype.name in PIXEL_TYPES else pixels.astype(np.float32)


def _bands(pixels: np.ndarray) -> tuple[str, ...]:
    return tuple(f"band{number}" for number in range(1, pixels.shape[1] + 1))
