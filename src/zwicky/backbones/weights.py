"""Start a backbone from published weights: those of a timm model, or a file in timm's layout. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections import Counter
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import adapt_input_conv
from torch import Tensor, nn

from zwicky.backbones import BACKBONES, network_class
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.io import NETWORK, read_json, weights_file

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# Options that change what a network computes from the same weights, but no shape of them.
UNSHAPED = ("heads", "window", "spacing", "mirror")
# Parts of the task that the weights were trained for, which no backbone has.
OTHER_PARTS = r"mask|head|fc\.|.*(head|proj|pred|decoder|prototypes|queue|classifier|center|loss)"


def load_pretrained(backbone: Backbone, source: str) -> None:
    """Load weights into `backbone.net`: positions are resampled and the first layer is adapted to the bands.

    The source is a run, a file, or a name for timm.create_model (NAME, timm/NAME, hf-hub:OWNER/NAME). Raises UserError
    if the weights cannot be read or downloaded, are not finite, or do not fit.
    """
    net: Any = backbone.net
    if Path(source).exists() or source.endswith(SUFFIXES):
        state = _find_network(_read(weights_file(source)), net.state_dict())
        options, ours = _saved_options(Path(source), backbone), _unshaped(backbone.config, type(backbone))
    else:
        model = _download(source.removeprefix("timm/"))
        state, options = model.state_dict(), _options(model)
        ours = _options(net) if options else {}
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"pretrained {source}: its weights are not finite; its training diverged, take another file")
    expected, bands = net.state_dict(), backbone.config["bands"]
    for name in state.keys() & expected.keys():  # of the first layer, whose kernels are [outputs, bands, h, w]
        weight, kernel = state[name], expected[name]
        if weight.ndim == kernel.ndim == 4 and kernel.shape[:2] == (len(weight), bands) != weight.shape[:2]:
            if weight.shape[1] not in (1, 3):
                raise UserError(
                    f"pretrained {source}: has {weight.shape[1]} bands; only weights of one or three can be adapted"
                )
            # The mean of the bands in place of a single one; timm's rule for three.
            one = weight.shape[1] == 1
            state[name] = weight.repeat(1, bands, 1, 1) / bands if one else adapt_input_conv(bands, weight)
    resample = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)  # timm's, for positions
    if resample is not None:
        # What cannot be resampled keeps its shape or its name, and is reported below.
        with contextlib.suppress(RuntimeError, AttributeError, ValueError, AssertionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = resample(state, net)
    parts = {name.split(".")[0] for name in expected}
    state = {n: v for n, v in state.items() if n.split(".")[0] in parts or not re.match(OTHER_PARTS, n)}
    # Old files lack BatchNorm's count of batches, which a fixed momentum does not use.
    state = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | state
    wrong = sorted(state.keys() ^ expected.keys())
    wrong += sorted(name for name in state.keys() & expected.keys() if state[name].shape != expected[name].shape)
    differing = [f"{name}: {value}" for name, value in options.items() if name in ours and value != ours[name]]
    if wrong or differing:
        mismatch = f" ({len(wrong)} of {len(expected)} tensors differ, first {wrong[0]})" if wrong else ""
        hint = f"set backbone.options {', '.join(differing)}" if differing else "choose the backbone they were made for"
        if "dinov3" in source.lower() or any("rope" in name for name in state):
            hint = "networks with rotary positions, as of DINOv3, are not offered"
        raise UserError(f"pretrained {source}: weights do not fit {backbone.config['name']}{mismatch}; {hint}")
    net.load_state_dict(state)


def published_scale(backbone: Backbone, source: str) -> tuple[float, float]:
    """Return mean and deviation, over the colours, of pixels in [0, 1] that the weights were trained on.

    timm names them for the weights or, of a file or a name it does not know, for the architecture; else ImageNet's.
    """
    names = source.removeprefix("timm/"), getattr(backbone, "architecture", "")
    found = [timm.get_pretrained_cfg(name) for name in names if not name.endswith(SUFFIXES)]
    config = next((each for each in found if each is not None), None)
    mean, std = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)
    return sum(mean) / len(mean), sum(std) / len(std)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, as saved by timm, by PyTorch training scripts or by zwicky."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"pretrained {path}: no such file; give the path of a file of weights") from error
    except Exception as error:  # damaged files raise many kinds, and pickled code is refused here
        reason = type(error).__name__
        raise UserError(f"pretrained {path}: not a readable weights file ({reason}); save it as safetensors") from error
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"pretrained {path}: has no table of weights; save the network's state_dict as safetensors")
    return state


def _find_network(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights whose names are those of a network after a prefix, such as module. or teacher.backbone.

    Of several networks a teacher's (or moving average's) is taken.
    """
    names = {re.sub(r"blocks\.\d+\.(\d+)\.", r"blocks.\1.", n.replace("_orig_mod.", "")): n for n in state}
    found: dict[str, str] = {}  # name → the prefix before a name of the network
    for name in names:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        if fitting := [name[:start] for start in starts if name[start:] in expected]:
            found[name] = fitting[0]
    prefixes, averaged = Counter(found.values()), re.compile(r"teacher|ema|momentum|target|encoder_k")
    prefix = max(prefixes, key=lambda p: (prefixes[p], bool(averaged.search(p)), -len(p)), default="")
    others = tuple(other for other in prefixes if other != prefix and not prefix.startswith(other))
    mine = [name for name in names if name.startswith(prefix) and not name.startswith(others)]
    return {name.removeprefix(prefix): state[names[name]] for name in mine}


def _download(name: str) -> nn.Module:
    """Return a timm model with its published weights, downloaded once and then read from the cache."""
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # unknown names, no connection, no such file: each library raises its own kind
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"pretrained {name}: timm cannot load these weights ({reason}); check the name (timm.list_pretrained()) "
            "and the connection, or download them elsewhere and give the path of the safetensors file"
        ) from error


def _saved_options(source: Path, backbone: Backbone) -> dict[str, Any]:
    """Return the `UNSHAPED` options of the network in a run or an export; {} if none of this class is described."""
    if not (source / NETWORK).exists():
        return {}
    config = read_json(source / NETWORK)["backbone"]
    kind = network_class(config["name"])
    return _unshaped(config, kind) if kind is type(backbone) else {}


def _unshaped(config: dict[str, Any], kind: type[Backbone]) -> dict[str, Any]:
    """Return the `UNSHAPED` options of a network from the arguments of `backbones.create`, defaults included."""
    own = [signature(vars(base)["__init__"]).parameters for base in kind.__mro__[::-1] if "__init__" in vars(base)]
    options = {name: p.default for parameters in own for name, p in parameters.items() if p.default is not p.empty}
    options |= BACKBONES[config["name"]][1] | config
    return {n: [*v] if isinstance(v, tuple) else v for n, v in options.items() if n in UNSHAPED}


def _options(net: Any) -> dict[str, Any]:
    """Return the options of the backbone that a timm network is equal to: shapes alone do not tell its heads."""
    if hasattr(net, "layers") and hasattr(net, "embed_dim"):
        stages = [stage.blocks for stage in net.layers]
        heads = [blocks[0].attn.num_heads for blocks in stages]
        return {"width": net.embed_dim, "depths": [len(blocks) for blocks in stages], "heads": heads}
    if not hasattr(net, "blocks"):
        return {}
    block = net.blocks[0]
    options = {"width": net.embed_dim, "depth": len(net.blocks), "heads": block.attn.num_heads}
    if hasattr(block, "gamma_1"):
        return options | {"pool": {"avg": "mean", "token": "cls"}[net.global_pool]}
    scaled = not isinstance(block.ls1, nn.Identity)
    return options | {"registers": net.num_reg_tokens, "layer_scale": 1e-5 if scaled else 0}
