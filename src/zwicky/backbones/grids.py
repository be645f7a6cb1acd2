"""Which image sizes a transformer can cut up, and into how many regions; the others are refused with one that fits."""

from __future__ import annotations

from dataclasses import dataclass

from zwicky.errors import UserError


def patch_grid(size: int, patch_size: int) -> tuple[int, int]:
    """(h, w) of a square image of `size` pixels in patches."""
    if size % patch_size or size < patch_size:
        lower = max(size // patch_size, 1) * patch_size
        raise UserError(
            f"backbone: images of {size} px do not divide into patches of {patch_size} px; "
            f"take {lower} or {lower + patch_size} px"
        )
    return size // patch_size, size // patch_size


@dataclass(frozen=True)
class StageGrids:
    """The grids of a multi-stage transformer: each stage after the first has half the one before, none is padded."""

    patch_size: int
    window: int
    stages: int

    def last(self, size: int) -> tuple[int, int]:
        """(h, w) of the last stage."""
        wrong = self._misfit(size)
        if wrong:
            raise UserError(f"backbone: images of {size} px {wrong}; take {self.nearest(size)} px")
        side = size // self.patch_size >> (self.stages - 1)
        return side, side

    def nearest(self, size: int, least: int = 1) -> int:
        """The size nearest to `size` that fits and leaves at least `least` regions along a side."""
        smallest = least * self.patch_size << (self.stages - 1)
        step = self.patch_size * self.window << (self.stages - 1)  # multiples of it always fit
        fits = [s for s in range(smallest, max(size, smallest) + step + 1) if self._misfit(s) is None]
        return min(fits, key=lambda fit: abs(fit - size))

    def _misfit(self, size: int) -> str | None:
        """Why images of this size cannot be cut into patches, stages and windows without padding."""
        if size % self.patch_size or size < self.patch_size:
            return f"do not divide into patches of {self.patch_size} px"
        side = size // self.patch_size
        for stage in range(self.stages):
            if stage and side % 2:
                return f"make an odd grid of {side} cells that stage {stage + 1} cannot halve"
            side = side // 2 if stage else side
            if side > self.window and side % self.window:
                return f"make a grid of {side} cells in stage {stage + 1} that windows of {self.window} do not divide"
        return None
