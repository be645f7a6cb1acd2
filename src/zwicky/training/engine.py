"""The machine under the loop: device, precision, processes, compilation."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_module

from zwicky.backbones.contract import Backbone
from zwicky.methods.contract import Method
from zwicky.training.config import TrainConfig

rank_zero_module.log.setLevel("WARNING")


def compile_backbones(method: Method) -> None:
    """Compile student and teacher, one graph a crop size: left to itself, torch makes slower code after the first."""
    for module in method.modules():
        if isinstance(module, Backbone):
            module.compile(dynamic=False)


def uncompiled(config: TrainConfig) -> AbstractContextManager[object]:
    """While it lasts, compiled backbones run as written: the odd shapes of an evaluation would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def make_fabric(config: TrainConfig, backbone: Backbone) -> Fabric:
    """The engine: device, precision, and the processes torchrun or SLURM started, if any."""
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=device().type,
        devices=local,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if use_bf16(config.precision, backbone) else "32-true",
    )
    fabric.launch()
    return fabric


def device() -> torch.device:
    """Where networks run: a CUDA or ROCm device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str, backbone: Backbone) -> bool:
    """Whether to compute in bfloat16: where asked for, or where the hardware multiplies it faster than float32."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return backbone.bf16_on_cpu and any(getattr(torch.cpu, name, lambda: False)() for name in names)
