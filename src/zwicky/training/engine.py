"""The machine under the loop: device, precision, processes, compilation."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_module

from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import Method
from zwicky.training.config import TrainConfig
from zwicky.training.launch import local_world, world
from zwicky.training.processes import PATIENCE

rank_zero_module.log.setLevel("WARNING")
logging.getLogger("lightning_fabric").setLevel("WARNING")


def compile_backbones(method: Method) -> None:
    """Compile student and teacher, one graph a crop size: left to itself, torch makes slower code after the first."""
    for module in method.modules():
        if isinstance(module, Backbone):
            module.compile(dynamic=False)


def uncompiled(config: TrainConfig) -> AbstractContextManager[object]:
    """While it lasts, compiled backbones run as written: the odd shapes of an evaluation would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


class Autocast(MixedPrecision):
    """Mixed precision that leaves what a method is given as it is.

    The library's own rounds every number in the views to bfloat16 first, regression targets and positions too:
    log10 of a mass of 1e-23 to a sixteenth, a right ascension to half a degree.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(config: TrainConfig, backbone: Backbone) -> Fabric:
    """The engine: device, precision, and the processes torchrun or srun started, if any."""
    return _launched(use_bf16(config.precision, backbone))


def meet() -> None:
    """Connect this process with the others, once."""
    if not dist.is_initialized():
        _launched(False)


def _launched(bf16: bool) -> Fabric:
    many, local = world() > 1, local_world()
    if many and torch.cuda.is_available() and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes on this machine see {torch.cuda.device_count()} GPUs; start as many as there are, "
            "and let each see all of them (with srun: --gpus-per-node, not --gpus-per-task)"
        )
    fabric = Fabric(
        accelerator=device().type,
        devices=local if many else 1,
        num_nodes=world() // local if many else 1,
        strategy=DDPStrategy(timeout=PATIENCE) if many else "auto",
        plugins=[
            TorchElasticEnvironment() if many else LightningEnvironment(),
            Autocast("bf16-mixed", device().type) if bf16 else Precision(),
        ],
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
    return backbone.prefers_bf16_on_cpu and any(getattr(torch.cpu, name, lambda: False)() for name in names)
