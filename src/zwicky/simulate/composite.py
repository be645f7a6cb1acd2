"""The last step of some surveys: an 8-bit colour picture instead of fluxes."""

from __future__ import annotations

import numpy as np

from zwicky.simulate.population import Composite

CHANNELS = ("R", "G", "B")


def composite(images: np.ndarray, bands: tuple[str, ...], chosen: Composite, rng: np.random.Generator) -> np.ndarray:
    """[n, 3, H, W] uint8 (R, G, B) from noisy images [n, bands, H, W] in nanomaggies; sky is black.

    With x_c = s_c f_c, s of mean 1 and f in units of an AB magnitude of `zero_point`, and I = Σ x_c, channel c is
    255 x_c asinh(α Q I) / (Q I), clipped to 0…255 and cut to whole numbers. Then it is resampled, if it was.
    """
    unit = 10 ** (0.4 * (chosen.zero_point - 22.5))
    scales = np.array(chosen.scales, dtype=np.float32) * np.float32(unit * 3 / sum(chosen.scales))
    order = [bands.index(chosen.channels[channel]) for channel in CHANNELS]
    scaled = images[:, order] * scales[:, None, None]
    # asinh(t)/t tends to 1; t is kept off 0, where the quotient is not a number
    t = chosen.alpha * chosen.Q * scaled.sum(1, keepdims=True)
    t = np.where(np.abs(t) < 1e-6, np.float32(1e-6), t)
    values = np.clip(255 * chosen.alpha * scaled * np.arcsinh(t) / t, 0, 255).astype(np.uint8)
    return resample(values, chosen.resampling, rng) if chosen.resampling else values


def resample(values: np.ndarray, width: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each picture [n, 3, H, W] uint8 by up to half a pixel along both axes, by triangles of half width `width`.

    The weight of a pixel at distance d is max(width - |d|, 0), normalised: width 1 is bilinear interpolation. What
    lies beyond the edge is taken to be as the edge.
    """
    result = values.astype(np.float32)
    size = values.shape[-1]
    for axis in (2, 3):
        shift = rng.uniform(-0.5, 0.5, len(values))
        reach = int(np.ceil(width + 0.5))
        steps = np.arange(-reach, reach + 1)
        weights = np.maximum(width - np.abs(steps - shift[:, None]), 0)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        pad = [(0, 0)] * 4
        pad[axis] = (reach, reach)
        padded = np.pad(result, pad, mode="edge")
        parts = [
            padded.take(range(reach + step, reach + step + size), axis) * weights[:, k, None, None, None]
            for k, step in enumerate(steps)
        ]
        result = np.sum(parts, axis=0)
    return np.rint(result).astype(np.uint8)
