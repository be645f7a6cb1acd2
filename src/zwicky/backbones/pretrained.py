"""Starting a backbone from somebody's weights. Those that do not fit are refused; none is left out or made up."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

from timm.models import beit, swin_transformer, vision_transformer
from timm.models._manipulate import adapt_input_conv
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import LayerScale, VisionTransformer
from torch import Tensor, nn

from zwicky.backbones.base import Backbone
from zwicky.backbones.fetch import fetch
from zwicky.backbones.layouts import to_timm
from zwicky.errors import UserError

OTHER_PARTS = ("mask_token", "head.", "head_dist.", "fc.")  # not the network's, or its old task's
Resampler = Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
# The network by a name only its weights have, tried in this order, and what fits its patches and positions to a size.
KINDS: dict[str, tuple[type[nn.Module], Resampler]] = {
    "layers.0.blocks.0.attn.qkv.weight": (SwinTransformer, swin_transformer.checkpoint_filter_fn),
    "blocks.0.gamma_1": (Beit, beit.checkpoint_filter_fn),
    "blocks.0.attn.qkv.weight": (VisionTransformer, vision_transformer.checkpoint_filter_fn),
}


def load(backbone: Backbone, source: str) -> None:
    """Load weights into `backbone.net`: positions are resampled and the first layer is adapted to the bands.

    source: as `fetch` takes it. Raises UserError where the weights cannot be had or belong to another architecture.
    """
    published = fetch(source)
    state = to_timm(published.state)
    state = {key.removeprefix("net."): value for key, value in state.items() if not key.startswith(OTHER_PARTS)}
    state = _adapt_bands(state, backbone.config["bands"], source)
    net = backbone.net
    assert isinstance(net, nn.Module)
    options = []
    kind, resample = next((known for name, known in KINDS.items() if name in state), (None, None))
    if kind and resample and isinstance(net, kind):
        options = _options(state, published.heads, net)
        # What cannot be resampled keeps its shape or its name, and is named below.
        with contextlib.suppress(RuntimeError, AttributeError, ValueError, AssertionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's interpolation warns of its own indexing
            state = resample(state, net)
    own = net.state_dict()
    # Old files do not count BatchNorm's batches, and with a fixed momentum nobody reads the number.
    own_counts = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**own_counts, **state}
    wrong = sorted(key for key in own.keys() | state.keys() if key not in state or key not in own)
    wrong += sorted(key for key in own.keys() & state.keys() if state[key].shape != own[key].shape)
    if wrong or options:
        where = f" ({len(wrong)} of {len(own)} differ, first {wrong[0]})" if wrong else ""
        mend = f"set backbone.options {', '.join(options)}" if options else "choose the backbone they were made for"
        mend += f", a {kind.__name__}" if kind and not isinstance(net, kind) else ""
        raise UserError(f"pretrained {source}: weights do not fit {backbone.config['name']}{where}; {mend}")
    net.load_state_dict({key: state[key] for key in own})


def _adapt_bands(state: dict[str, Tensor], bands: int, source: str) -> dict[str, Tensor]:
    for key in ("patch_embed.proj.weight", "conv1.weight"):
        if key in state and state[key].ndim == 4 and state[key].shape[1] != bands:
            made = state[key].shape[1]
            if made != 3:
                raise UserError(
                    f"pretrained {source}: made for {made} bands; only RGB weights can be adapted to {bands}"
                )
            state = {**state, key: adapt_input_conv(bands, state[key])}
    return state


def _options(state: dict[str, Tensor], heads: int | None, net: Any) -> list[str]:
    """The options, as `name: value`, that these weights show to be others than the network's of the same kind.

    heads: their number where it is known from elsewhere; the shapes show it only beside relative position biases.
    """
    leaf = "attn.relative_position_bias_table"
    found: dict[str, tuple[Any, Any]] = {}  # theirs, ours
    if "patch_embed.proj.bias" in state:
        found["width"] = len(state["patch_embed.proj.bias"]), net.embed_dim
    if isinstance(net, SwinTransformer):
        stages: list[Any] = list(net.layers)
        tables = [state.get(f"layers.{k}.blocks.0.{leaf}") for k in range(_count(state, "layers."))]
        theirs = [_count(state, f"layers.{k}.blocks.") for k in range(len(tables))]
        found["depths"] = theirs, [len(stage.blocks) for stage in stages]
        if all(table is not None for table in tables):
            found["heads"] = (
                [table.shape[1] for table in tables if table is not None],
                [stage.blocks[0].attn.num_heads for stage in stages],
            )
    else:
        table = state.get(f"blocks.0.{leaf}")
        found["depth"] = _count(state, "blocks."), len(net.blocks)
        found["heads"] = heads if table is None else table.shape[1], net.blocks[0].attn.num_heads
    if isinstance(net, Beit):
        found["pool"] = ("cls" if "norm.weight" in state else "mean"), {"avg": "mean", "token": "cls"}[net.global_pool]
    if isinstance(net, VisionTransformer):
        scale: Any = net.blocks[0].ls1  # type: ignore[union-attr]
        found["layer_scale"] = 1e-5 * ("blocks.0.ls1.gamma" in state), 1e-5 * isinstance(scale, LayerScale)
        found["registers"] = state["reg_token"].shape[1] if "reg_token" in state else 0, net.num_reg_tokens
    return [f"{name}: {theirs}" for name, (theirs, ours) in found.items() if theirs is not None and theirs != ours]


def _count(state: dict[str, Tensor], start: str) -> int:
    """How many numbers follow `start` in the names, were they counted from 0."""
    return 1 + max((int(key[len(start) :].split(".")[0]) for key in state if key.startswith(start)), default=-1)
