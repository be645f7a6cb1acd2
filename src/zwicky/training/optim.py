"""AdamW with layer-wise learning-rate decay; learning rate and weight decay as functions of progress."""

from __future__ import annotations

import torch

from zwicky.methods.base import Method
from zwicky.methods.ema import cosine
from zwicky.training.config import TrainConfig


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters.

    Biases, norms (one-dimensional parameters) and those of `method.no_weight_decay()` are not decayed. With
    layer_decay < 1 the head has the full learning rate and each layer below it that factor of the one above
    (arXiv:2106.08254). Parameters of `method.constant_lr()` keep the peak rate.
    """
    no_decay, constant = method.no_weight_decay(), method.constant_lr()
    layers = method.layer_groups()
    layer_of = {name: depth for depth, names in enumerate(layers) for name in names}
    groups: dict[tuple[int, bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and name not in no_decay
            groups.setdefault((layer_of.get(name, len(layers)), decayed, name in constant), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": 0.0,
                "weight_decay": 0.0,
                "decayed": decayed,
                "constant": is_constant,
                "lr_scale": config.layer_decay ** (len(layers) - layer),
            }
            for (layer, decayed, is_constant), parameters in groups.items()
        ],
        betas=(0.9, config.beta2),
        fused=True,
    )


def set_schedules(optimizer: torch.optim.Optimizer, config: TrainConfig, batch_size: int, progress: float) -> float:
    """Set learning rate and weight decay of the step at `progress` in [0, 1); return the head's learning rate."""
    peak = config.lr * batch_size / 256
    lr = warmup_cosine(peak, config.min_lr, progress, config.warmup)
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    weight_decay = cosine(config.weight_decay, end, progress)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant"] else lr) * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0
    return lr


def warmup_cosine(peak: float, end: float, progress: float, warmup: float) -> float:
    """Linear from 0 to `peak` over the first `warmup` of training, then a cosine to `end`."""
    if progress < warmup:
        return peak * progress / warmup
    return cosine(peak, end, (progress - warmup) / max(1.0 - warmup, 1e-12))
