"""[CLS]'s attention against a softmax written out from timm's weights."""

from __future__ import annotations

import math

import pytest
import torch

from zwicky import backbones


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=2, image_size=24, patch_size=8, width=24, depth=3, heads=3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return backbone.eval()


def literal(backbone, images):
    """[B, heads, h, w] token by token: softmax over all tokens, [CLS]'s row, then its patches to a sum of one."""
    net = backbone.net
    tokens = net.blocks[:-1](net._pos_embed(net.patch_embed(images)))
    attn = net.blocks[-1].attn
    normed, depth = net.blocks[-1].norm1(tokens), attn.head_dim
    weight, bias, width = attn.qkv.weight, attn.qkv.bias, backbone.dim
    side = backbone.grid(images.shape[-1])[0]
    found = torch.zeros(len(images), attn.num_heads, side, side)
    for image in range(len(images)):
        for head in range(attn.num_heads):
            own = slice(head * depth, (head + 1) * depth)
            query = normed[image, 0] @ weight[:width][own].T + bias[:width][own]
            scores = []
            for token in normed[image]:
                key = token @ weight[width : 2 * width][own].T + bias[width : 2 * width][own]
                scores.append(math.exp(float(query @ key) / math.sqrt(depth)))
            patches = [score / sum(scores) for score in scores][1:]
            for place, share in enumerate(patches):
                found[image, head, place // side, place % side] = share / sum(patches)
    return found


@pytest.mark.parametrize("size", [16, 24, 32])
def test_attention_of_a_vit_is_the_literal_softmax(backbone, size):
    images = torch.randn(2, 2, size, size)
    with torch.no_grad():
        found = backbone.attention(images)
        expected = literal(backbone, images)
    assert found.shape == (2, 3, size // 8, size // 8)
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01  # it does look somewhere
    assert torch.allclose(found.sum((2, 3)), torch.ones(2, 3), atol=1e-5)
