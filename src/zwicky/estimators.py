"""scikit-learn estimators over images, for notebooks and pipelines."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from zwicky import provenance, recipes
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.views import Target
from zwicky.data.columns import sentinels
from zwicky.data.cutouts import Cutouts, Images
from zwicky.data.duplicates import find_groups
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.estimator_base import InputError, LensEstimator, largest_size
from zwicky.methods import METHODS, MethodConfig
from zwicky.simulate.stream import open_data
from zwicky.training.config import FitConfig, PretrainConfig
from zwicky.training.fit_labels import LabelFit, divide_labels, fit_labels
from zwicky.training.pretrain import pretrain
from zwicky.training.task import Task


class _FittedToLabels(LensEstimator):
    """An estimator that is fine-tuned."""

    def _fit(self, cutouts: Cutouts, task: Task, test: tuple[Any, np.ndarray] | None = None) -> None:
        """Fine-tune; a fifth of the labels selects the weights and the temperature."""
        self.image_shape_, seed = cutouts.images.shape[1:], self.random_state
        settings = self._settings(cutouts, len(cutouts))
        start, cutouts = self._start(cutouts, settings)
        fit = settings["scratch" if self._is_new else "finetune"]
        config = FitConfig(**fit | {"train": self._train(fit["train"])})
        views = ViewsConfig(**settings["label_views"] | {"crop": start.views.crop})
        strata = np.zeros(len(cutouts), int) if task.is_regression else task.truth
        labels = Labels(dict(zip(cutouts.ids, map(str, strata), strict=True)))
        groups = dict(zip(cutouts.ids, find_groups(cutouts), strict=True))
        split = Split("all", dict.fromkeys(cutouts.ids, "train"), groups)
        rows, select = map(cutouts.rows_of, divide_labels(cutouts.ids, labels, config, seed, split))
        with TemporaryDirectory() as folder:
            job = LabelFit(cutouts, task, rows, select, views, config, seed, Path(folder), "fit", self.quiet)
            self.network_, _ = fit_labels(start, job, test)
            self.history_ = pd.read_csv(Path(folder) / "metrics.csv")
        uses = {"fit": rows, "select": select, "normalise": np.arange(len(cutouts) if self._is_new else 0)}
        self.network_.history = provenance.record(cutouts, uses, start.history)


class LensClassifier(ClassifierMixin, _FittedToLabels):
    """Learn classes of images, from random weights or from a pretrained network.

    Images are a store (its path, or `Cutouts`) or an array [N, bands, H, W], or [N, H, W] of one band, of any numbers,
    NaN or masked where invalid. Rows [N, pixels], as other steps of a pipeline give them, are square images of one
    band. What is None follows from the data, as in `zwicky start`. `fit` sets `network_`, `history_` (metrics by step)
    and the sorted `classes_`. A pickle holds the weights as safetensors.

    Args:
        backbone: any of `zwicky.backbones.BACKBONES`: polar_vit, hybrid_vit, vit_tiny, swin_tiny, resnet18, …
        options: its keywords, e.g. {"patch_size": 8, "depth": 6}.
        crop: side in pixels of the window given to the network.
        pretrained: zwicky-rings, the run directory of `zwicky pretrain` or `finetune`, or a network such as
            `LensEncoder().fit(images).network_`; it determines backbone and window.
        steps: number of steps of training.
        train: further settings of the training, see `zwicky.training.config.TrainConfig`.
        random_state: seed of weights, order and augmentation.
        quiet: show no progress.
    """

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # on the points of scikit-learn's checks, which are no images
        return tags

    def fit(self, X: Any, y: Any = None, *, eval_set: tuple[Any, Any] | None = None) -> Self:
        """Learn from images X and their labels y [N] of any type; without y, from the labels of the store X.

        Loss and accuracy on `eval_set`, images and labels that nothing is learned from, are recorded in `history_`.
        """
        cutouts, labels = self._cutouts(X, fitting=True), y
        if labels is None:
            if not isinstance(X, str | Path):
                raise InputError("LensClassifier requires y to be passed, but the target y is None")
            labels = open_data(X).labels.of(cutouts.ids)
            known = np.flatnonzero(pd.notna(labels))
            cutouts, labels = cutouts.take(known), labels[known].astype(str)
        labels = column_or_1d(labels, warn=True)
        if len(labels) != len(cutouts):
            raise InputError(f"{len(cutouts)} images, labels of shape {list(labels.shape)}; give one label per image")
        if missing := sum(label is None or label != label for label in labels.tolist()):
            raise InputError(f"{missing} of {len(labels)} labels are None or NaN; leave out what has none")
        check_classification_targets(labels)
        self.classes_, truth = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"the labels hold {len(self.classes_)} class; give images of at least two")
        test = None if eval_set is None else self._eval_set(*eval_set, cutouts.images.shape[1:])
        self._fit(cutouts, Task(truth, tuple(map(str, self.classes_))), test)
        return self

    def _eval_set(self, X: Any, y: Any, shape: tuple[int, ...]) -> tuple[Images, np.ndarray]:
        """Return images, of the shape of those to learn from, and the number of the class of each, [N]."""
        images, labels = self._cutouts(X, fitting=True, reset=False).images, column_or_1d(y).tolist()
        if images.shape[1:] != shape:
            raise InputError(f"X holds images {shape}, eval_set {images.shape[1:]}; give images of that shape")
        if len(labels) != len(images):
            raise InputError(f"eval_set holds {len(images)} images, {len(labels)} labels; give one label per image")
        numbers = {name: number for number, name in enumerate(self.classes_.tolist())}
        if unknown := [label for label in labels if label not in numbers]:
            raise InputError(f"eval_set holds the label {unknown[0]!r}, which is not in y; leave its images out")
        return images, np.array([numbers[label] for label in labels])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return calibrated probabilities [N, classes], averaged over the eight rotations and reflections."""
        cutouts = self._cutouts(X)
        return self.network_.predict(cutouts.images)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each image, [N]."""
        best = self.predict_proba(X).argmax(1)  # first, as it raises before `fit`
        return self.classes_[best]


class LensRegressor(RegressorMixin, _FittedToLabels):
    """Learn numbers from images; images and arguments as for `LensClassifier`."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = tags.regressor_tags.poor_score = True  # see `LensClassifier`
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from images X and finite numbers y, [N] or [N, columns], that do not rotate with them."""
        cutouts = self._cutouts(X, fitting=True)
        if y is None:
            raise InputError("LensRegressor requires y to be passed, but the target y is None")
        values = np.asarray(y, dtype=np.float32)
        if values.ndim not in (1, 2) or len(values) != len(cutouts) or not np.isfinite(values).all():
            raise InputError(f"{len(cutouts)} images, values of shape {list(values.shape)}; give finite ones per image")
        if len(values) < 2:
            raise InputError("there is 1 sample; give at least two images")
        columns = values.reshape(len(values), -1)
        if (is_code := np.stack([sentinels(column) for column in columns.T], axis=1)).any():
            raise InputError(f"{is_code.sum()} values such as {columns[is_code][0]:g} may mean unknown; leave them out")
        self._fit(cutouts, Task(columns, targets=tuple(Target((f"y{k}",)) for k in range(columns.shape[1]))))
        self.is_single_ = values.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return values, [N] or [N, columns] as given to `fit`, averaged over the eight rotations and reflections."""
        cutouts = self._cutouts(X)
        values = self.network_.predict(cutouts.images).astype(np.float64)
        return values[:, 0] if self.is_single_ else values


@dataclass(eq=False, repr=False)
class LensEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, LensEstimator):
    """Learn features from images without labels, for `LensClassifier(pretrained=…)` or any model of scikit-learn.

    Images and arguments as for `LensClassifier`; with `pretrained`, `fit` trains nothing.

    Args:
        method: dino, ibot, esvit, simsiam, byol, lejepa, simmim, beit or mae.
        method_options: its keywords, e.g. {"mask_ratio": 0.5}; those left out are of the method's recipe.
        features: what `transform` returns: blocks, mean and spread of the tokens before each block and after the last
            (`Network.block_features`), which serve linear models best; or pooled, those that fine-tuning starts from.
        out: run directory to write, which `zwicky finetune` takes; an interrupted `fit` resumes there.
    """

    method: str = "simmim"
    method_options: dict[str, Any] | None = None
    features: Literal["blocks", "pooled"] = "blocks"
    out: Path | str | None = None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features are float32
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Pretrain on images X; y is not used."""
        if self.features not in ("blocks", "pooled"):
            raise InputError(f"features is {self.features!r}; choose 'blocks' or 'pooled'")
        cutouts = self._cutouts(X, fitting=True)
        self.image_shape_ = cutouts.images.shape[1:]
        if self.pretrained is not None:
            self.network_, _ = self._start(cutouts, self._settings(cutouts))
            return self
        if len(cutouts) < 2:
            raise InputError("there is 1 sample; give at least two images")
        settings, bands = self._settings(cutouts), len(cutouts.bands)
        backbone, views = self._network(settings, bands)
        simmim = settings["methods"]["simmim"]
        has_own = self.method != "simmim" and self.method in METHODS and self.method in recipes.names()
        recipe = recipes.read(self.method, "desk") if has_own else simmim
        options = recipe["method"].get("options", {}) | (self.method_options or {})
        lengths = {"crop": views.crop, "image_size": views.image_size, "shift": simmim["views"]["shift"]}
        if recipe["views"].get("local_crops", 6):
            lengths["local_size"] = largest_size(backbone, bands, max((views.crop or 0) // 2, 1))
        steps = {name: simmim["train"][name] for name in ("batch_size", "min_steps", "max_steps")}
        config = PretrainConfig(
            method=MethodConfig(self.method, options),
            backbone=backbone,
            views=ViewsConfig(**recipe["views"] | lengths),
            normalisation=NormalisationConfig(**settings["normalisation"]),
            train=self._train(recipe["train"] | steps),
            seed=self.random_state,
        )
        with TemporaryDirectory() as temporary:
            out = Path(self.out or temporary)
            self.network_ = pretrain(config, cutouts, np.arange(len(cutouts)), out, quiet=self.quiet)
            self.history_ = pd.read_csv(out / "metrics.csv")
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return features [N, D] float32, averaged over the eight rotations and reflections."""
        cutouts = self._cutouts(X)
        return (self.network_.block_features if self.features == "blocks" else self.network_.features)(cutouts.images)

    @property
    def _n_features_out(self) -> int:
        """D, for `get_feature_names_out`."""
        return self.transform(np.zeros((1, *self.image_shape_), np.float32)).shape[1]
