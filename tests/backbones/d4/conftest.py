"""Networks with nothing left at zero, and what the eight elements do to features."""

from __future__ import annotations

import pytest
import torch

from zwicky import backbones, d4

OPTIONS = {
    "d4_vit": {"patch_size": 4, "width": 64, "depth": 3, "heads": 2},
    "d4_swin": {"patch_size": 2, "window": 4, "width": 32, "depths": [2, 2], "heads": [1, 2]},
}


@pytest.fixture
def network():
    def make(name, image_size=32, dtype=torch.float32, matrices=True, **options):
        """matrices: whether the weights of linear layers are made larger too, which amplifies rounding in deep nets."""
        torch.manual_seed(0)
        made = backbones.create(name, bands=2, image_size=image_size, **{**OPTIONS[name], **options}).to(dtype).eval()
        with torch.no_grad():  # position and bias tables too
            for key, parameter in made.named_parameters():
                if not matrices and key.endswith("weight") and parameter.dim() > 1:
                    continue
                parameter += 0.2 * torch.randn_like(parameter)
        return made

    return make


def _act(g, frames):
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4.apply(frames[d4.PRODUCT[d4.INVERSE[g]]])[g]


@pytest.fixture
def errors():
    def measure(net, images, mask=None):
        """Per element: how far the features of turned images are from turned features, over the features' spread."""
        with torch.no_grad():
            found = net(images, mask)
            rows = []
            for g, turned in enumerate(d4.apply(images)):
                seen = net(turned, None if mask is None else d4.apply(mask)[g])
                frames = _act(g, found.group_features.permute(3, 4, 0, 1, 2)).permute(2, 3, 4, 0, 1)
                regions = d4.apply(found.patch_tokens.permute(0, 3, 1, 2))[g].permute(0, 2, 3, 1)
                pairs = [(seen.pooled, found.pooled), (seen.patch_tokens, regions), (seen.group_features, frames)]
                rows.append([float((a - b).abs().max() / b.std()) for a, b in pairs])
        return torch.tensor(rows)

    return measure
