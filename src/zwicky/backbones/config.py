"""What can be chosen about a backbone; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class BackboneConfig:
    """Which network.

    Args:
        name: vit_tiny, vit_small, vit_base or resnet18.
        options: keywords of that backbone, for example {patch_size: 8, depth: 6}.
        pretrained: a timm model name or a local weights file to start from; null starts from random weights.
    """

    name: str = "vit_tiny"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
