"""Starting a backbone from somebody's weights: a timm model by name, or a local file. Nothing is unpickled."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from timm.models import create_model
from timm.models._manipulate import adapt_input_conv
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from zwicky.backbones.contract import Backbone
from zwicky.errors import UserError

OTHER_PARTS = ("mask_token", "head.", "head_dist.", "fc.")  # not the network's, or its old task's
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def load(backbone: Backbone, source: str) -> None:
    """Load weights into `backbone.net`. Position embeddings are resampled and the first layer is adapted to the bands.

    source: a path ending in one of FILE_SUFFIXES, or a timm model name. Raises UserError where the weights cannot be
    had or belong to another architecture.
    """
    state = _read_file(Path(source)) if source.endswith(FILE_SUFFIXES) else _from_timm(source)
    state = {key.removeprefix("net."): value for key, value in state.items() if not key.startswith(OTHER_PARTS)}
    net = backbone.net
    assert isinstance(net, torch.nn.Module)
    bands = backbone.config["bands"]
    for key in ("patch_embed.proj.weight", "conv1.weight"):
        if key in state and state[key].ndim == 4 and state[key].shape[1] != bands:
            if state[key].shape[1] != 3:
                made = state[key].shape[1]
                raise UserError(
                    f"pretrained {source}: made for {made} bands; only RGB weights can be adapted to {bands}"
                )
            state[key] = adapt_input_conv(bands, state[key])
    if hasattr(net, "patch_embed") and "patch_embed.proj.weight" in state:
        with contextlib.suppress(RuntimeError):  # a shape that cannot be resampled is named below
            state = checkpoint_filter_fn(state, net)  # type: ignore[arg-type]  # any network with patches, positions
    own = net.state_dict()
    # Old files do not count BatchNorm's batches, and with a fixed momentum nobody reads the number.
    own_counts = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    state = {**own_counts, **state}
    wrong = sorted(key for key in own.keys() | state.keys() if key not in state or key not in own)
    wrong += sorted(key for key in own.keys() & state.keys() if state[key].shape != own[key].shape)
    if wrong:
        raise UserError(
            f"pretrained {source}: weights do not fit {backbone.config['name']} ({len(wrong)} of {len(own)} differ, "
            f"first {wrong[0]}); choose the backbone and patch size they were made for"
        )
    net.load_state_dict({key: state[key] for key in own})


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"pretrained {path}: no such file; give the path of a safetensors or PyTorch weights file"
        ) from error
    except Exception as error:  # damaged files raise many kinds, and a pickle with code in it is refused here
        raise UserError(
            f"pretrained {path}: not a readable weights file ({type(error).__name__}); save it as safetensors"
        ) from error
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"pretrained {path}: holds no table of weights; save the network's state_dict as safetensors")
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}


def _from_timm(name: str) -> dict[str, Tensor]:
    try:
        return create_model(name.removeprefix("timm/"), pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # unknown names, hubs out of reach and half downloads each raise their own kind
        raise UserError(
            f"pretrained {name}: could not be fetched ({type(error).__name__}); check the name with "
            "timm.list_pretrained(), or download the weights elsewhere and give the path of the safetensors file"
        ) from error
