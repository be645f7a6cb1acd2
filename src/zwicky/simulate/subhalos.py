"""Deflection by many small masses, summed over the subhalos of each image.

`deflect_plain` sums batches of caustics' formulas on any device; `deflect_fused` sums the same on a CPU in compiled
loops, to 1e-5 of the peak, without ever holding [images, subhalos, pixels] in memory.

Positions x, y are [1, H, W], the grid that all images share. `Subhalos` holds positions x0, y0 and Einstein radii b,
[n, S] each, arcsec, b = 0 where an image has fewer than S. `point` has α = b² / r, `sis` (singular isothermal sphere)
α = b, and `tnfw` (truncated NFW, Baltz, Marshall & Oguri 2009, arXiv:0705.0682, n = 1) α = b² m(r) / r with b that of a
point of the same total mass, m the share of the mass within the projected radius r, scale radius Rs and tau = r_t / Rs.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch
from caustics.lenses import func
from torch import Tensor

Subhalos = dict[str, Tensor]  # "x0", "y0", "b", for tnfw also "Rs" and "tau"

SOFTENING = 1e-12  # arcsec; makes 0/0 at the very centre of a subhalo 0
SOFTENING_TNFW = 1e-8  # arcsec; closer in, the terms of the formula cancel even in float64
CHUNK = 2**22  # values of [images, subhalos, pixels] held at a time by `deflect_plain`

RUN = 256  # pixels per inner loop; a constant, so that the compiler unrolls and vectorises
PER_OCTAVE_BITS = 7  # 128 columns per octave of (r/Rs)²: linear interpolation errs by 3e-6 of the deflection
OCTAVES = (-30, 24)  # of (r/Rs)²
TAUS = np.exp(np.arange(np.log(0.05), np.log(2000.0), 0.1))

_SHIFT = 23 - PER_OCTAVE_BITS
_FIRST = (127 + OCTAVES[0]) << 23  # bits of the first column's (r/Rs)² as float32
_LEAST, _MOST = np.float32(2.0 ** OCTAVES[0]), np.float32(2.0 ** OCTAVES[1] * (1 - 2.0**-20))
_FRACTION = np.float32(2.0**-_SHIFT)
_MASK = (1 << _SHIFT) - 1
_SOFTENING = np.float32(SOFTENING)


def sum_deflections(profile: str, x: Tensor, y: Tensor, subhalos: Subhalos) -> tuple[Tensor, Tensor]:
    """Return α [n, H, W], arcsec, of all subhalos: fused on a CPU, else plain."""
    return (deflect_fused if x.device.type == "cpu" else deflect_plain)(profile, x, y, subhalos)


def mass_share(r: Tensor, Rs: Tensor, tau: Tensor) -> Tensor:
    """Return the share of a TNFW halo's mass within the projected radius r, Eqs. A.4 and A.11 of arXiv:0705.0682."""
    r, Rs, tau = r.double(), Rs.double(), tau.double()  # in float32 the terms cancel
    return func.mass_enclosed_2d_tnfw(r, Rs, tau, func.M0_totmass_tnfw(1.0, tau))


def _power_law(function: Callable, x: Tensor, y: Tensor, s: Subhalos) -> tuple[Tensor, Tensor]:
    return function(s["x0"], s["y0"], s["b"], x, y, SOFTENING)


def _tnfw(x: Tensor, y: Tensor, s: Subhalos) -> tuple[Tensor, Tensor]:
    dx, dy = (x - s["x0"]).double(), (y - s["y0"]).double()
    r = torch.hypot(dx, dy) + SOFTENING_TNFW
    alpha_over_r = s["b"].double() ** 2 * mass_share(r, s["Rs"], s["tau"]) / r**2
    return alpha_over_r * dx, alpha_over_r * dy


PROFILES: dict[str, Callable[[Tensor, Tensor, Subhalos], tuple[Tensor, Tensor]]] = {
    "point": partial(_power_law, func.reduced_deflection_angle_point),
    "sis": partial(_power_law, func.reduced_deflection_angle_sis),
    "tnfw": _tnfw,
}


def deflect_plain(profile: str, x: Tensor, y: Tensor, subhalos: Subhalos) -> tuple[Tensor, Tensor]:
    """Return α [n, H, W], arcsec, with at most `CHUNK` values in memory at a time."""
    n, count = subhalos["b"].shape
    alpha_x, alpha_y = torch.zeros(2, n, *x.shape[1:], dtype=x.dtype, device=x.device)
    step = max(1, CHUNK // (n * x[0].numel()))
    for start in range(0, count, step):
        chunk = {name: values[:, start : start + step, None, None] for name, values in subhalos.items()}
        chunk_x, chunk_y = PROFILES[profile](x[:, None], y[:, None], chunk)
        alpha_x += chunk_x.sum(1)
        alpha_y += chunk_y.sum(1)
    return alpha_x, alpha_y


_compiled = numba.njit(fastmath=True, nogil=True, error_model="numpy")


def _power_law_loop(point: bool) -> Callable[..., None]:
    """Return the compiled loop of point masses, α/r = b² / r², or of isothermal spheres, α/r = b / r."""

    @_compiled
    def loop(x, y, x0, y0, b, alpha_x, alpha_y):
        for image in range(len(b)):
            for run in range(len(x)):
                u, v, sum_x, sum_y = x[run], y[run], alpha_x[image, run], alpha_y[image, run]
                for k in range(b.shape[1]):
                    cx, cy = x0[image, k], y0[image, k]
                    strength = b[image, k] ** 2 if point else b[image, k]
                    for p in range(RUN):
                        dx, dy = u[p] - cx, v[p] - cy
                        r2 = dx * dx + dy * dy + _SOFTENING * _SOFTENING
                        alpha_over_r = strength / (r2 if point else np.sqrt(r2))
                        sum_x[p] += alpha_over_r * dx
                        sum_y[p] += alpha_over_r * dy

    return loop


@_compiled
def _tnfw_loop(x, y, x0, y0, b, row, weights, scale, table, alpha_x, alpha_y):
    """Sum α/r = b² m(r) / r² with m from `table` [taus, columns], see `_mass_table`.

    row [n, S]: the first of the four rows of the table; weights [n, S, 4]: of each; scale [n, S]: 1 / Rs².
    """
    shares = np.empty(table.shape[1], np.float32)  # the table's row at this subhalo's tau
    reduced = np.empty(RUN, np.float32)
    bits = reduced.view(np.int32)
    column, fraction = np.empty(RUN, np.uint32), np.empty(RUN, np.float32)
    left, right = np.empty(RUN, np.float32), np.empty(RUN, np.float32)
    x_low, x_high, y_low, y_high = x.min(), x.max(), y.min(), y.max()
    for image in range(len(b)):
        for k in range(b.shape[1]):
            strength = b[image, k] ** 2
            if strength == 0:
                continue
            cx, cy, inverse = x0[image, k], y0[image, k], scale[image, k]
            closest = _LEAST / inverse  # closer in, the deflection is that of a uniform disc
            # only the columns between the least and the greatest possible distance of a pixel are needed, and one more
            gap_x, gap_y = max(x_low - cx, cx - x_high, 0), max(y_low - cy, cy - y_high, 0)
            reach_x, reach_y = max(cx - x_low, x_high - cx), max(cy - y_low, y_high - cy)
            reduced[0] = min(max((gap_x**2 + gap_y**2) * inverse, _LEAST), _MOST)
            reduced[1] = min(max((reach_x**2 + reach_y**2) * inverse, _LEAST), _MOST)
            first, last = max(0, ((bits[0] - _FIRST) >> _SHIFT) - 1), ((bits[1] - _FIRST) >> _SHIFT) + 3
            w0, w1, w2, w3 = weights[image, k]
            t0, t1 = table[row[image, k]][first:last], table[row[image, k] + 1][first:last]
            t2, t3 = table[row[image, k] + 2][first:last], table[row[image, k] + 3][first:last]
            needed = shares[first:last]
            for j in range(len(needed)):
                needed[j] = w0 * t0[j] + w1 * t1[j] + w2 * t2[j] + w3 * t3[j]
            for run in range(len(x)):
                u, v, sum_x, sum_y = x[run], y[run], alpha_x[image, run], alpha_y[image, run]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    r2 = dx * dx + dy * dy
                    reduced[p] = min(max(r2 * inverse, _LEAST), _MOST)
                for p in range(RUN):
                    offset = bits[p] - _FIRST
                    column[p] = offset >> _SHIFT
                    fraction[p] = np.float32(offset & _MASK) * _FRACTION
                for p in range(RUN):
                    j = column[p]
                    left[p] = shares[j]
                    right[p] = shares[j + 1]
                for p in range(RUN):
                    dx, dy = u[p] - cx, v[p] - cy
                    r2 = max(dx * dx + dy * dy, closest)
                    alpha_over_r = strength * (left[p] + fraction[p] * (right[p] - left[p])) / r2
                    sum_x[p] += alpha_over_r * dx
                    sum_y[p] += alpha_over_r * dy


@cache
def _mass_table() -> np.ndarray:
    """Return `mass_share` [len(TAUS), columns] float32, which saves the TNFW's logarithms and inverse cosines.

    Columns are the float32 numbers (r / Rs)² whose last mantissa bits are zero, so that a pixel finds its column by
    shifting bits. Rows are evenly spaced in ln tau.
    """
    columns = ((OCTAVES[1] - OCTAVES[0]) << PER_OCTAVE_BITS) + 1
    bits = (_FIRST + (np.arange(columns, dtype=np.int64) << _SHIFT)).astype(np.int32)
    r = torch.from_numpy(bits.view(np.float32).astype(np.float64)).sqrt()[None, :]
    return mass_share(r, torch.ones(1, 1), torch.from_numpy(TAUS)[:, None]).float().numpy()


def _cubic_weights(tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of four rows of the table [n, S] int64 and their Lagrange weights [n, S, 4] at `tau` [n, S]."""
    position = np.clip(np.log(tau.astype(np.float64) / TAUS[0]) / 0.1, 1, len(TAUS) - 2.001)
    row = np.floor(position).astype(np.int64) - 1
    t = position - row
    u, v, w = t - 1, t - 2, t - 3
    weights = (-u * v * w / 6, t * v * w / 2, -t * u * w / 2, t * u * v / 6)
    return row, np.stack(weights, -1).astype(np.float32)


LOOPS: dict[str, Any] = {"point": _power_law_loop(True), "sis": _power_law_loop(False), "tnfw": _tnfw_loop}


def deflect_fused(profile: str, x: Tensor, y: Tensor, subhalos: Subhalos) -> tuple[Tensor, Tensor]:
    """Return α [n, H, W], arcsec, float32 on the CPU; each image is summed by one thread, in one order."""
    size = x[0].numel()
    grid = [np.resize(axis.numpy().ravel(), (-(-size // RUN), RUN)) for axis in (x.float(), y.float())]
    values = {name: np.ascontiguousarray(value.numpy(), dtype=np.float32) for name, value in subhalos.items()}
    per_image: list[np.ndarray] = [values["x0"], values["y0"], values["b"]]
    if profile == "tnfw":
        row, weights = _cubic_weights(np.where(values["b"] == 0, 1, values["tau"]))
        per_image += [row, weights, 1 / values["Rs"] ** 2]
    shared = [_mass_table()] if profile == "tnfw" else []
    alpha = np.zeros((2, n := len(values["b"]), *grid[0].shape), np.float32)

    def sum_images(images: np.ndarray) -> None:
        part = slice(images[0], images[-1] + 1)
        LOOPS[profile](*grid, *(value[part] for value in per_image), *shared, alpha[0, part], alpha[1, part])

    parts = [images for images in np.array_split(np.arange(n), torch.get_num_threads()) if len(images)]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(sum_images, parts))
    alpha_x, alpha_y = torch.from_numpy(alpha).flatten(2)[:, :, :size].reshape(2, n, *x.shape[1:])
    return alpha_x, alpha_y
