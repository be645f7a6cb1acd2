"""Networks with no parameter left at zero, and the action of D4 on features."""

import pytest
import torch

from zwicky import d4


def act(g, features):
    """(g·F)(n, k) = F(g⁻¹n, g⁻¹k) of regular features [8, ..., h, w]."""
    return d4.apply(features[d4.PRODUCT[d4.INVERSE[g]]])[g]


@pytest.fixture
def network(small_backbone, filled):
    return lambda name, dtype=torch.float32, **options: filled(small_backbone(name, 2, **options), 0.2, dtype).to(dtype)


@pytest.fixture
def errors():
    def measure(net, images, mask=None):
        """Per element: how far features of transformed images are from transformed features, over their spread."""
        with torch.no_grad():
            upright, rows = net(images, mask), []
            for g, transformed in enumerate(d4.apply(images)):
                result = net(transformed, None if mask is None else d4.apply(mask)[g])
                group_features = act(g, upright.group_features.permute(3, 4, 0, 1, 2)).permute(2, 3, 4, 0, 1)
                patches = d4.apply(upright.patch_tokens.permute(0, 3, 1, 2))[g].permute(0, 2, 3, 1)
                pairs = [(result.pooled, upright.pooled), (result.patch_tokens, patches)]
                pairs += [(result.group_features, group_features)]
                rows.append([float((a - b).abs().max() / b.std()) for a, b in pairs])
        return torch.tensor(rows)

    return measure
