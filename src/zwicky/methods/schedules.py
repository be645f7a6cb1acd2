"""Schedules as functions of progress, the share of training steps done, so that they know no epochs."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at 1."""
    progress = min(max(progress, 0.0), 1.0)
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress))


def ramp(start: float, end: float, progress: float, length: float) -> float:
    """Straight from `start` to `end` over the first `length` of training, then `end`."""
    return end if progress >= length else start + (end - start) * progress / length


def warmup_cosine(peak: float, end: float, progress: float, warmup: float) -> float:
    """Straight from 0 to `peak` over the first `warmup` of training, then a cosine to `end`."""
    if progress < warmup:
        return peak * progress / warmup
    return cosine(peak, end, (progress - warmup) / max(1.0 - warmup, 1e-12))
