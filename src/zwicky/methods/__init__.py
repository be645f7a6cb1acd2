"""Self-supervised and supervised methods: `create(name, backbone, …)` turns `Views` and a backbone into a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from zwicky.errors import UserError

if TYPE_CHECKING:
    from zwicky.backbones.base import Backbone
    from zwicky.methods.base import Method

METHODS = {  # the module, and the class in it
    "supervised": "Supervised",
    "dino": "DINO",
    "ibot": "IBOT",
    "esvit": "EsViT",
    "simsiam": "SimSiam",
    "simmim": "SimMIM",
    "beit": "BEiT",
    "byol": "BYOL",
    "mae": "MAE",
    "lejepa": "LeJEPA",
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
    """Build a method around a backbone.

    Args:
        name: a key of `METHODS`.
        backbone: the network to train, in place.
        options: keywords of the method's class.

    Raises:
        UserError: if the name or an option is unknown, or the backbone does not suit the method.
    """
    if name not in METHODS:
        raise UserError(f"method: no method is named {name!r}; choose one of {', '.join(METHODS)}")
    method = getattr(import_module(f"zwicky.methods.{name}"), METHODS[name])
    try:
        return method(backbone, **options)
    except TypeError as error:
        raise UserError(
            f"method: {name} does not take these options ({str(error).split('() ')[-1]}); remove or rename"
        ) from error
    except (ValueError, ZeroDivisionError, RuntimeError) as error:  # sizes that torch refuses
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"method: {name} cannot be built with these options ({reason}); correct them") from error
