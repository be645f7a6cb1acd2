"""A trained network with all it needs to meet new cutouts: normalisation, window, bands, and its head if it has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zwicky import backbones, d4
from zwicky.augment.augment import eval_views
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target, transform_targets
from zwicky.backbones.base import Backbone
from zwicky.data.cutouts import Cutouts, Images, batches
from zwicky.errors import UserError
from zwicky.io import read_object, replacing, write_json
from zwicky.methods.supervised import TargetScaler, head_outputs, make_head
from zwicky.training.checkpoint import save_weights
from zwicky.training.engine import device, use_bf16
from zwicky.training.task import columns_of

SCHEMA_VERSION = 1


@dataclass
class Network:
    """backbone and head (None before fine-tuning), and what they were made for.

    classes: class names in the order of the head's outputs, or () for regression. targets: what is regressed, with
    the scaler that brings the head's outputs to their units.
    temperature: divides logits so that probabilities are calibrated. pixel_scale: arcsec per pixel, None if unknown.
    """

    backbone: Backbone
    normalisation: Normalisation
    views: ViewsConfig
    bands: tuple[str, ...]
    pixel_scale: float | None = None
    head: nn.Module | None = None
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    scaler: TargetScaler = field(default_factory=TargetScaler)
    temperature: float = 1.0

    @property
    def width(self) -> int:
        """Number of the head's outputs."""
        return len(self.classes or columns_of(self.targets))

    def features(self, images: Images, batch_size: int = 256, turns: bool = True) -> np.ndarray:
        """Frozen features [N, D] float32 of raw images [N, bands, H, W]; `turns` averages over the eight of D4."""

        def summary(crops: Tensor, _: int) -> Tensor:
            return self.backbone(crops, patch_tokens=False).pooled

        return self._over_batches(summary, self.backbone.dim, images, batch_size, turns)

    def outputs(self, images: Images, batch_size: int = 256, turns: bool = True) -> np.ndarray:
        """Logits [N, classes] (not yet divided by the temperature) or predictions [N, targets] of raw images."""
        if self.head is None:
            raise UserError("this network has no head yet; run `zwicky finetune` on it first")
        head, kinds = self.head, self.targets

        def answer(crops: Tensor, turn: int) -> Tensor:
            outputs = head_outputs(self.backbone, head, crops).float()
            if not kinds:
                return outputs
            outputs = self.scaler.inverse(outputs)
            back = d4.to_source(int(d4.INVERSE[turn])).to(outputs.device)
            return transform_targets(outputs, kinds, back.expand(len(outputs), 2, 3))

        return self._over_batches(answer, self.width, images, batch_size, turns)

    def probabilities(self, images: Images, batch_size: int = 256, turns: bool = True) -> np.ndarray:
        """Calibrated class probabilities [N, classes] of raw images."""
        logits = self.outputs(images, batch_size, turns).astype(np.float64) / self.temperature
        logits -= logits.max(1, keepdims=True)
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def check(self, cutouts: Cutouts) -> None:
        """Refuse cutouts this network was not made for: other bands or another pixel scale."""
        if cutouts.bands != self.bands:
            raise UserError(
                f"the network was made for bands {', '.join(self.bands)}; these cutouts have {', '.join(cutouts.bands)}"
            )
        scale = cutouts.pixel_scale
        if self.pixel_scale and scale and abs(scale / self.pixel_scale - 1) > 0.02:
            raise UserError(
                f'the network was made for {self.pixel_scale}" a pixel; these cutouts have {scale}"; '
                "resample them or pretrain again"
            )

    @torch.inference_mode()
    def _over_batches(
        self, function: Callable[[Tensor, int], Tensor], width: int, images: Images, batch_size: int, turns: bool
    ) -> np.ndarray:
        """[N, width] mean of `function` over the turns of each image."""
        where = next(self.backbone.parameters()).device
        modules = [module for module in (self.backbone, self.head) if module is not None]
        training = [module.training for module in modules]
        for module in modules:
            module.eval()
        # Eight views average the rounding of bfloat16 away; the one view of an invariant network is to be exact.
        bf16 = use_bf16("auto", self.backbone) and not self.backbone.invariant
        found = np.empty((len(images), width), np.float32)
        for rows in batches(len(images), batch_size):
            crops, _ = eval_views(torch.from_numpy(images[rows]).to(where), self.views, self.normalisation)
            with torch.autocast(where.type, torch.bfloat16, enabled=bf16):
                views = d4.apply(crops) if turns and not self.backbone.invariant else [crops]
                answers = [function(view, turn).float() for turn, view in enumerate(views)]
                found[rows] = torch.stack(answers).mean(0).cpu().numpy()
        for module, was_training in zip(modules, training, strict=True):
            module.train(was_training)
        return found


def save_network(folder: Path, network: Network) -> None:
    """Write `network.safetensors` and `network.json`."""
    state = {f"backbone.{name}": value for name, value in network.backbone.state_dict().items()}
    if network.head is not None:
        state |= {f"head.{name}": value for name, value in network.head.state_dict().items()}
    with replacing(folder / "network.safetensors") as temporary:
        save_weights(temporary, state)
    write_json(
        folder / "network.json",
        {
            "schema_version": SCHEMA_VERSION,
            "backbone": network.backbone.config,
            "normalisation": network.normalisation.to_dict(),
            "views": asdict(network.views),
            "head": None if network.head is None else network.width,
            **{name: getattr(network, name) for name in ("bands", "pixel_scale", "classes", "temperature")},
            "target_mean": network.scaler.mean,
            "target_std": network.scaler.std,
            "targets": [asdict(target) for target in network.targets],
        },
    )


def load_network(folder: Path) -> Network:
    """Read what `save_network` wrote. The files may be anybody's: whatever is wrong with them becomes a UserError."""
    if not (folder / "network.json").exists():
        raise UserError(
            f"{folder} holds no network; give the --out of `zwicky pretrain` or `zwicky finetune`, finished"
        )
    known = read_object(folder / "network.json")
    missing = {"backbone", "normalisation", "views", "head"} - set(known)
    if missing:
        raise UserError(f"{folder / 'network.json'} lacks {min(missing)!r}; make the run again")
    version = known.get("schema_version", 0)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise UserError(f"{folder} was written by a newer zwicky; update zwicky")
    try:
        return _restored(known, load_file(folder / "network.safetensors"))
    except UserError as error:
        raise UserError(f"the network in {folder} is damaged or of a stranger: {error}") from error
    except Exception as error:  # a description can be wrong in any way, and torch and timm raise anything
        reason = " ".join([f"{type(error).__name__}:", *str(error).split()])[:200]
        raise UserError(f"the network in {folder} is damaged ({reason}); make the run again") from error


def _restored(known: dict[str, Any], state: dict[str, Tensor]) -> Network:
    """The network that is described, with these weights; what does not fit together is an error of any kind."""
    if "pretrained" in known["backbone"]:
        raise UserError("it asks for weights from elsewhere; make the run again")
    backbone = backbones.create(**known["backbone"])
    targets = tuple(Target(tuple(target["columns"]), target["kind"]) for target in known.get("targets", ()))
    classes, bands = tuple(map(str, known["classes"])), tuple(map(str, known["bands"]))
    columns = len(columns_of(targets))
    temperature = float(known["temperature"])
    scale = None if known["pixel_scale"] is None else float(known["pixel_scale"])
    fits = (
        known["head"] in (None, len(classes) or columns)
        and len(bands) == known["backbone"]["bands"]
        and len(known["target_mean"]) == len(known["target_std"]) == columns
        and all(target.kind in ("scalar", "vector", "spin2") for target in targets)
        and all(0 < number < math.inf for number in [temperature, *([] if scale is None else [scale])])
        and all(math.isfinite(number) for number in [*known["target_mean"], *known["target_std"]])
    )
    if not fits:
        raise UserError("its description contradicts itself; make the run again")
    head = None if known["head"] is None else make_head(backbone, known["head"], targets)
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise UserError("its weights are not finite; make the run again")
    parts = nn.ModuleDict({"backbone": backbone} | ({} if head is None else {"head": head}))
    parts.load_state_dict(state)
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in known["views"].items()
    }
    views = ViewsConfig(**told)
    side = views.crop or backbone.image_size
    views.validate((side, side), bands)  # targets restrict the augmentation, which is over
    return Network(
        backbone.to(device()),
        Normalisation.from_dict(known["normalisation"]),
        views,
        bands,
        scale,
        head if head is None else head.to(device()),
        classes,
        targets,
        TargetScaler(tuple(known["target_mean"]), tuple(known["target_std"])),
        temperature,
    )
