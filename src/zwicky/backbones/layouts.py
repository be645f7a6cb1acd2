"""Names of weights as others publish them, turned into timm's.

Known: Hugging Face `transformers` (ViT, BEiT, DINOv2 with or without registers, Swin) and the original files of
DINOv2 and BEiT. A name that is not known stays as it is, so that whoever loads the weights sees it is left over.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

PATCHES = "embeddings.patch_embeddings.projection.weight"  # in every `transformers` layout, after the model's prefix
BLOCK = re.compile(r"encoder\.(?:layer\.(\d+)|layers\.(\d+)\.blocks\.(\d+))\.(.+)")

AROUND = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.norm": "patch_embed.norm",
    "layernorm": "norm",
    "pooler.layernorm": "fc_norm",
    "encoder.relative_position_bias": "rel_pos_bias",
}
INSIDE = {  # one block; ViT, BEiT and Swin first, then what DINOv2 calls otherwise
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.attention": "attn",
    "attention.attention.relative_position_bias": "attn",
    "attention.self": "attn",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "lambda_1": "gamma_1",
    "lambda_2": "gamma_2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def to_timm(state: Weights) -> Weights:
    """The same weights by timm's names; those that are timm's already come back as they are."""
    if any(name.endswith(PATCHES) for name in state):
        state = _from_transformers(state)
    if "register_tokens" in state:
        state = _free_of_position(state)
    if "rel_pos_bias.relative_position_bias_table" in state:
        state = _bias_of_each_block(state)
    return state


def _from_transformers(state: Weights) -> Weights:
    prefix = next(name for name in state if name.endswith(PATCHES)).removesuffix(PATCHES)
    renamed: Weights = {}
    for name, value in state.items():
        name = name.removeprefix(prefix)
        if name == "embeddings.mask_token" or name.startswith(("pooler.dense.", "classifier.", "lm_head.", "decoder.")):
            continue  # of its old task
        merging = re.fullmatch(r"encoder\.layers\.(\d+)\.(downsample\..+)", name)
        block = BLOCK.fullmatch(name)
        if merging:  # at the end of a stage there, at the start of the next in timm
            renamed[f"layers.{int(merging[1]) + 1}.{merging[2]}"] = value
        elif block:
            place = f"blocks.{block[1]}" if block[1] else f"layers.{block[2]}.blocks.{block[3]}"
            renamed[f"{place}.{_look_up(INSIDE, block[4])}"] = value
        else:
            renamed[_look_up(AROUND, name)] = value
    return _join_qkv(renamed)


def _look_up(names: dict[str, str], name: str) -> str:
    """The longest beginning of `name` that `names` knows, replaced."""
    parts = name.split(".")
    for known in range(len(parts), 0, -1):
        start = ".".join(parts[:known])
        if start in names:
            return ".".join([names[start], *parts[known:]])
    return name


def _join_qkv(state: Weights) -> Weights:
    """One matrix for queries, keys and values, in this order. BEiT's keys have no bias; its two others stay apart."""
    for query in [name for name in state if name.endswith(".attn.query.weight")]:
        attn = query.removesuffix(".query.weight")
        for leaf in ("weight", "bias"):
            q, k, v = (state.pop(f"{attn}.{part}.{leaf}", None) for part in ("query", "key", "value"))
            if q is not None and k is not None and v is not None:
                state[f"{attn}.qkv.{leaf}"] = torch.cat([q, k, v])
            elif q is not None and v is not None and leaf == "bias":
                state[f"{attn}.q_bias"], state[f"{attn}.v_bias"] = q, v
    return state


def _free_of_position(state: Weights) -> Weights:
    """DINOv2 with registers: [CLS]'s position is added to it once and for all, as registers have none."""
    state = dict(state)
    position = state.pop("pos_embed")
    state["reg_token"] = state.pop("register_tokens")
    state["cls_token"] = state["cls_token"] + position[:, :1]
    state["pos_embed"] = position[:, 1:]
    return state


def _bias_of_each_block(state: Weights) -> Weights:
    """BEiT before fine-tuning has one table of relative position bias, which each block gets a copy of."""
    state = dict(state)
    table = state.pop("rel_pos_bias.relative_position_bias_table")
    for block in {name.split(".")[1] for name in state if name.startswith("blocks.")}:
        state[f"blocks.{block}.attn.relative_position_bias_table"] = table.clone()
    return state
