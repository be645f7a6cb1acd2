"""scikit-learn estimators over arrays of images, for notebooks."""

import copy
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.backbones import BackboneConfig
from zwicky.data.columns import sentinels
from zwicky.data.cutouts import Cutouts, as_pixels, make_cutouts
from zwicky.data.duplicates import find_groups
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.methods import MethodConfig
from zwicky.rng import seed_torch
from zwicky.training.config import FitConfig, PretrainConfig, TrainConfig, augmentation_for_labels
from zwicky.training.fit_labels import divide_labels, fit_labels
from zwicky.training.network import Network, load_network
from zwicky.training.pretrain import pretrain
from zwicky.training.task import Task


@dataclass(eq=False, repr=False)
class _LensEstimator(BaseEstimator):
    """What `LensClassifier` and `LensRegressor` share."""

    backbone: str = "vit_tiny"
    _: KW_ONLY
    options: dict[str, Any] | None = None
    crop: int | None = None
    pretrained: str | Path | None = None
    method: str = "dino"
    method_options: dict[str, Any] | None = None
    pretrain_epochs: float = 50
    batch_size: int = 128
    epochs: float = 60
    min_steps: int = 300
    random_state: int = 0
    quiet: bool = True

    def __sklearn_clone__(self) -> Self:
        clone = super().__sklearn_clone__()
        if hasattr(self, "pretrained_"):
            clone.pretrained_ = self.pretrained_
        return clone

    def pretrain(self, images: np.ndarray, folder: Path | str | None = None) -> Self:
        """Pretrain on images [N, bands, H, W] without labels; a run directory `folder` resumes."""
        pixels = _pixels(images)
        cutouts, (crop, local) = make_cutouts(pixels, _bands(pixels)), self._window(pixels)
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

    def _fit(self, pixels: np.ndarray, task: Task) -> None:
        """Fine-tune; a fifth of the labels selects the weights and the temperature."""
        start, pretrained = self._start(pixels)
        config = FitConfig(head="probe" if pretrained else "random")
        config.train.epochs, config.train.min_steps = self.epochs, self.min_steps
        if not pretrained:  # all layers of a new network have the same learning rate
            config.train.layer_decay = 1.0
        views = replace(augmentation_for_labels(), crop=start.views.crop, image_size=start.views.image_size)
        cutouts, seed = make_cutouts(pixels, start.bands), self.random_state
        strata = np.zeros(len(pixels), int) if task.is_regression else task.truth
        labels = Labels(dict(zip(cutouts.ids, map(str, strata), strict=True)))
        groups = dict(zip(cutouts.ids, find_groups(cutouts), strict=True))
        split = Split("all", dict.fromkeys(cutouts.ids, "train"), groups)
        fit, select = map(cutouts.rows_of, divide_labels(cutouts.ids, labels, config, seed, split))
        with TemporaryDirectory() as folder:
            learn = partial(fit_labels, seed=seed, folder=Path(folder), title="fit", quiet=self.quiet)
            self.network_, _ = learn(start, cutouts, task, fit, select, views, config)
        self.image_shape_ = pixels.shape[1:]

    def _predict(self, images: np.ndarray) -> np.ndarray:
        check_is_fitted(self, "network_")
        shape = self.image_shape_
        pixels = _pixels(images, shape[0] if np.ndim(images) == 3 else None)
        if pixels.shape[1:] != shape:
            raise UserError(f"fitted to images {shape}, given {pixels.shape[1:]}; give images of that shape")
        return self.network_.predict(pixels)

    def _start(self, pixels: np.ndarray) -> tuple[Network, bool]:
        """The network to fit, which may be changed, and whether it was pretrained."""
        start = copy.deepcopy(getattr(self, "pretrained_", None))
        if start is None and self.pretrained is not None:
            start = load_network(self.pretrained)
        if start is not None:
            if len(start.bands) != pixels.shape[1]:
                raise UserError(f"pretrained on {len(start.bands)} bands, given {pixels.shape[1]}; give the same bands")
            return start, True
        seed_torch(self.random_state)
        bands, (crop, _) = _bands(pixels), self._window(pixels)
        backbone = backbones.create(self.backbone, bands=len(bands), image_size=crop, **(self.options or {}))
        views = ViewsConfig(crop=crop, image_size=crop)
        return Network(backbone, Normalisation.fit(pixels, bands), views, bands), False

    def _window(self, pixels: np.ndarray) -> tuple[int, int]:
        """Sides of the window and, about half of it, of the local crops: multiples of the patch size."""
        patch = (self.options or {}).get("patch_size", 8)
        crop = self.crop or max(min(pixels.shape[2:]) // patch, 1) * patch
        return crop, max(crop // 2 // patch, 1) * patch


class LensClassifier(ClassifierMixin, _LensEstimator):
    """Pretrain on many images without labels (`pretrain`, optional) and fine-tune on few with labels (`fit`).

    Images are arrays [N, bands, H, W], or [N, H, W] of one band, of any numbers, NaN or masked where invalid; `predict`
    takes one [bands, H, W] too. `fit` starts from the network of `pretrain`, which clones keep (`cross_val_score`),
    else from the run `pretrained`, else from random weights, and sets `network_` and the sorted `classes_`.

    Args:
        backbone: vit_tiny, vit_small, vit_base or resnet18.
        options: its keywords, e.g. {"patch_size": 8, "depth": 6}.
        crop: side in pixels of the window given to the network; None takes the largest multiple of the patch size.
        pretrained: run directory of `zwicky pretrain`; it determines the network and the window.
        method: the self-supervised method of `pretrain`.
        method_options: its keywords, e.g. {"prototypes": 512}.
        pretrain_epochs: epochs of `pretrain`.
        batch_size: batch size of `pretrain`.
        epochs: epochs of `fit`.
        min_steps: fewest steps of `fit`.
        random_state: seed of weights, order and augmentation.
        quiet: show no progress.
    """

    def fit(self, images: np.ndarray, labels: np.ndarray) -> Self:
        """Fine-tune on images [N, bands, H, W] and their labels [N] of any type, of at least two classes."""
        pixels, labels = _pixels(images), np.asarray(labels)
        if labels.shape != (len(pixels),) or any(label is None or label != label for label in labels.tolist()):
            raise UserError(f"{len(pixels)} images, labels of shape {list(labels.shape)}; give one label per image")
        self.classes_, truth = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"the labels hold {len(self.classes_)} class; give images of at least two")
        self._fit(pixels, Task(truth, tuple(map(str, self.classes_))))
        return self

    def predict_proba(self, images: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities [N, classes], averaged over the eight rotations and reflections."""
        return self._predict(images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the most probable class of each image, [N]."""
        best = self._predict(images).argmax(1)  # first, as it raises before `fit`
        return self.classes_[best]


class LensRegressor(RegressorMixin, _LensEstimator):
    """Pretrain on images without labels and fine-tune on images with numbers; parameters as for `LensClassifier`."""

    def fit(self, images: np.ndarray, values: np.ndarray) -> Self:
        """Fine-tune on images [N, bands, H, W] and finite numbers [N] or [N, columns] that do not rotate."""
        pixels, values = _pixels(images), np.asarray(values, dtype=np.float32)
        if values.ndim not in (1, 2) or len(values) != len(pixels) or not np.isfinite(values).all():
            raise UserError(f"{len(pixels)} images, values of shape {list(values.shape)}; give finite ones per image")
        columns = values.reshape(len(values), -1)
        if (is_code := np.stack([sentinels(column) for column in columns.T], axis=1)).any():
            raise UserError(f"{is_code.sum()} values such as {columns[is_code][0]:g} may mean unknown; leave them out")
        self._fit(pixels, Task(columns, targets=tuple(Target((f"y{k}",)) for k in range(columns.shape[1]))))
        self.is_single_ = values.ndim == 1
        return self

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return values, [N] or [N, columns] as given to `fit`, averaged over the eight rotations and reflections."""
        values = self._predict(images)
        return values[:, 0] if self.is_single_ else values


def _pixels(images: Any, n_bands: int | None = None) -> np.ndarray:
    """[N, bands, H, W] in a type of the data package; UserError for images without a valid pixel."""
    pixels = as_pixels(images.images if isinstance(images, Cutouts) else images, n_bands)
    if not pixels.size:
        raise UserError(f"there are no images in {list(pixels.shape)}; give numbers [N, bands, H, W]")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).any(axis=(1, 2, 3)).all():
        raise UserError("an image has no valid pixel; leave it out")
    return pixels


def _bands(pixels: np.ndarray) -> tuple[str, ...]:
    return tuple(f"band{number}" for number in range(1, pixels.shape[1] + 1))
