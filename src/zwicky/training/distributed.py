"""How processes train together, the device, and the precision."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.training.processes import local_world_size, rank, world_size

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # which takes a second to load, and only training needs it

TIMEOUT = timedelta(minutes=30)  # after which a process that waits for the others gives up

T = TypeVar("T")


def make_fabric() -> "Fabric":
    """Connect the processes, once, and choose the device; UserError if this machine has fewer GPUs than processes."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import environments
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel("WARNING")
    accelerator, local = device().type, local_world_size()
    if world_size() == 1:
        fabric = Fabric(accelerator=accelerator, devices=1, plugins=[environments.LightningEnvironment()])
        fabric.launch()
        return fabric
    if accelerator == "cuda" and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes on this machine see {torch.cuda.device_count()} GPUs; start as many as there are, "
            "and let each see all of them (with srun: --gpus-per-node, not --gpus-per-task)"
        )
    launcher = environments.TorchElasticEnvironment if "RANK" in os.environ else environments.SLURMEnvironment
    strategy, nodes = DDPStrategy(timeout=TIMEOUT), world_size() // local
    fabric = Fabric(accelerator=accelerator, devices=local, num_nodes=nodes, strategy=strategy, plugins=[launcher()])
    fabric.launch()
    return fabric


def run_on_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and broadcast its result; a UserError is re-raised on every rank."""
    if world_size() == 1:
        return function()
    if not dist.is_initialized():
        make_fabric()
    outcome: list[Any] = [None, ""]
    if rank() == 0:
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1]:
        raise UserError(outcome[1])
    return outcome[0]


def device() -> torch.device:
    """Return where networks run: a CUDA or ROCm device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str, backbone: Backbone) -> bool:
    """Return whether to compute in bfloat16: if asked for, or if the hardware multiplies it faster than float32."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return backbone.prefers_bf16_on_cpu and any(getattr(torch.cpu, name, lambda: False)() for name in names)


def autocast(backbone: Backbone, precision: str = "auto") -> AbstractContextManager[None]:
    """Return torch's mixed-precision context for this backbone where it is."""
    on = next(backbone.parameters()).device.type
    return torch.autocast(on, torch.bfloat16, enabled=use_bf16(precision, backbone))


def synchronise_batch_norm(method: torch.nn.Module, fabric: "Fabric") -> None:
    """Take the statistics of BatchNorm over the images of all GPUs, as one GPU would; torch cannot do it on CPUs."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)


def compile_backbones(method: torch.nn.Module) -> None:
    """Compile student and teacher, one graph per crop size: dynamic shapes make slower code."""
    for module in method.modules():
        if isinstance(module, Backbone):
            module.compile(dynamic=False)
