"""What the scikit-learn estimators share: images in, and a network whose settings follow from them."""

import math
import warnings
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from zwicky import backbones, recipes
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.backbones import SHIPPED, BackboneConfig
from zwicky.data.bands import unnamed_bands
from zwicky.data.cutouts import Cutouts, LazyImages, as_array, as_pixels, make_cutouts
from zwicky.errors import UserError
from zwicky.simulate.stream import open_data
from zwicky.training.config import TrainConfig
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.pretrain import new_network
from zwicky.training.settings import Facts, as_settings, choose

LEAST_SIDE = 8  # pixels of the square that a row of numbers becomes


class InputError(UserError, ValueError):
    """A mistake in what an estimator was given; a ValueError too, as scikit-learn expects."""


class _Packed(NamedTuple):
    """A network in a pickle: the bytes of the files that `save_network` writes, safetensors and JSON."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, network: Network) -> Self:
        with TemporaryDirectory() as folder:
            save_network(folder, network)
            return cls({path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())})

    def network(self) -> Network:
        with TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return load_network(folder)


@dataclass(eq=False, repr=False)
class LensEstimator(BaseEstimator):
    """What the estimators share: images in, and a network with settings that follow from them."""

    backbone: str = "polar_vit"
    _: KW_ONLY
    options: dict[str, Any] | None = None
    crop: int | None = None
    pretrained: Network | Path | str | None = None
    steps: int | None = None
    train: dict[str, Any] | None = None
    random_state: int = 0
    quiet: bool = True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: _Packed.of(each) if isinstance(each, Network) else each for name, each in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = {name: each.network() if isinstance(each, _Packed) else each for name, each in state.items()}
        super().__setstate__(restored)

    def _cutouts(self, images: Any, fitting: bool = False, reset: bool = True) -> Cutouts:
        """Return `images` as cutouts, of the shape that was fitted unless `fitting`, which may `reset` that of rows."""
        if not fitting:
            check_is_fitted(self, "network_")
        if isinstance(images, str | Path):
            images = open_data(images).cutouts
        if not isinstance(images, Cutouts):
            images = images if hasattr(images, "ndim") else as_array(images)
            if images.ndim < 3:
                images = _squares(validate_data(self, images, reset=fitting and reset, ensure_all_finite=False))
            elif not isinstance(images, LazyImages):
                images = as_pixels(images, self.image_shape_[0] if images.ndim == 3 and not fitting else None)
            if not len(images):
                raise InputError(f"there are no images in {list(images.shape)}; give numbers [N, bands, H, W]")
            images = make_cutouts(images, unnamed_bands(images.shape[1]))
            if images.images.dtype.kind == "f" and not np.isfinite(images.images).any(axis=(1, 2, 3)).all():
                raise InputError("an image has no valid pixel; leave it out")
        shape = images.images.shape[1:]
        if not fitting and shape != self.image_shape_:
            raise InputError(f"fitted to images {self.image_shape_}, given {shape}; give images of that shape")
        if not fitting and unnamed_bands(shape[0]) not in (images.bands, self.network_.bands):
            self.network_.check(images)
        return images

    def _settings(self, cutouts: Cutouts, labels: int = 0) -> dict[str, Any]:
        """Return recipe `start` with the settings that follow from the data, see `training.settings`."""
        facts = Facts(cutouts.size, len(cutouts.bands), cutouts.pixel_scale, len(cutouts), labels, labels)
        return recipes.merge(recipes.read("start"), as_settings(choose(facts)))

    def _network(self, settings: dict[str, Any], bands: int) -> tuple[BackboneConfig, ViewsConfig]:
        """Return a new network's configuration and its window: the largest one that it can be built for."""
        shipped = self.pretrained if self.pretrained in SHIPPED else None
        polar = {} if shipped else settings["backbones"]["polar"]["options"]
        defaults = polar if self.backbone == "polar_vit" else {"pool": "mean"} if "vit_" in self.backbone else {}
        config = BackboneConfig(self.backbone, defaults | (self.options or {}), shipped)
        crop = self.crop or largest_size(config, bands, settings["label_views"]["crop"])
        return config, ViewsConfig(crop=crop, image_size=crop)

    def _train(self, settings: dict[str, Any]) -> TrainConfig:
        if self.steps is not None and self.steps < 0:
            raise InputError(f"steps is {self.steps}; choose 0 or more")
        steps = {} if self.steps is None else {"min_steps": self.steps, "max_steps": self.steps}
        known = [field.name for field in fields(TrainConfig)]
        if unknown := sorted(set(self.train or {}) - set(known)):
            raise InputError(f"train has no setting {unknown[0]!r}; choose of {', '.join(known)}")
        return TrainConfig(**settings | steps | (self.train or {}))

    @property
    def _is_new(self) -> bool:
        """Whether `fit` builds a network and its normalisation: weights that ship have none of the data's."""
        return self.pretrained is None or self.pretrained in SHIPPED

    def _start(self, cutouts: Cutouts, settings: dict[str, Any]) -> tuple[Network, Cutouts]:
        """Return a copy of the network to start from, and the cutouts with the names of its bands."""
        given = self.pretrained
        if self._is_new:
            backbone, views = self._network(settings, len(cutouts.bands))
            normalisation = NormalisationConfig(**settings["normalisation"])
            rows = np.arange(len(cutouts))
            return new_network(backbone, normalisation, cutouts, rows, views, self.random_state), cutouts
        network = _Packed.of(given).network() if isinstance(given, Network) else load_network(str(given))
        count = len(cutouts.bands)
        if len(network.bands) != count:
            raise InputError(f"pretrained on {len(network.bands)} bands, given {count}; give the same bands")
        if cutouts.bands == unnamed_bands(count):
            cutouts = replace(cutouts, bands=network.bands)
        if network.bands != unnamed_bands(count):
            network.check(cutouts)
        return replace(network, bands=cutouts.bands), cutouts


def _squares(rows: np.ndarray) -> np.ndarray:
    """Return rows [N, pixels] as images [N, 1, side, side]; those that fill no square are repeated, with a warning."""
    count, pixels = rows.shape
    side = max(math.isqrt(pixels - 1) + 1, LEAST_SIDE)
    if side**2 != pixels:
        warnings.warn(f"rows of {pixels} numbers are no square images; they are repeated to {side} × {side} px")
    return as_pixels(rows[:, np.arange(side**2) % pixels].reshape(count, 1, side, side))


def largest_size(backbone: BackboneConfig, bands: int, most: int) -> int:
    """Return the largest side of images, at most `most` and above half of it, that the backbone can be built for."""
    problem = None
    for size in range(most, most // 2, -1):
        try:
            backbones.create(backbone.name, bands=bands, image_size=size, **backbone.options)
            return size
        except UserError as error:
            problem = problem or error
    raise problem or InputError(f"images of {most} px are too small")
