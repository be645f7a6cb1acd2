"""`Views` and a backbone become a loss. One file a method; `create(name, backbone, …)` builds any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zwicky.backbones.base import Backbone
    from zwicky.methods.base import Method


def create(name: str, backbone: Backbone, **options: Any) -> Method:
    """Build a method; see `zwicky.methods.registry.create`."""
    from zwicky.methods import registry

    return registry.create(name, backbone, **options)
