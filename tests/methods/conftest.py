"""A tiny network and made-up views."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones
from zwicky.views.contract import Views


@pytest.fixture
def tiny_vit():
    def make(drop_path=0.0, bands=3):
        torch.manual_seed(0)
        options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": drop_path}
        return backbones.create("vit_tiny", bands=bands, image_size=32, **options)

    return make


@pytest.fixture
def make_views():
    def make(batch=6, local=2, seed=0, bands=3, targets=None):
        generator = torch.Generator().manual_seed(seed)
        sizes = [32, 32] + [16] * local
        crops = [torch.randn(batch, bands, size, size, generator=generator) for size in sizes]
        maps = [torch.eye(2, 3).expand(batch, 2, 3)] * len(crops)
        valid = [torch.ones((), dtype=torch.bool).expand_as(crop) for crop in crops]
        turned = None if targets is None else [targets] * len(crops)
        return Views(crops, maps, valid, torch.arange(batch), 2, turned)

    return make
