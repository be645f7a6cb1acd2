"""Our BEiT against timm's own forward pass, and what ours can do besides: other sizes, masks, regions, attention."""

from __future__ import annotations

import pytest
import torch
from timm.models.beit import Beit

from zwicky import backbones
from zwicky.backbones.beit import offsets
from zwicky.errors import UserError

TINY = {"patch_size": 8, "width": 32, "depth": 3, "heads": 4}


@pytest.fixture(params=["mean", "cls"])
def backbone(request):
    torch.manual_seed(0)
    made = backbones.create("beit_base", bands=3, image_size=32, pool=request.param, **TINY).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def test_it_is_timms(backbone):
    images = torch.randn(3, 3, 32, 32)
    net: Beit = backbone.net
    with torch.no_grad():
        found = backbone(images)
        assert torch.allclose(found.pooled, net(images), atol=1e-5)
        tokens = net.forward_features(images)
        norm = net.fc_norm if net.global_pool == "avg" else torch.nn.Identity()
        assert torch.allclose(found.patch_tokens.flatten(1, 2), norm(tokens[:, 1:]), atol=1e-5)
        short = backbone(images, patch_tokens=False)
    assert torch.equal(short.pooled, found.pooled)
    assert short.patch_tokens.shape == (3, 0, 0, 32)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7])
def test_offsets_on_any_grid_are_those_of_a_loop(side):
    window = 4
    found = offsets(window, side).unflatten(0, (side**2 + 1, side**2 + 1))
    last = (2 * window - 1) ** 2
    expected = torch.full_like(found, last)
    expected[:, 0] = last + 1
    expected[0, 0] = last + 2
    for here in range(side**2):
        for there in range(side**2):
            steps = [here // side - there // side, here % side - there % side]
            dy, dx = (max(-3, min(3, step)) + 3 for step in steps)
            expected[1 + here, 1 + there] = 7 * dy + dx
    assert torch.equal(found, expected)


def test_offsets_are_timms_where_the_grid_is_the_windows(backbone):
    theirs = backbone.net.blocks[0].attn.relative_position_index
    assert torch.equal(offsets(4, 4), theirs.flatten())


def test_a_smaller_image_is_seen_as_a_corner_of_a_larger_one(backbone):
    """A grid of 2 × 2 is timm's network with the offsets that such a grid has, cut from the table."""
    small = Beit(
        img_size=16, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0, init_values=0.1,
        use_abs_pos_emb=False, use_rel_pos_bias=True, global_pool=backbone.net.global_pool,
    ).eval()  # fmt: skip
    state = backbone.net.state_dict()
    for name in [name for name in state if name.endswith("bias_table")]:
        square = state[name][:49].unflatten(0, (7, 7))[2:5, 2:5].flatten(0, 1)
        state[name] = torch.cat([square, state[name][49:]])
    small.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(backbone(images).pooled, small(images), atol=1e-5)


@pytest.mark.parametrize("size", [16, 32, 40])
def test_attention_is_that_of_a_slow_version(backbone, size):
    images = torch.randn(2, 3, size, size)
    side = size // 8
    seen = {}
    attn = backbone.net.blocks[-1].attn
    with torch.no_grad():
        found = backbone.attention(images)
        backbone.net.blocks[-1].norm1.register_forward_hook(lambda *io: seen.update(x=io[2]))
        backbone(images)
    q, k, _ = (seen["x"] @ attn.qkv.weight.T + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])).chunk(3, 2)
    index = offsets(4, side).unflatten(0, (side**2 + 1, -1))
    expected = torch.zeros(2, 4, side**2)
    queries = [0] if backbone.net.global_pool == "token" else range(1, side**2 + 1)
    for image in range(2):
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            for query in queries:
                scores = k[image, :, part] @ q[image, query, part] / 8**0.5
                weights = (scores + attn.relative_position_bias_table[index[query], head]).softmax(0)
                expected[image, head] += weights[1:].detach()
    expected /= expected.sum(-1, keepdim=True)
    assert torch.allclose(found.flatten(2), expected, atol=1e-5)


def test_masked_cells_are_hidden_and_only_those(backbone):
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1, 2] = True
    images = torch.randn(2, 3, 32, 32)
    hidden, shown = images.clone(), images.clone()
    hidden[:, :, 8:16, 16:24] += 5
    shown[:, :, 0:8, 0:8] += 5
    with torch.no_grad():
        known = backbone(images, mask).patch_tokens
        assert torch.equal(backbone(hidden, mask).patch_tokens, known)
        assert not torch.allclose(backbone(shown, mask).patch_tokens, known, atol=1e-3)
        assert torch.equal(backbone(images, torch.zeros_like(mask)).patch_tokens, backbone(images).patch_tokens)


def test_mistakes_are_one_line():
    for options, words in (({"width": 30, "heads": 4}, "divisible"), ({"pool": "max"}, "mean or cls")):
        with pytest.raises(UserError, match=words):
            backbones.create("beit_base", bands=3, image_size=32, **{**TINY, **options})
    with pytest.raises(UserError, match="take 32 or 40"):
        backbones.create("beit_base", bands=3, image_size=33, **TINY)
