"""Weights in the layouts others publish, written by hand from timm's: what comes back must compute what timm does."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones
from zwicky.backbones.layouts import to_timm
from zwicky.errors import UserError

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_classes": 0}
TRANSFORMER = {**SIZE, "depth": 2, "num_heads": 4}
RELATIVE = {"use_abs_pos_emb": False, "init_values": 0.1}


def randomised(net):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return net.eval()


def transformers_names(state, prefix, outer, inner, block=r"blocks\.(\d+)\.(.+)", place="encoder.layer.{}."):
    """timm's names → those of Hugging Face `transformers`, with queries, keys and values apart."""
    renamed = {}
    for name, value in state.items():
        found = re.fullmatch(block, name)
        if not found:
            stem, _, leaf = name.rpartition(".")
            new = outer[name] if name in outer else f"{outer[stem]}.{leaf}"
            renamed[prefix + new] = value
            continue
        start, rest = prefix + place.format(*found.groups()[:-1]), found[found.lastindex]
        stem, _, leaf = rest.rpartition(".")
        if stem == "attn.qkv":
            for part, values in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{start}{inner['attn']}.{part}.{leaf}"] = values
        elif rest in inner:
            renamed[start + inner[rest]] = value
        else:
            renamed[f"{start}{inner[stem]}.{leaf}"] = value
    return {name: value.contiguous() for name, value in renamed.items()}


OUTER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
INNER = {
    "attn": "attention.attention",
    "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
DINO_INNER = {
    **{name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")},
    "attn": "attention.attention",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
BEIT_INNER = {
    **INNER,
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "attn.relative_position_bias_table": "attention.attention.relative_position_bias.relative_position_bias_table",
}


def vit():
    net = randomised(VisionTransformer(**TRANSFORMER))
    state = transformers_names(net.state_dict(), "vit.", OUTER, INNER)
    state |= {"classifier.weight": torch.zeros(3, 32), "vit.pooler.dense.weight": torch.zeros(32, 32)}
    return net, state, "vit_tiny", {"depth": 2}


def dinov2():
    net = randomised(VisionTransformer(**TRANSFORMER, init_values=1e-5))
    state = transformers_names(net.state_dict(), "", OUTER, DINO_INNER)
    state["embeddings.mask_token"] = torch.zeros(1, 32)
    return net, state, "vit_tiny", {"depth": 2, "layer_scale": 1e-5}


def with_registers():
    """(timm's network, its tokens apart as DINOv2 publishes them: [CLS] has a position of its own there)."""
    net = randomised(VisionTransformer(**TRANSFORMER, init_values=1e-5, reg_tokens=4, no_embed_class=True))
    state = net.state_dict()
    position = torch.randn(1, 1, 32)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return net, state, "vit_tiny", {"depth": 2, "layer_scale": 1e-5, "registers": 4}


def dinov2_registers():
    net, state, *made = with_registers()
    outer = {**OUTER, "reg_token": "embeddings.register_tokens"}
    return net, transformers_names(state, "dinov2_with_registers.", outer, DINO_INNER), *made


def dinov2_original():
    net, state, *made = with_registers()
    state["register_tokens"] = state.pop("reg_token")
    return net, {**state, "mask_token": torch.zeros(1, 32)}, *made


def beit():
    net = randomised(Beit(**TRANSFORMER, **RELATIVE, use_rel_pos_bias=True))
    state = transformers_names(net.state_dict(), "beit.", {**OUTER, "fc_norm": "pooler.layernorm"}, BEIT_INNER)
    index = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"
    state |= {index: torch.zeros(17, 17), "classifier.bias": torch.zeros(3)}
    return net, state, "beit_base", {"depth": 2}


def shared():
    return randomised(Beit(**TRANSFORMER, **RELATIVE, use_shared_rel_pos_bias=True, global_pool="token"))


def beit_before_finetuning():
    net = shared()
    outer = {**OUTER, "rel_pos_bias": "encoder.relative_position_bias"}
    state = transformers_names(net.state_dict(), "beit.", outer, BEIT_INNER)
    for leaf in ("weight", "bias"):  # beside the model there, not in it
        state[f"layernorm.{leaf}"] = state.pop(f"beit.layernorm.{leaf}")
    state |= {"lm_head.weight": torch.zeros(9, 32), "beit.embeddings.mask_token": torch.zeros(1, 1, 32)}
    return net, state, "beit_base", {"depth": 2, "pool": "cls"}


def beit_original():
    net = shared()
    return net, net.state_dict(), "beit_base", {"depth": 2, "pool": "cls"}


def swin():
    size = {**SIZE, "patch_size": 4, "window_size": 4}
    net = randomised(SwinTransformer(**size, depths=(2, 2), num_heads=(2, 4)))
    outer = {"patch_embed.proj": OUTER["patch_embed.proj"], "patch_embed.norm": "embeddings.norm", "norm": "layernorm"}
    outer |= {f"layers.1.downsample.{part}": f"encoder.layers.0.downsample.{part}" for part in ("norm", "reduction")}
    inner = {**INNER, "attn": "attention.self"}
    inner["attn.relative_position_bias_table"] = "attention.self.relative_position_bias_table"
    block, place = r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", "encoder.layers.{}.blocks.{}."
    state = transformers_names(net.state_dict(), "swin.", outer, inner, block, place)
    state["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.zeros(16, 16)
    return net, state, "swin_tiny", {"patch_size": 4, "window": 4, "depths": [2, 2], "heads": [2, 4]}


LAYOUTS = [
    vit, dinov2, dinov2_registers, dinov2_original, beit, beit_before_finetuning, beit_original, swin,
]  # fmt: skip


def load(tmp_path, state, name, options, **more):
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors")
    shape = {"patch_size": 8, "width": 32, "heads": 4, **options, **more}
    return backbones.create(name, bands=3, image_size=32, pretrained=path, **shape).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_weights_compute_what_timm_does(tmp_path, layout):
    net, state, name, options = layout()
    assert layout in (beit_original, dinov2_original) or not set(state) & set(net.state_dict())
    backbone = load(tmp_path, state, name, options)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = net(images), backbone(images).pooled
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layout", [vit, dinov2, dinov2_registers, beit, beit_before_finetuning, swin])
@pytest.mark.parametrize("part", ["query.weight", "value.weight", "output.dense.weight"])
def test_a_part_that_is_missing_is_not_made_up(tmp_path, layout, part):
    _, state, name, options = layout()
    state.pop(next(key for key in reversed(state) if key.endswith(part)))
    with pytest.raises(UserError, match="do not fit"):
        load(tmp_path, state, name, options)


def test_timms_names_are_left_alone():
    for made in (vit, dinov2, beit, swin):
        state = made()[0].state_dict()
        same = to_timm(state)
        assert list(same) == list(state)
        assert all(same[key] is state[key] for key in state)


def test_an_unknown_name_is_left_over(tmp_path):
    _, state, name, options = vit()
    state["vit.encoder.layer.0.attention.attention.gate.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.gate\.weight"):
        load(tmp_path, state, name, options)


@pytest.mark.parametrize(
    ("layout", "changed", "said"),
    [
        (dinov2, {"layer_scale": 0}, "layer_scale: 1e-05"),
        (vit, {"layer_scale": 1e-5}, "layer_scale: 0"),
        (dinov2_registers, {"registers": 0}, "registers: 4"),
        (dinov2, {"registers": 4}, "registers: 0"),
        (vit, {"depth": 3}, "depth: 2"),
        (beit, {"depth": 1}, "depth: 2"),
        (beit, {"width": 64}, "width: 32"),
        (beit, {"heads": 2}, "heads: 4"),
        (beit, {"pool": "cls"}, "pool: mean"),
        (beit_before_finetuning, {"pool": "mean"}, "pool: cls"),
        (swin, {"heads": [4, 8]}, r"heads: \[2, 4\]"),
        (swin, {"depths": [2, 4]}, r"depths: \[2, 2\]"),
        (swin, {"depths": [2], "heads": [2]}, r"depths: \[2, 2\]"),
    ],
)
def test_what_to_set_is_said(tmp_path, layout, changed, said):
    _, state, name, options = layout()
    with pytest.raises(UserError, match=f"set backbone.options.* {said}") as caught:
        load(tmp_path, state, name, options, **changed)
    assert "\n" not in str(caught.value)


def test_heads_are_read_where_they_are_published(tmp_path):
    """No shape of a ViT's weights shows them, and with others it would compute something else without a word."""
    _, state, name, options = vit()
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    load(tmp_path, state, name, options)
    with pytest.raises(UserError, match="heads: 4"):
        load(tmp_path, state, name, options, heads=2)


@pytest.mark.parametrize("layout", [vit, beit, swin])
@pytest.mark.parametrize("name", ["vit_tiny", "beit_base", "swin_tiny", "resnet18"])
def test_another_architecture_is_named(tmp_path, layout, name):
    net, state, own, options = layout()
    if own == name:
        return
    options = {"swin_tiny": {"stages": 2}, "resnet18": {}}.get(name, {"depth": 2, "width": 32, "heads": 4})
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"choose the backbone they were made for, a {type(net).__name__}"):
        backbones.create(name, bands=3, image_size=64, pretrained=str(tmp_path / "model.safetensors"), **options)
