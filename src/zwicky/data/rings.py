"""Radial × azimuthal modes: what rings about the centre say of an image, in some hundred numbers and without a network.

A lens is a ring about a centre. The power of each azimuthal mode m on each of 32 radii is invariant under rotations
and reflections; a logistic regression on its logarithm is a baseline that a network must beat.
"""

import warnings
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

from zwicky.data.cutouts import Images
from zwicky.rng import numpy_rng

SCALING_IMAGES = 500  # images from which centre and scale of the pixels are measured
RADII, ANGLES, MODES = 32, 64, 9  # m = 0 … 8
SIDE = 24  # images are binned by the largest whole number that leaves this side, centred; finer pixels add noise
SOFTENING = 3.0
FLOOR = 1e-3  # added to the power before its logarithm


def robust_scale(images: Images, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Median and half the 16–84 % range of each band [bands, 1, 1], over some images, invalid pixels left out."""
    rows = numpy_rng(seed).permutation(len(images))[:SCALING_IMAGES]
    sample = np.moveaxis(images[np.sort(rows)], 1, 0).reshape(images.shape[1], -1).astype(np.float32)
    sample[~np.isfinite(sample)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a band with no valid pixel: 0 and 1 below
        low, centre, high, deviation = *np.nanpercentile(sample, [16, 50, 84], axis=1), np.nanstd(sample, axis=1)
    scale = np.where(high > low, (high - low) / 2, deviation)
    scale = np.where(scale > 0, scale, 1.0)  # neither 0 nor NaN
    return np.nan_to_num(centre)[:, None, None].astype(np.float32), scale[:, None, None].astype(np.float32)


def asinh_scaled(images: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Asinh of the scaled pixels, float32: linear near the sky, logarithmic in bright cores. NaN where invalid."""
    values = np.arcsinh((images.astype(np.float32) - centre) / scale)
    values[~np.isfinite(values)] = np.nan
    return values


def binned(images: np.ndarray, side: int) -> np.ndarray:
    """Means over square bins that leave at least `side`; 0, the median, where a bin has no valid pixel."""
    sizes = images.shape[2:]
    factors = range(1, max(1, min(sizes) // side) + 1)
    # The largest whose bins are centred: what they leave out is the same on both sides.
    factor = max(factor for factor in factors if all(size % factor % 2 == 0 for size in sizes))
    height, width = (size // factor for size in sizes)
    top, left = (size % factor // 2 for size in sizes)
    inner = images[:, :, top : top + height * factor, left : left + width * factor]
    bins = inner.reshape(*images.shape[:2], height, factor, width, factor)
    valid = np.isfinite(bins)
    if valid.all():
        return bins.mean(axis=(3, 5))
    return np.where(valid, bins, 0).sum(axis=(3, 5)) / np.maximum(valid.sum(axis=(3, 5)), 1)


def ring_modes(images: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the log power of m = 0 … 8 on 32 radii of raw images [N, bands, H, W]: [N, bands · 288] float32.

    Images are compressed by asinh(x / 3) with x in units of `robust_scale`, of integers at least one count.
    """
    unit = np.maximum(scale, 1) if images.dtype.kind in "iu" else scale
    images = binned(asinh_scaled(images, centre, SOFTENING * unit), SIDE)
    polar = images.reshape(-1, images.shape[2] * images.shape[3]) @ _polar_weights(*images.shape[2:]).T
    modes = np.fft.rfft(polar.reshape(len(images), -1, ANGLES), axis=2)[..., :MODES] / ANGLES
    return np.log(np.abs(modes) ** 2 + FLOOR).reshape(len(images), -1).astype(np.float32)


@lru_cache(maxsize=8)
def _polar_weights(height: int, width: int) -> csr_matrix:
    """Bilinear weights [RADII · ANGLES, pixels] of points on circles about the centre, up to the nearest edge."""
    radius = (np.arange(RADII) + 0.5) / RADII * (min(height, width) - 1) / 2
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    y = ((height - 1) / 2 + radius[:, None] * np.sin(angle)).ravel()
    x = ((width - 1) / 2 + radius[:, None] * np.cos(angle)).ravel()
    x0, y0 = np.clip(np.floor(x), 0, max(0, width - 2)), np.clip(np.floor(y), 0, max(0, height - 2))
    points = np.tile(np.arange(RADII * ANGLES), 4)
    rows, columns = np.minimum(y0 + [[0], [1]], height - 1), np.minimum(x0 + [[0], [1]], width - 1)
    pixels = [row * width + column for row in rows for column in columns]
    weights = [np.abs(1 - dy - y + y0) * np.abs(1 - dx - x + x0) for dy in (0, 1) for dx in (0, 1)]
    index = (points, np.concatenate(pixels).astype(int))
    return csr_matrix((np.concatenate(weights).astype(np.float32), index), shape=(RADII * ANGLES, height * width))
