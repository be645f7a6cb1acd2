"""What can be chosen about a backbone; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class BackboneConfig:
    """Which network.

    Args:
        name: vit_tiny, vit_small, vit_base, beit_base, swin_tiny, swin_small, d4_vit, d4_swin or resnet18.
        options: keywords of that backbone, for example {patch_size: 8, depth: 6}.
        pretrained: weights to start from: a timm model, another model of the Hugging Face hub as OWNER/NAME, or a
            file; null starts from random ones.
    """

    name: str = "vit_tiny"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
