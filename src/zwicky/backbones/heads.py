"""The heads that a backbone has unless it brings its own: linear on pooled features, pixels of each patch."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zwicky.backbones.patches import unpatchify
from zwicky.errors import UserError

if TYPE_CHECKING:
    from zwicky.backbones.base import Features


def check_batch(module: nn.Module, features: Tensor) -> None:
    """Raise UserError if `module` is to take BatchNorm's statistics of fewer than two rows of features [B, ...]."""
    if module.training and len(features) < 2:
        raise UserError("train.batch_size: BatchNorm needs at least two images per process; raise it")


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as ViTs do, other modules not at all; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class LinearHead(nn.Linear):
    """A linear layer on standardised pooled features: BatchNorm without affine parameters, as in MAE's linear probe.

    Pooled features of different images are nearly parallel and differ in a small part of their length; a linear layer
    on raw features needs large weights, which the first steps of a fit destroy (Appendix A.1 of arXiv:2111.06377). It
    computes in float32, since bfloat16 would round small differences between classes away.
    """

    uses_patch_tokens = False

    def __init__(self, dim: int, n_outputs: int) -> None:
        super().__init__(dim, n_outputs)
        self.norm = nn.BatchNorm1d(dim, affine=False)
        init_linear(self)

    def forward(self, features: "Features") -> Tensor:  # type: ignore[override]
        """Return [B, n_outputs]."""
        check_batch(self, features.pooled)
        with torch.autocast(features.pooled.device.type, enabled=False):
            return super().forward(self.norm(features.pooled.float()))

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor, features: Tensor) -> None:
        """Take over a linear model of raw features: weight [n_outputs, D] and bias [n_outputs].

        The mean and variance of `features` [n, D] become the running statistics.
        """
        weight, bias, features = (values.to(self.weight) for values in (weight, bias, features))
        self.norm.load_state_dict({"running_mean": features.mean(0), "running_var": features.var(0)}, strict=False)
        mean, std = self._statistics()
        self.weight.copy_(weight * std)
        self.bias.copy_(bias + weight @ mean)

    @torch.no_grad()
    def as_linear(self) -> dict[str, Tensor]:
        """Return weight and bias of the same linear model of raw features."""
        mean, std = self._statistics()
        return {"weight": self.weight / std, "bias": self.bias - self.weight / std @ mean}

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each feature, [D]."""
        return self.norm.get_buffer("running_mean"), (self.norm.get_buffer("running_var") + self.norm.eps).sqrt()


class PixelDecoder(nn.Module):
    """One linear layer: each patch token gives the pixels of its own patch, the head of SimMIM (arXiv:2111.09886)."""

    def __init__(self, dim: int, bands: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (bands, *patch)
        self.linear = nn.Linear(dim, math.prod(self.shape))

    def forward(self, features: "Features") -> Tensor:
        """Decode patch tokens [B, h, w, D] to [B, bands, H, W]."""
        return unpatchify(self.linear(features.patch_tokens).unflatten(3, self.shape))
