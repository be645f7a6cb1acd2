"""The sum over subhalos in one pass: compiled loops whose working set is a run of pixels that stays in the cache.

Same interface and same numbers as `zwicky.simulate.subhalos.deflect_plain` (to 1e-5 of the peak), float32, CPU. Memory
does not grow with the number of subhalos. Each image is summed by one thread in one order, so that the result does not
depend on the number of threads.

A TNFW deflection takes logarithms and inverse cosines; here the mass within r comes from a table over (r / Rs)² and
tau instead. Its columns are the float32 numbers whose last mantissa bits are zero, `PER_OCTAVE` to each power of two,
so that a pixel finds its place by shifting the bits of (r / Rs)². Its rows are even in ln tau; a subhalo's own row is
a cubic through four of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from zwicky.simulate.subhalos import TINY, Subhalos, mass_share

try:
    import numba
except ImportError:  # none for this Python or processor: the plain path does it
    numba = None  # type: ignore[assignment]

AVAILABLE = numba is not None


RUN = 256  # pixels; a constant, so that the compiler unrolls and vectorises the loops over it
PER_OCTAVE_BITS = 7  # 128 columns to an octave of (r/Rs)²: linear interpolation errs by 3e-6 of the halo's own pull
OCTAVES = (-30, 24)  # of (r/Rs)²
TAUS = np.exp(np.arange(np.log(0.05), np.log(2000.0), 0.1))

_SHIFT = 23 - PER_OCTAVE_BITS
_FIRST = (127 + OCTAVES[0]) << 23  # bits of the first column's (r/Rs)²
_LEAST, _MOST = np.float32(2.0 ** OCTAVES[0]), np.float32(2.0 ** OCTAVES[1] * (1 - 2.0**-20))
_FRACTION = np.float32(2.0**-_SHIFT)
_MASK = (1 << _SHIFT) - 1
_TINY = np.float32(TINY)


def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    return numba.njit(fastmath=True, nogil=True, error_model="numpy")(loop) if AVAILABLE else loop


@_compiled
def _points(x, y, x0, y0, b, alpha_x, alpha_y):
    sum_x, sum_y = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    for image in range(len(b)):
        for run in range(len(x)):
            u, v = x[run], y[run]
            sum_x[:] = 0
            sum_y[:] = 0
            for k in range(b.shape[1]):
                cx, cy, strength = x0[image, k], y0[image, k], b[image, k] ** 2
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    pull = strength / (dx * dx + dy * dy + _TINY * _TINY)
                    sum_x[p] += pull * dx
                    sum_y[p] += pull * dy
            alpha_x[image, run] = sum_x
            alpha_y[image, run] = sum_y


@_compiled
def _spheres(x, y, x0, y0, b, alpha_x, alpha_y):
    sum_x, sum_y = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    for image in range(len(b)):
        for run in range(len(x)):
            u, v = x[run], y[run]
            sum_x[:] = 0
            sum_y[:] = 0
            for k in range(b.shape[1]):
                cx, cy, strength = x0[image, k], y0[image, k], b[image, k]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    pull = strength / np.sqrt(dx * dx + dy * dy + _TINY * _TINY)
                    sum_x[p] += pull * dx
                    sum_y[p] += pull * dy
            alpha_x[image, run] = sum_x
            alpha_y[image, run] = sum_y


@_compiled
def _truncated(x, y, x0, y0, b, row, weights, scale, table, alpha_x, alpha_y):
    """row [n, S]: the first of the four rows of `table`; weights [n, S, 4]: of each; scale [n, S]: 1 / Rs²."""
    own = np.empty(table.shape[1], np.float32)
    reduced = np.empty(RUN, np.float32)
    bits = reduced.view(np.int32)
    near, far = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    place, along = np.empty(RUN, np.uint32), np.empty(RUN, np.float32)
    left, right = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    for image in range(len(b)):
        alpha_x[image] = 0
        alpha_y[image] = 0
        for k in range(b.shape[1]):
            strength = b[image, k] ** 2
            if strength == 0:
                continue
            cx, cy, inverse = x0[image, k], y0[image, k], scale[image, k]
            closest = _LEAST / inverse  # nearer in, the pull is that of an even disc
            near[:] = np.inf
            far[:] = 0
            for run in range(len(x)):
                u, v = x[run], y[run]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    r2 = dx * dx + dy * dy
                    near[p] = min(near[p], r2)
                    far[p] = max(far[p], r2)
            nearest, farthest = near[0], far[0]
            for p in range(RUN):
                nearest = min(nearest, near[p])
                farthest = max(farthest, far[p])
            reduced[0] = min(max(nearest * inverse, _LEAST), _MOST)
            reduced[1] = min(max(farthest * inverse, _LEAST), _MOST)
            first, last = (bits[0] - _FIRST) >> _SHIFT, ((bits[1] - _FIRST) >> _SHIFT) + 2
            w0, w1, w2, w3 = weights[image, k]
            t0, t1 = table[row[image, k]][first:last], table[row[image, k] + 1][first:last]
            t2, t3 = table[row[image, k] + 2][first:last], table[row[image, k] + 3][first:last]
            needed = own[first:last]
            for j in range(len(needed)):
                needed[j] = w0 * t0[j] + w1 * t1[j] + w2 * t2[j] + w3 * t3[j]
            for run in range(len(x)):
                u, v, to_x, to_y = x[run], y[run], alpha_x[image, run], alpha_y[image, run]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    r2 = dx * dx + dy * dy
                    reduced[p] = min(max(r2 * inverse, _LEAST), _MOST)
                for p in range(RUN):
                    offset = bits[p] - _FIRST
                    place[p] = offset >> _SHIFT
                    along[p] = np.float32(offset & _MASK) * _FRACTION
                for p in range(RUN):
                    j = place[p]
                    left[p] = own[j]
                    right[p] = own[j + 1]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    r2 = max(dx * dx + dy * dy, closest)
                    pull = strength * (left[p] + along[p] * (right[p] - left[p])) / r2
                    to_x[p] += pull * dx
                    to_y[p] += pull * dy


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """[len(TAUS), columns] float32: share of the total mass within r."""
    columns = ((OCTAVES[1] - OCTAVES[0]) << PER_OCTAVE_BITS) + 1
    bits = (_FIRST + (np.arange(columns, dtype=np.int64) << _SHIFT)).astype(np.int32)
    r = torch.from_numpy(bits.view(np.float32).astype(np.float64)).sqrt()[None, :]
    return mass_share(r, torch.ones(1, 1), torch.from_numpy(TAUS)[:, None]).float().numpy()


def _cubic(tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and Lagrange's weights for `tau` [n, S]: first row [n, S] int64 and weights [n, S, 4] float32."""
    place = np.clip(np.log(tau.astype(np.float64) / TAUS[0]) / 0.1, 1, len(TAUS) - 2.001)
    row = np.floor(place).astype(np.int64) - 1
    t = place - row
    weights = (
        -(t - 1) * (t - 2) * (t - 3) / 6,
        t * (t - 2) * (t - 3) / 2,
        -t * (t - 1) * (t - 3) / 2,
        t * (t - 1) * (t - 2) / 6,
    )
    return row, np.stack(weights, -1).astype(np.float32)


LOOPS = {"point": _points, "sis": _spheres, "tnfw": _truncated}


def deflect_fused(profile: str, x: Tensor, y: Tensor, subhalos: Subhalos) -> tuple[Tensor, Tensor]:
    """Reduced deflection α [n, H, W], arcsec, of subhalos [n, S] on the shared grid x, y [1, H, W]."""
    size = x[0].numel()
    places = [np.resize(axis.numpy().ravel(), (-(-size // RUN), RUN)) for axis in (x.float(), y.float())]
    values = {name: np.ascontiguousarray(value.numpy(), dtype=np.float32) for name, value in subhalos.items()}
    per_image: list[np.ndarray] = [values["x0"], values["y0"], values["b"]]
    shared: list[np.ndarray] = []
    if profile == "tnfw":
        row, weights = _cubic(np.where(values["b"] == 0, 1, values["tau"]))
        per_image += [row, weights, 1 / values["Rs"] ** 2]
        shared = [_table()]
    n = len(values["b"])
    alpha = np.empty((2, n, *places[0].shape), np.float32)

    def some(images: np.ndarray) -> None:
        part = slice(images[0], images[-1] + 1)
        LOOPS[profile](*places, *(value[part] for value in per_image), *shared, alpha[0, part], alpha[1, part])

    shares = [images for images in np.array_split(np.arange(n), torch.get_num_threads()) if len(images)]
    if len(shares) == 1:
        some(shares[0])
    else:
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(some, shares))
    flat = torch.from_numpy(alpha).flatten(2)[:, :, :size]
    return flat[0].reshape(n, *x.shape[1:]), flat[1].reshape(n, *x.shape[1:])
