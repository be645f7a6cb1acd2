"""Methods by name."""

from __future__ import annotations

from typing import Any

from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.methods.beit import BEiT
from zwicky.methods.byol import BYOL
from zwicky.methods.dino import DINO
from zwicky.methods.esvit import EsViT
from zwicky.methods.ibot import IBOT
from zwicky.methods.lejepa import LeJEPA
from zwicky.methods.mae import MAE
from zwicky.methods.simmim import SimMIM
from zwicky.methods.simsiam import SimSiam
from zwicky.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "dino": DINO,
    "ibot": IBOT,
    "esvit": EsViT,
    "simsiam": SimSiam,
    "simmim": SimMIM,
    "beit": BEiT,
    "byol": BYOL,
    "mae": MAE,
    "lejepa": LeJEPA,
}


def create(name: str, backbone: Backbone, **options: Any) -> Method:
    """Build a method around a backbone; options are the keywords of its class."""
    if name not in METHODS:
        raise UserError(f"method: no method is named {name!r}; choose one of {', '.join(METHODS)}")
    try:
        return METHODS[name](backbone, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise UserError(
            f"method: {name} does not take these options ({str(error).split('() ')[-1]}); remove or rename"
        ) from error
    except (ValueError, ZeroDivisionError, RuntimeError) as error:  # numbers torch stumbles over
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"method: {name} cannot be built with these options ({said}); correct them") from error
