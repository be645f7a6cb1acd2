"""What transformers of one stage share, whose tokens all attend to each other."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from zwicky.backbones.attention import attention_weights, forward_block, project_qkv
from zwicky.backbones.base import Backbone, Features


class Transformer(Backbone):
    """timm's `net.blocks` and `net.norm` over prefix tokens, such as [CLS], and patch tokens.

    Attributes:
        pool: cls where pooled features are the first token, [CLS]; mean where they are the mean of the patch tokens.
        n_prefix: number of prefix tokens.
    """

    pool = "mean"
    n_prefix = 0

    @abstractmethod
    def _embed(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens that enter the first block, [B, prefix + h·w, D]."""

    def _bias(self, block: Any, side: int) -> Tensor | None:
        """Return the block's relative position bias [heads, N, N]."""
        return None

    def _pool(self, tokens: Tensor, n_prefix: int) -> tuple[Tensor, Tensor]:
        """Return pooled features [B, D] and normed patch tokens [B, N, D], from the last block's tokens."""
        tokens = self.net.norm(tokens)
        patches = tokens[:, n_prefix:]
        return (tokens[:, 0] if self.pool == "cls" else patches.mean(1)), patches

    def forward(self, images: Tensor, mask: Tensor | None = None, patch_tokens: bool = True) -> Features:
        """Encode images; see `Backbone.forward`."""
        grid, last = self.grid(images.shape[-1]), self.net.blocks[-1]
        cls_only = self.pool == "cls" and not patch_tokens  # the last block computes only what [CLS] needs
        tokens = self._until_last(images, mask)
        tokens = forward_block(last, tokens, self._bias(last, grid[0]), 1 if cls_only else None)
        pooled, patches = self._pool(tokens, 1 if cls_only else self.n_prefix)
        return Features(pooled, patches.unflatten(1, (0, 0) if cls_only else grid))

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of [CLS], or where patch tokens are averaged, the mean over their queries."""
        grid, last = self.grid(images.shape[-1]), self.net.blocks[-1]
        q, k, _ = project_qkv(last.attn, last.norm1(self._until_last(images, None)))
        weights = attention_weights(q, k, self._bias(last, grid[0]))
        received = weights[:, :, 0] if self.pool == "cls" else weights[:, :, self.n_prefix :].mean(2)
        received = received[..., self.n_prefix :]
        return (received / received.sum(-1, keepdim=True)).unflatten(2, grid)

    def _until_last(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Return the tokens that enter the last block."""
        tokens, side = self._embed(images, mask), self.grid(images.shape[-1])[0]
        for block in self.net.blocks[:-1]:
            tokens = forward_block(block, tokens, self._bias(block, side))
        return tokens


class VisibleEncoder(Transformer):
    """A transformer that can leave masked patches out, the encoder of MAE (arXiv:2111.06377)."""

    def visible(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encode only the patches `kept` [B, K] (indices along rows), each with its position: [B, prefix + K, D].

        The others are hidden before the embedding, which may overlap them; the tokens are normed.
        """
        grid = self.grid(images.shape[-1])
        everything = torch.ones(len(kept), grid[0] * grid[1], dtype=torch.bool, device=kept.device)
        mask = everything.scatter(1, kept, False).unflatten(1, grid)
        prefix, patches = self._embed(images, mask).tensor_split([self.n_prefix], dim=1)
        tokens = torch.cat([prefix, patches.gather(1, kept[..., None].expand(-1, -1, self.dim))], 1)
        for block in self.net.blocks:
            tokens = forward_block(block, tokens)
        return self.net.norm(tokens)
