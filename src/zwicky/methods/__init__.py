"""Self-supervised and supervised methods: `create(name, backbone, …)` turns `Views` and a backbone into a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from zwicky.errors import UserError, check_limits

if TYPE_CHECKING:
    from zwicky.backbones.base import Backbone
    from zwicky.methods.base import Method

# The module and class of each method; one of your own can be added: METHODS["mine"] = MyMethod.
METHODS: dict[str, str | type[Method]] = {
    "supervised": "supervised:Supervised",
    "dino": "dino:DINO",
    "ibot": "ibot:IBOT",
    "esvit": "esvit:EsViT",
    "simsiam": "siamese:SimSiam",
    "simmim": "masked:SimMIM",
    "beit": "beit:BEiT",
    "byol": "siamese:BYOL",
    "mae": "masked:MAE",
    "lejepa": "lejepa:LeJEPA",
}

SHARES = ("momentum", "center_momentum", "temperature_ramp", "freeze_prototypes", "region_weight", "sigreg")
TEMPERATURES = ("student_temperature", "teacher_temperature", "teacher_temperature_end")
WIDTHS = ("prototypes", "hidden", "bottleneck", "width", "projection", "tokens", "components")
COUNTS = (*WIDTHS, "decoder_width", "decoder_depth", "decoder_heads")
# The lowest and the highest value of options of these names.
LIMITS = dict.fromkeys(SHARES, (0, 1)) | dict.fromkeys(TEMPERATURES, (0.001, 10)) | dict.fromkeys(COUNTS, (1, 10**6))


@dataclass
class MethodConfig:
    """Which self-supervised method, and its options.

    Args:
        name: dino, ibot, esvit, simsiam, byol, lejepa, simmim, beit or mae (supervised is what `zwicky finetune` runs).
        options: keywords of that method, for example {prototypes: 1024}.
    """

    name: str = "dino"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := sorted({"name", "backbone"} & self.options.keys()):
            raise UserError(f"method.options has {taken[0]}, which is no option; set method.name or backbone instead")


def create(name: str, backbone: Backbone, **options: Any) -> Method:
    """Build a method of `METHODS` around a backbone, which it trains in place; `options` are keywords of its class."""
    if name not in METHODS:
        raise UserError(f"method: no method is named {name!r}; choose one of {', '.join(METHODS)}")
    check_limits(f"method: {name}'s ", options, LIMITS)
    backbone.set_trainable()
    target = METHODS[name]
    try:
        build: Any = resolve_name(f"zwicky.methods.{target}") if isinstance(target, str) else target
        return cast("Method", build(backbone, **options))
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:  # unknown options, sizes torch refuses
        reason = " ".join(str(error).split("() ")[-1].split())[:200] or type(error).__name__
        raise UserError(f"method: {name} cannot be built with these options ({reason}); correct them") from error
