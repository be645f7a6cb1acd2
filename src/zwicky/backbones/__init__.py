"""Views become `Features`. `create(name, …)` builds any backbone by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is loaded only when a network is built
    from zwicky.backbones.base import Backbone


def create(name: str, *, bands: int, image_size: int, pretrained: str | None = None, **options: Any) -> Backbone:
    """Build a backbone; see `zwicky.backbones.registry.create`."""
    from zwicky.backbones import registry

    return registry.create(name, bands=bands, image_size=image_size, pretrained=pretrained, **options)
