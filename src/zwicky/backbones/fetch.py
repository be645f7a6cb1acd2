"""Weights from a file, from timm or from the Hugging Face hub. Nothing is unpickled."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from timm.models import create_model, get_pretrained_cfg
from torch import Tensor, nn

from zwicky.errors import UserError

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
SECONDS_TO_REACH = 5.0


@dataclass
class Published:
    """Weights and, where it is known, the number of attention heads they were made with: their shape does not say."""

    state: dict[str, Tensor]
    heads: int | None = None


def fetch(source: str) -> Published:
    """Weights under the names they were published with.

    source: a path ending in one of FILE_SUFFIXES, a timm model (`timm/NAME` or NAME) or another model of the Hugging
    Face hub (`OWNER/NAME`). Raises UserError where they cannot be had.
    """
    return _from_file(Path(source)) if source.endswith(FILE_SUFFIXES) else _from_hub(source)


def _from_file(path: Path) -> Published:
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
    state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
    return Published(state, _heads_beside(path))


def _heads_beside(path: Path) -> int | None:
    """Attention heads by the `config.json` that Hugging Face keeps beside the weights."""
    try:
        heads = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return heads if isinstance(heads, int) else None


def _from_hub(source: str) -> Published:
    """A timm model by its name, or another repository of the Hugging Face hub; downloaded once, then from the cache."""
    name = source.removeprefix("timm/")
    if "/" in name:
        return _download(source, name, HUB_FILES)
    try:
        known = get_pretrained_cfg(name)
    except RuntimeError:  # an architecture is known, this training of it is not
        known = None
    if known is None or not known.hf_hub_id:
        raise UserError(
            f"pretrained {source}: timm has no such weights; see timm.list_pretrained(), name a model of the Hugging "
            "Face hub as OWNER/NAME, or give the path of a weights file"
        )
    published = _download(source, known.hf_hub_id, (known.hf_hub_filename or HUB_FILES[0], *HUB_FILES))
    with torch.device("meta"):
        blocks = getattr(create_model(name), "blocks", None)
    if isinstance(blocks, nn.Sequential):  # of a ViT or a BEiT
        attention: Any = blocks[0].attn
        published.heads = int(attention.num_heads)
    return published


def _download(source: str, repository: str, files: tuple[str, ...]) -> Published:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = repository.partition("@")
    cached_only = not _reachable(constants.ENDPOINT)
    why = "none of the files " + ", ".join(files)
    for file in files:
        try:
            path = hf_hub_download(repository, file, revision=revision or None, local_files_only=cached_only)
        except EntryNotFoundError as error:  # this file is not there, or neither there nor in the cache
            why = f"{constants.ENDPOINT} is out of reach" if isinstance(error, LocalEntryNotFoundError) else why
            continue
        except Exception as error:  # names the hub refuses, rights, half downloads: each raises its own kind
            why = type(error).__name__
            break
        with contextlib.suppress(Exception):  # only to know the number of heads
            hf_hub_download(repository, "config.json", revision=revision or None, local_files_only=cached_only)
        return _from_file(Path(path))
    raise UserError(
        f"pretrained {source}: could not be fetched ({why}); check the name and the connection, or download the "
        "weights elsewhere and give the path of the safetensors file"
    )


def _reachable(address: str) -> bool:
    """Whether the hub answers at all; its own client would try for most of a minute first."""
    to = urlparse(getproxies().get("https", address))
    try:
        socket.create_connection((to.hostname or "", to.port or 443), timeout=SECONDS_TO_REACH).close()
    except OSError:
        return False
    return True
