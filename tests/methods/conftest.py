"""Synthetic views, and small methods of every name."""

import pytest
import torch

from zwicky.augment.views import Views


@pytest.fixture
def tiny_vit(small_backbone):
    def make(drop_path=0.0, bands=3):
        return small_backbone("vit_tiny", bands=bands, drop_path=drop_path)

    return make


@pytest.fixture
def make_views():
    """Two global crops of `size` px and local ones of half of it, all noise; masked and labelled on request."""

    def make(batch=6, local=2, seed=0, bands=3, size=32, targets=None, masking=None):
        generator = torch.Generator().manual_seed(seed)
        sizes = [size, size] + [size // 2] * local
        crops = [torch.randn(batch, bands, size, size, generator=generator) for size in sizes]
        maps = [torch.eye(2, 3).expand(batch, 2, 3)] * len(crops)
        valid = [torch.ones((), dtype=torch.bool).expand_as(crop) for crop in crops]
        turned = [] if targets is None else [targets] * len(crops)
        masks = [] if masking is None else list(masking.draw(2 * batch, generator).split(batch))
        return Views(crops, maps, valid, torch.arange(batch), 2, turned, masks)

    return make


@pytest.fixture
def views_for(make_views):
    """Views with all that a method needs."""

    def make(method, batch=8, seed=0, local=2):
        needs = method.needs
        targets = torch.arange(batch) % 3 if needs.targets else None
        local = local if needs.local_crops else 0
        return make_views(batch=batch, local=local, seed=seed, targets=targets, masking=needs.masking)

    return make
