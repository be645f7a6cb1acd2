"""Self-supervised and supervised methods: `create(name, backbone, …)` turns `Views` and a backbone into a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zwicky.errors import UserError

if TYPE_CHECKING:
    from zwicky.backbones.base import Backbone
    from zwicky.methods.base import Method

# The module and class of each method; one of your own can be added: METHODS["mine"] = MyMethod.
METHODS: dict[str, tuple[str, str] | type[Method]] = {
    "supervised": ("supervised", "Supervised"),
    "dino": ("dino", "DINO"),
    "ibot": ("ibot", "IBOT"),
    "esvit": ("esvit", "EsViT"),
    "simsiam": ("siamese", "SimSiam"),
    "simmim": ("masked", "SimMIM"),
    "beit": ("beit", "BEiT"),
    "byol": ("siamese", "BYOL"),
    "mae": ("masked", "MAE"),
    "lejepa": ("lejepa", "LeJEPA"),
}


@dataclass
class MethodConfig:
    """Which self-supervised method, and its options.

    Args:
        name: dino, ibot, esvit, simsiam, byol, lejepa, simmim, beit or mae (supervised is what `zwicky finetune` runs).
        options: keywords of that method, for example {prototypes: 1024}.
    """

    name: str = "dino"
    options: dict[str, Any] = field(default_factory=dict)


def create(name: str, backbone: Backbone, **options: Any) -> Method:
    """Build a method of `METHODS` around a backbone, which it trains in place; `options` are keywords of its class."""
    if name not in METHODS:
        raise UserError(f"method: no method is named {name!r}; choose one of {', '.join(METHODS)}")
    target: Any = METHODS[name]
    try:
        if isinstance(target, tuple):
            target = getattr(import_module(f"zwicky.methods.{target[0]}"), target[1])
        return target(backbone, **options)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:  # unknown options, sizes torch refuses
        reason = " ".join(str(error).split("() ")[-1].split())[:200] or type(error).__name__
        raise UserError(f"method: {name} cannot be built with these options ({reason}); correct them") from error
