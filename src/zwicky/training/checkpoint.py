"""Checkpoints and weights: complete, atomic, and read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from zwicky.errors import UserError
from zwicky.io import replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors, numbers and strings; a kill leaves the one before."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # all its writer says of a full disk is "unexpected pos"
            raise OSError("not all of it could be written; the disk may be full") from error


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as safetensors, through Python: its own writer lets nobody else read the file."""
    path.write_bytes(tensors_to_bytes({name: value.contiguous() for name, value in state.items()}, metadata))


def load(path: Path) -> dict[str, Any] | None:
    """Read what `save` wrote, onto the CPU; None where there is nothing yet."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives, foreign pickles: each raises its own kind
        raise UserError(
            f"{path} is damaged or not a zwicky checkpoint ({type(error).__name__}); delete it to start again"
        ) from error
