"""Backbones by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zwicky.backbones import pretrained as weights
from zwicky.backbones import swin, vit
from zwicky.backbones.base import Backbone
from zwicky.backbones.beit import BEiT
from zwicky.backbones.d4.swin import D4Swin
from zwicky.backbones.d4.vit import D4ViT
from zwicky.backbones.resnet import ResNet18
from zwicky.errors import UserError

BACKBONES: dict[str, Callable[..., Backbone]] = {
    name: partial(vit.ViT, width=width, depth=depth, heads=heads) for name, (width, depth, heads) in vit.SIZES.items()
}
BACKBONES |= {name: partial(swin.Swin, **sizes) for name, sizes in swin.SIZES.items()}
BACKBONES["beit_base"] = BEiT
BACKBONES["resnet18"] = ResNet18
BACKBONES |= {"d4_vit": D4ViT, "d4_swin": D4Swin}

LARGEST = 10_000  # of any number that describes a network; beyond, it would only fill the memory


def create(name: str, *, bands: int, image_size: int, pretrained: str | None = None, **options: Any) -> Backbone:
    """Build a backbone.

    name: one of BACKBONES. bands: channels of the images. image_size: side in pixels of the square the network is
    built for (other sizes may follow). pretrained: a timm model name, another model of the Hugging Face hub
    (OWNER/NAME) or a local file of weights; null starts from random ones. options: patch_size, width, depth, heads,
    drop_path, layer_scale, registers for ViTs; patch_size, width, depth, heads, pool, drop_path for BEiT; patch_size,
    window, width, depths, heads, stages, drop_path for Swins; d4_vit takes the first five of a ViT's,
    d4_swin all of a Swin's.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone: no backbone is named {name!r}; choose one of {', '.join(BACKBONES)}")
    for option, value in {"bands": bands, "image_size": image_size, **options}.items():
        least = 1 if option in ("bands", "image_size") else 0
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not least <= number <= LARGEST:
                raise UserError(f"backbone: {option} is {value}; choose from {least} to {LARGEST}")
    try:
        backbone = BACKBONES[name](bands=bands, image_size=image_size, **options)
    except TypeError as error:
        raise UserError(
            f"backbone: {name} does not take these options ({str(error).split('() ')[-1]}); remove or rename"
        ) from error
    except (ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:  # numbers torch or timm stumble over
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"backbone: {name} cannot be built with these options ({said}); correct them") from error
    backbone.config = {"name": name, "bands": bands, "image_size": image_size, **options}
    if pretrained is not None:
        weights.load(backbone, pretrained)
    return backbone
