"""A Swin transformer that is exactly equivariant under D4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from zwicky.backbones.base import Backbone, Features
from zwicky.backbones.d4.decoder import D4PixelDecoder
from zwicky.backbones.d4.group import orbit
from zwicky.backbones.d4.layers import Lift, Norm, Readout, by_irreps, constant, enter, leave
from zwicky.backbones.d4.linear import GroupLinear
from zwicky.backbones.d4.vit import channels_of
from zwicky.backbones.d4.windows import WindowBlock, received
from zwicky.backbones.grids import StageGrids
from zwicky.d4 import INVERSE, ORDER
from zwicky.errors import UserError


class Merge(nn.Module):
    """A group convolution over 2 × 2 cells: y(n, g) = Σ_k Σ_δ W(g⁻¹k, g⁻¹δ) x(2n + δ, k), δ one of the four corners.

    In each frame the corners are named as that frame sees them, δ = k δ'. Then the sum over δ' is over channels, and
    the rest is the group's linear layer from 4C to 2C. [8, C, B, h, w] → [8, 2C, B, h/2, w/2].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduction = Norm(4 * channels), GroupLinear(4 * channels, 2 * channels)

    def forward(self, x: Tensor, irreps: bool) -> Tensor:
        corners = leave(x, irreps).unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # [8, C, B, h/2, y, w/2, x]
        corners = corners.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 2)
        # Corner δ' of frame k lies at k δ', where the inverse of k finds δ' in a map of corners.
        at = orbit(torch.arange(4).view(2, 2))[INVERSE].flatten(1).to(x.device)  # [8, 4]
        named = corners[torch.arange(ORDER, device=x.device)[:, None], at].flatten(1, 2)  # [8, 4C, B, h/2, w/2]
        return self.reduction(self.norm(enter(named, irreps), irreps), irreps)


class D4Swin(Backbone):
    """Regions are invariants read from each cell of the last stage, the summary is their mean; frames are those cells.

    width: 8C of the first stage; each stage after it has half the grid and twice the width, so that D = width ·
    2^(stages − 1). window: M, even. heads: of each of the eight frames, one number a stage. Blocks come in turns,
    windows in place and windows shifted by M/2; a stage whose grid is no larger than M is one window. stages: keep only
    so many of `depths` and `heads`, from the first on; 0 keeps all.
    """

    invariant = True

    def __init__(
        self,
        *,
        bands: int,
        image_size: int,
        patch_size: int = 4,
        window: int = 4,
        width: int = 192,
        depths: Sequence[int] = (2, 6, 2),
        heads: Sequence[int] = (1, 2, 4),
        stages: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        depths, heads = tuple(depths)[: stages or None], tuple(heads)[: stages or None]
        if len(depths) != len(heads) or not depths:
            raise UserError(f"backbone: {len(depths)} depths and {len(heads)} heads; give one of each a stage")
        if window % 2 or window < 2:
            raise UserError(
                f"backbone: windows of {window} cells have no half to be shifted by; take {max(window - 1, 2)}"
            )
        channels = [channels_of(width * 2**stage, count, f" of stage {stage + 1}") for stage, count in enumerate(heads)]
        self.grids, self.stages = StageGrids(patch_size, window, len(depths)), len(depths)
        self.dim = ORDER * channels[-1]
        self.grid(image_size)
        drops = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        layers = []
        for stage, (wide, depth, count) in enumerate(zip(channels, depths, heads, strict=True)):
            blocks = [WindowBlock(wide, count, window, i % 2 == 1, next(drops)) for i in range(depth)]
            merge = [Merge(channels[stage - 1])] if stage else []
            layers.append(nn.ModuleDict({"merge": nn.ModuleList(merge), "blocks": nn.ModuleList(blocks)}))
        self.net = nn.ModuleDict(
            {
                "lift": Lift(bands, channels[0], patch_size),
                "norm1": Norm(channels[0]),
                "layers": nn.ModuleList(layers),
                "norm": Norm(channels[-1]),
                "readout": Readout(channels[-1]),
            }
        )
        self.mask_token = nn.Parameter(torch.zeros(channels[0]))
        self.set_trainable()

    def grid(self, size: int) -> tuple[int, int]:
        return self.grids.last(size)

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        irreps = by_irreps(images.device, self.dim)
        tokens = self._embed(images, mask, irreps)
        for stage in range(self.stages):
            tokens = self._stage(stage, tokens, irreps)
        tokens = self.net["norm"](tokens, irreps)
        invariant = self.net["readout"](tokens, irreps)  # [B, h, w, D]
        return Features(invariant.mean((1, 2)), invariant, leave(tokens, irreps).permute(2, 3, 4, 0, 1))

    def attention(self, images: Tensor) -> Tensor:
        """Mean over the queries of each window of the last block, and over the frames."""
        irreps = by_irreps(images.device, self.dim)
        tokens = self._embed(images, None, irreps)
        for stage in range(self.stages - 1):
            tokens = self._stage(stage, tokens, irreps)
        tokens = self._stage(self.stages - 1, tokens, irreps, leave_out=1)
        return received(self._blocks(self.stages - 1)[-1], tokens, irreps)

    def _embed(self, images: Tensor, mask: Tensor | None, irreps: bool) -> Tensor:
        self.grid(images.shape[-1])
        tokens = self.net["norm1"](self.net["lift"](images, irreps), irreps)
        if mask is None:
            return tokens
        coarse = 1 << (self.stages - 1)
        fine = mask.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)
        hidden = constant(self.mask_token, irreps)[:, :, None, None, None].to(tokens.dtype)
        return torch.where(fine, hidden, tokens)

    def _stage(self, stage: int, tokens: Tensor, irreps: bool, leave_out: int = 0) -> Tensor:
        """One stage, `leave_out` of its last blocks excepted."""
        layer = cast(nn.ModuleDict, cast(nn.ModuleList, self.net["layers"])[stage])
        for merge in cast(nn.ModuleList, layer["merge"]):
            tokens = merge(tokens, irreps)
        blocks = self._blocks(stage)
        for block in blocks[: len(blocks) - leave_out]:
            tokens = block(tokens, irreps)
        return tokens

    def _blocks(self, stage: int) -> list[WindowBlock]:
        layer = cast(nn.ModuleDict, cast(nn.ModuleList, self.net["layers"])[stage])
        return cast(list[WindowBlock], list(cast(nn.ModuleList, layer["blocks"])))

    def pixel_decoder(self) -> nn.Module:
        return D4PixelDecoder(self.dim, self.config["bands"], self.image_size, self.grid(self.image_size)[0])

    def layer_groups(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {"first": []}
        for stage in range(self.stages):
            groups |= {f"{stage}.{position}": [] for position in range(len(self._blocks(stage)))}
        groups["last"] = []
        for name, _ in self.named_parameters():
            parts = name.split(".")
            if name.startswith("net.layers."):  # a stage's merging goes with its first block
                groups[f"{parts[2]}.{parts[4] if parts[3] == 'blocks' else 0}"].append(name)
            else:
                groups["last" if name.startswith(("net.norm.", "net.readout.")) else "first"].append(name)
        return list(groups.values())

    def no_weight_decay(self) -> set[str]:
        biases = {name for name, _ in self.named_parameters() if name.startswith("net.layers.") and ".blocks." in name}
        return {"mask_token"} | {name for name in biases if len(name.split(".")) == 6 and name.endswith(".bias")}
