"""Networks from images to `Features`; `create` builds any of them by name. torch is imported only then."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from zwicky.errors import UserError, check_limits

if TYPE_CHECKING:
    from zwicky.backbones.base import Backbone

# The class of each backbone and the options that make it the named one.
# A class of your own can be added under a name: BACKBONES["mine"] = (MyBackbone, {}).
BACKBONES: dict[str, tuple[str | type[Backbone], dict[str, Any]]] = {
    "vit_tiny": ("vit:ViT", {"width": 192, "depth": 12, "heads": 3}),
    "vit_small": ("vit:ViT", {"width": 384, "depth": 12, "heads": 6}),
    "vit_base": ("vit:ViT", {"width": 768, "depth": 12, "heads": 12}),
    "swin_tiny": ("swin:Swin", {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}),
    "swin_small": ("swin:Swin", {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)}),
    "beit_base": ("vit:BEiT", {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "pool": "mean"}),
    "resnet18": ("resnet:ResNet18", {}),
    "d4_vit": ("d4.vit:D4ViT", {}),
    "d4_swin": ("d4.swin:D4Swin", {}),
    "polar_vit": ("polar:PolarViT", {}),
    "polar_swin": ("polar_swin:PolarSwin", {}),
    "hybrid_vit": ("vit:ViT", {"width": 128, "depth": 4, "heads": 2, "pool": "mean", "stem": (32, 64, 96)}),
}

# The lowest and the highest value of options; of all others 1 and 10,000.
LIMITS: dict[str, tuple[float, float]] = {
    "drop_path": (0, 0.99),
    "layer_scale": (0, 10),
    "registers": (0, 1000),
    "stages": (0, 4),
    "radius": (0.01, 4),
    "mirror": (False, True),
}

NETWORKS = Path(__file__).parent.parent / "networks"
SHIPPED = ("zwicky-rings",)  # runs in NETWORKS


@dataclass
class BackboneConfig:
    """Which network.

    Args:
        name: vit_tiny, vit_small, vit_base, beit_base, swin_tiny, swin_small, d4_vit, d4_swin, polar_vit,
            polar_swin, hybrid_vit or resnet18.
        options: keywords of that backbone, for example {patch_size: 8, depth: 6}.
        pretrained: weights to start from: zwicky-rings, which ships with the program (polar_vit), a run, a file in
            timm's layout, the name of a timm model or hf-hub:OWNER/NAME; null starts from random ones.
    """

    name: str = "vit_tiny"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if taken := sorted({"name", "bands", "image_size", "pretrained"} & self.options.keys()):
            raise UserError(
                f"backbone.options has {taken[0]}, which is no option; set backbone.name, backbone.pretrained or "
                "views.image_size instead (the bands are those of the data)"
            )

    @property
    def source(self) -> str | None:
        """`pretrained`, of weights that ship with the program the run that they are."""
        return str(NETWORKS / self.pretrained) if self.pretrained in SHIPPED else self.pretrained


def network_class(name: str) -> type[Backbone]:
    """Return the class of a network of `BACKBONES`."""
    target: Any = BACKBONES[name][0]
    return cast("type[Backbone]", resolve_name(f"zwicky.backbones.{target}") if isinstance(target, str) else target)


def create(name: str, *, bands: int, image_size: int, pretrained: str | None = None, **options: Any) -> Backbone:
    """Build a backbone; raises UserError for an unknown name, and options or weights that do not fit.

    Args:
        name: one of BACKBONES.
        bands: channels of the images.
        image_size: side in pixels of the square the network is built for; transformers and resnets take others too.
        pretrained: see `BackboneConfig`.
        **options: of transformers: patch_size (in pixels), width (D, of the first of several stages), heads and
            drop_path (the largest rate of stochastic depth). Of vit, beit and d4_vit: depth, the number of blocks.
            Of vit and beit: pool, cls for the [CLS] token or mean for the mean of the patch tokens (masked image
            modelling does not train [CLS]). Of vit: layer_scale, the initial value of LayerScale or 0 for none
            (DINOv2, arXiv:2304.07193, has 1e-5 and a patch_size of 14), and registers, the number of tokens besides
            [CLS] (arXiv:2309.16588). Of vit, swin and the d4 ones (channels of each of the
            eight group elements): stem, the channels of convolutions of stride 2 in place of the patch embedding
            (arXiv:2106.14881); hybrid_vit is a small vit with one. Of swin, d4_swin and polar_swin: window (in cells;
            every other block shifts windows by half of it), depths and heads, one of each per stage, and stages, to
            keep only so many of them (0: all). Of polar_vit and polar_swin: see `PolarBackbone`.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone: no backbone is named {name!r}; choose one of {', '.join(BACKBONES)}")
    numbers = {"bands": bands, "image_size": image_size, **options}
    check_limits("backbone: ", numbers, dict.fromkeys(numbers, (1, 10_000)) | LIMITS)
    build: Any = network_class(name)
    try:
        backbone: Backbone = build(bands=bands, image_size=image_size, **{**BACKBONES[name][1], **options})
    except (TypeError, ValueError, IndexError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split("() ")[-1].split())[:200] or type(error).__name__
        raise UserError(f"backbone: {name} cannot be built with these options ({reason}); correct them") from error
    backbone.config = {"name": name, "bands": bands, "image_size": image_size, **options}
    backbone.set_trainable()
    if pretrained is not None:
        from zwicky.backbones.weights import load_pretrained

        load_pretrained(backbone, pretrained)
    return backbone
