"""A tiny network and made-up views."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones
from zwicky.augment.views import Views


@pytest.fixture
def tiny_vit():
    def make(drop_path=0.0, bands=3):
        torch.manual_seed(0)
        options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": drop_path}
        return backbones.create("vit_tiny", bands=bands, image_size=32, **options)

    return make


@pytest.fixture
def make_views():
    def make(batch=6, local=2, seed=0, bands=3, targets=None, masking=None):
        generator = torch.Generator().manual_seed(seed)
        sizes = [32, 32] + [16] * local
        crops = [torch.randn(batch, bands, size, size, generator=generator) for size in sizes]
        maps = [torch.eye(2, 3).expand(batch, 2, 3)] * len(crops)
        valid = [torch.ones((), dtype=torch.bool).expand_as(crop) for crop in crops]
        turned = None if targets is None else [targets] * len(crops)
        masks = None if masking is None else list(masking.draw(2 * batch, generator).split(batch))
        return Views(crops, maps, valid, torch.arange(batch), 2, turned, masks)

    return make


@pytest.fixture
def falls():
    def check(method, views, steps=20, lr=3e-3):
        """A few steps on the same views lower the loss."""
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=lr)
        values = []
        for step in range(steps):
            optimizer.zero_grad()
            loss = method(views)["loss"]
            loss.backward()
            optimizer.step()
            method.after_step((step + 1) / steps)
            values.append(float(loss.detach()))
        assert values[-1] < min(values[:3]), values
        return values

    return check


@pytest.fixture
def same_after_reading():
    def check(make, views):
        """A method read back from its state dict goes on with the same numbers."""
        method = make()
        method.prepare(views)
        method(views)["loss"].backward()
        method.after_step(0.4)
        with torch.no_grad():  # an optimiser's step, all that a new method would not have
            for parameter in method.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        other = make()
        other.load_state_dict(method.state_dict())
        for step in range(2):
            assert torch.equal(method(views)["loss"], other(views)["loss"])
            for each in (method, other):
                each.after_step(0.5 + 0.1 * step)

    return check
