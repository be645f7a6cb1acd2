"""A trained network with what it needs to be applied: normalisation, window, bands and, if it has one, its head."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from scipy.special import softmax
from torch import Tensor, nn

from zwicky import backbones, d4, provenance
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target, eval_views, transform_targets
from zwicky.backbones.base import Backbone
from zwicky.data.cutouts import Cutouts, Images, LazyImages, as_pixels, batches
from zwicky.errors import UserError
from zwicky.io import NETWORK, WEIGHTS, read_json, replacing, write_json
from zwicky.methods.supervised import TargetScaler
from zwicky.provenance import TrainingObjects
from zwicky.training.checkpoint import save_weights
from zwicky.training.distributed import autocast, device
from zwicky.training.task import columns_of

SCHEMA_VERSION = 2
UNKNOWN = TrainingObjects(unknown=("this network",))
PLAIN = ("bands", "pixel_scale", "classes", "temperature")  # attributes that JSON holds as they are


@contextlib.contextmanager
def eval_mode(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules into evaluation mode; each is back in its own mode afterwards."""
    training = [(module, module.training) for module in modules if module is not None]
    for module, _ in training:
        module.eval()
    try:
        yield
    finally:
        for module, was_training in training:
            module.train(was_training)


@dataclass
class Network:
    """A backbone, perhaps with a head, and how images are prepared for it."""

    backbone: Backbone
    normalisation: Normalisation  # of the pixel values
    views: ViewsConfig  # the window that is cut from each image
    bands: tuple[str, ...]  # names of the channels
    pixel_scale: float | None = None  # arcsec per pixel, None if unknown
    head: nn.Module | None = None  # from features to logits or standardised values; None before fine-tuning
    classes: tuple[str, ...] = ()  # names in the order of the outputs; () for regression
    targets: tuple[Target, ...] = ()  # what is regressed; () for classification
    scaler: TargetScaler = field(default_factory=TargetScaler)  # from the head's outputs to the units of the targets
    temperature: float = 1.0  # divides the logits, so that probabilities are calibrated
    history: TrainingObjects = UNKNOWN  # what it was trained on

    @property
    def n_outputs(self) -> int:
        """Number of classes or of regressed columns."""
        return len(self.classes or columns_of(self.targets))

    def features(self, images: Images, turns: bool = True) -> np.ndarray:
        """Compute pooled features [N, D] float32 of raw images [N, bands, H, W], or one [bands, H, W].

        With `turns` they are averaged over the eight rotations and reflections.
        """
        return self._mean_over_d4(lambda crops, _: self.backbone(crops, patch_tokens=False).pooled, images, turns)

    def block_features(self, images: Images) -> np.ndarray:
        """Compute mean and standard deviation over the tokens before each block and after the last, [N, K] float32.

        The last block of masked image modelling is the worst for probes, and a spread tells more than a mean. Networks
        without transformer blocks of timm's kind give those of their last feature map.
        """

        def spreads(crops: Tensor, _: int) -> Tensor:
            tokens: list[Tensor] = []
            blocks = [m for m in self.backbone.modules() if hasattr(m, "norm1") and hasattr(m, "attn")]
            norms = [block.get_submodule("norm1") for block in blocks]
            with contextlib.ExitStack() as hooks:
                for norm in norms:
                    hooks.enter_context(norm.register_forward_pre_hook(lambda _, args: tokens.append(args[0])))
                tokens.append(self.backbone(crops).patch_tokens)
            flat = [each.float().flatten(1, -2) for each in tokens]
            return torch.cat([value for each in flat for value in (each.mean(1), each.std(1, correction=0))], 1)

        return self._mean_over_d4(spreads, images, turns=True)

    def outputs(self, images: Images, turns: bool = True) -> np.ndarray:
        """Compute logits [N, classes], not divided by the temperature, or values [N, columns]; see `features`."""
        return self.features_and_outputs(images, turns)[1]

    def features_and_outputs(self, images: Images, turns: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Compute what `features` and `outputs` return in one pass."""
        if self.head is None:
            raise UserError("this network has no head yet; run `zwicky finetune` on it first")
        head = self.head

        def both(crops: Tensor, g: int) -> Tensor:
            features = self.backbone(crops, patch_tokens=head.uses_patch_tokens)
            outputs = head(features).float()
            if self.targets:
                back = d4.to_source(int(d4.INVERSE[g])).to(outputs.device).expand(len(outputs), 2, 3)
                outputs = transform_targets(self.scaler.inverse(outputs), self.targets, back)
            return torch.cat([features.pooled.float(), outputs], 1)

        result = self._mean_over_d4(both, images, turns)
        return result[:, : self.backbone.dim], result[:, self.backbone.dim :]

    def probabilities(self, images: Images, turns: bool = True) -> np.ndarray:
        """Compute calibrated class probabilities [N, classes]; see `features`."""
        return self.to_probabilities(self.outputs(images, turns))

    def to_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits [N, classes] into calibrated probabilities, float64."""
        return softmax(logits.astype(np.float64) / self.temperature, axis=1)

    def predict(self, images: Images, turns: bool = True) -> np.ndarray:
        """Compute probabilities [N, classes] or, of a regression, values [N, columns]; see `features`."""
        return (self.outputs if self.targets else self.probabilities)(images, turns)

    def check(self, cutouts: Cutouts) -> None:
        """Raise UserError if cutouts have other bands or another pixel scale than those of the training."""
        self.check_bands(cutouts.bands)
        scale = cutouts.pixel_scale
        if self.pixel_scale and scale and abs(scale / self.pixel_scale - 1) > 0.02:
            raise UserError(
                f'the network was made for {self.pixel_scale}" a pixel; these cutouts have {scale}"; '
                "resample them or pretrain again"
            )

    def check_bands(self, bands: tuple[str, ...]) -> None:
        """Raise UserError unless cutouts have the bands of the training."""
        if bands != self.bands:
            start = "or start a new network from its weights: --backbone.pretrained RUN/network.safetensors"
            advice = (
                f"ingest with --bands '[{', '.join(self.bands)}]'"
                if set(self.bands) <= set(bands)
                else f"ingest these, {start}"
            )
            have = f"these cutouts have {', '.join(bands)}"
            raise UserError(f"the network was made for bands {', '.join(self.bands)}; {have}; {advice}")

    @torch.inference_mode()
    def _mean_over_d4(self, function: Callable[[Tensor, int], Tensor], images: Images, turns: bool) -> np.ndarray:
        """[N, K] mean of `function` over the D4 transformations of each image."""
        on = next(self.backbone.parameters()).device
        # The mean of eight removes the rounding of bfloat16; the single view of an invariant network must be exact.
        precision = "float32" if self.backbone.invariant else "auto"
        images = images if isinstance(images, LazyImages) else as_pixels(images, len(self.bands))
        if not len(images):  # timm's networks take no empty batch
            return self._mean_over_d4(function, np.zeros((1, *images.shape[1:]), images.dtype), turns)[:0]
        result = np.empty(0)
        with eval_mode(self.backbone, self.head), autocast(self.backbone, precision):
            # A block of a transformer then stays in the cache of a core.
            for rows in batches(len(images), 256 if on.type == "cuda" else 64):
                pixels = images[rows]
                crops, _ = eval_views(torch.from_numpy(pixels).to(on), self.views, self.normalisation)
                views = d4.apply(crops) if turns and not self.backbone.invariant else [crops]
                mean = torch.stack([function(view, g).float() for g, view in enumerate(views)]).mean(0)
                result = result if result.ndim == 2 else np.empty((len(images), mean.shape[1]), np.float32)
                result[rows] = mean.cpu().numpy()
                if pixels.dtype.kind == "f":  # an image without a valid pixel has no features
                    result[rows][~np.isfinite(pixels).any((1, 2, 3))] = np.nan
        return result


def save_network(folder: Path | str, network: Network) -> None:
    """Write `network.safetensors`, with the record of training objects in it, and `network.json`."""
    folder = Path(folder)
    state = {f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}
    if network.head is not None:
        state |= {f"head.{name}": value for name, value in network.head.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_weights(temporary, state | network.history.tensors(), network.history.metadata())
    write_json(
        folder / NETWORK,
        {
            "schema_version": SCHEMA_VERSION,
            "backbone": network.backbone.config,
            "normalisation": asdict(network.normalisation),
            "views": asdict(network.views),
            "head": network.head is not None,
            **{name: getattr(network, name) for name in PLAIN},
            "targets": [asdict(target) for target in network.targets],
            "scaler": asdict(network.scaler),
        },
    )


def load_network(folder: Path | str) -> Network:
    """Read what `save_network` wrote; UserError if there is no network, or not one that this version can read."""
    folder = Path(folder)
    if not (folder / NETWORK).exists():
        raise UserError(
            f"{folder} holds no network; give the --out of `zwicky pretrain` or `zwicky finetune`, finished"
        )
    description = read_json(folder / NETWORK)
    if description.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder} was written by another version of zwicky; make the run again")
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys() if name != provenance.NAME}  # noqa: SIM118
        return replace(_restore(description, state), history=provenance.read(folder))
    except Exception as error:  # a wrong description makes torch and timm raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"cannot load the network in {folder}: {reason}; make the run again") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _restore(description: dict[str, Any], state: dict[str, Tensor]) -> Network:
    """Build the described network with these weights."""
    description = _tuples(description)
    backbone = backbones.create(**description["backbone"])
    targets = tuple(Target(tuple(target["columns"]), target["kind"]) for target in description["targets"])
    n_outputs = len(description["classes"] or columns_of(targets))
    head = backbone.prediction_head(n_outputs, targets) if description["head"] else None
    modules = nn.ModuleDict({"backbone": backbone} | ({} if head is None else {"head": head}))
    modules.load_state_dict(state)
    modules.to(device())
    return Network(
        backbone=backbone,
        normalisation=Normalisation(**_tuples(description["normalisation"])),
        views=ViewsConfig(**_tuples(description["views"])),
        head=head,
        targets=targets,
        scaler=TargetScaler(*(tuple(numbers) for numbers in description["scaler"].values())),
        **{name: description[name] for name in PLAIN},
    )
