"""BEiT: name the tokens of hidden regions (Bao et al. 2022).

A frozen tokenizer gives every region of an image one of K visual words; the network sees some regions and says which
words the hidden ones are. The paper's tokenizer is a large network trained on other images; this one is made from the
cutouts themselves, see `Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zwicky.augment.views import Views
from zwicky.backbones.base import Backbone
from zwicky.errors import UserError
from zwicky.methods.base import Method, ViewsNeeded
from zwicky.methods.collapse import diagnose
from zwicky.methods.pixels import cells, hide, masked_mean, seen
from zwicky.methods.tokenizer import Tokenizer

PREVIEW = 1024  # images the tokenizer is made of


class BEiT(Method):
    """L = −mean of log p(token | visible regions) over the hidden regions, p the softmax of a linear head. Options:

    tokens: K, 8192 in the paper. components: of the cells, kept by the tokenizer. mask_ratio: share of the regions
    hidden, in blocks; 0.4 as in the paper.
    """

    def __init__(self, backbone: Backbone, *, tokens: int = 256, components: int = 8, mask_ratio: float = 0.4) -> None:
        super().__init__()
        if not backbone.supports_masking:
            raise UserError(
                f"beit: {backbone.config['name']} has no tokens, so no region can be hidden; take a vit or a swin"
            )
        self.grid = backbone.grid(backbone.image_size)
        masking = hide("beit", self.grid, mask_ratio, blocks=True)
        self.needs = ViewsNeeded(global_crops=1, masking=masking, preview=PREVIEW)
        pixels = backbone.config["bands"] * backbone.image_size**2 // (self.grid[0] * self.grid[1])
        self.tokenizer = Tokenizer(pixels, tokens, components)
        self.encoder = backbone
        self.head = nn.Linear(backbone.dim, tokens)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        backbone.set_trainable(masked=True)

    def prepare(self, views: Views) -> None:
        self.tokenizer.fit(cells(views.crops[0], self.grid)[seen(views.valid[0], self.grid)])

    @property
    def backbone(self) -> Backbone:
        return self.encoder

    def forward(self, views: Views) -> dict[str, Tensor]:
        assert self.tokenizer.centroids.any(), "prepare comes before the first step"
        assert views.masks is not None, "views for BEiT carry masks"
        x, mask = views.crops[0], views.masks[0]
        tokens = self.tokenizer(cells(x, self.grid))  # [B, h, w]
        logits = self.head(self.encoder(x, mask=mask).patch_tokens).float()  # [B, h, w, K]
        learn = mask & seen(views.valid[0], self.grid)  # what is not seen has no token
        loss = masked_mean(F.cross_entropy(logits.permute(0, 3, 1, 2), tokens, reduction="none"), learn)
        with torch.no_grad():
            shares = F.one_hot(tokens, logits.shape[-1])[learn].float().mean(0).nan_to_num()
            return {
                "loss": loss,
                "masked_accuracy": masked_mean(logits.argmax(-1) == tokens, learn),
                "majority_share": shares.max(),  # the accuracy of always naming the most frequent token
                "token_entropy": torch.special.entr(shares).sum(),  # the loss of always giving their frequencies
            }

    def diagnose(self, gauges: Mapping[str, float]) -> str | None:
        if gauges["majority_share"] > 0.95:
            return (
                f"one token stands for {gauges['majority_share']:.0%} of the regions, so there is little to learn; "
                "take a tighter views.crop, more tokens or larger patches"
            )
        if gauges["loss"] > 0.98 * gauges["token_entropy"]:
            return (
                "no better than naming tokens by how frequent they are: train longer, raise the learning rate, "
                "or lower tokens or mask_ratio"
            )
        return diagnose(gauges, dim=self.encoder.dim, prototypes=None)

    def layer_groups(self) -> list[list[str]]:
        return [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}
