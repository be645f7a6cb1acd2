"""What can be chosen about a method; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class MethodConfig:
    """Which self-supervision.

    Args:
        name: dino, ibot, esvit, simsiam, byol, lejepa, simmim, beit or mae (supervised is what `zwicky finetune` runs).
        options: keywords of that method, for example {prototypes: 1024}.
    """

    name: str = "dino"
    options: dict[str, Any] = field(default_factory=dict)
