"""Deflection by many small masses: the sum over subhalos, as plain batched caustics.

This is the path of every device and the reference of `zwicky.simulate.fused`, which sums the same on a CPU without
ever holding [images, subhalos, pixels] in memory.

Positions x, y are [1, H, W], the grid that all images share; places x0, y0 and strengths of subhalos are [n, S], in
arcsec, with strength 0 where an image has fewer than S. The three profiles:

- `point`: strength b is the Einstein radius; α = b² / r.
- `sis`: singular isothermal sphere; strength b is the Einstein radius; α = b.
- `tnfw`: Baltz, Marshall & Oguri (2009, n = 1); b is the Einstein radius of a point of the same total mass, so that
  α = b² m(r) / r with m the share of the mass within the projected radius r; Rs [n, S] arcsec, tau = r_t / Rs [n, S].
"""

from __future__ import annotations

import torch
from caustics.lenses.func import (
    M0_totmass_tnfw,
    mass_enclosed_2d_tnfw,
    reduced_deflection_angle_point,
    reduced_deflection_angle_sis,
)
from torch import Tensor

TINY = 1e-12  # arcsec; makes 0/0 at the very centre of a subhalo 0
TINY_TNFW = 1e-8  # arcsec; nearer than this the formula cancels, in float64
CHUNK = 2**22  # values of [images, subhalos, pixels] held at a time

Subhalos = dict[str, Tensor]  # "x0", "y0", "b", for tnfw also "Rs" and "tau"


def mass_share(r: Tensor, Rs: Tensor, tau: Tensor) -> Tensor:
    """Share of a TNFW halo's total mass within the projected radius r, in float64: in float32 the terms cancel."""
    r, Rs, tau = r.double(), Rs.double(), tau.double()
    return mass_enclosed_2d_tnfw(r, Rs, tau, M0_totmass_tnfw(1.0, tau))


def _points(x: Tensor, y: Tensor, s: Subhalos) -> tuple[Tensor, Tensor]:
    return reduced_deflection_angle_point(s["x0"], s["y0"], s["b"], x, y, TINY)


def _spheres(x: Tensor, y: Tensor, s: Subhalos) -> tuple[Tensor, Tensor]:
    return reduced_deflection_angle_sis(s["x0"], s["y0"], s["b"], x, y, TINY)


def _truncated(x: Tensor, y: Tensor, s: Subhalos) -> tuple[Tensor, Tensor]:
    dx, dy = (x - s["x0"]).double(), (y - s["y0"]).double()
    r = torch.hypot(dx, dy) + TINY_TNFW
    pull = s["b"].double() ** 2 * mass_share(r, s["Rs"], s["tau"]) / r**2
    return pull * dx, pull * dy


PROFILES = {"point": _points, "sis": _spheres, "tnfw": _truncated}


def deflect_plain(profile: str, x: Tensor, y: Tensor, subhalos: Subhalos) -> tuple[Tensor, Tensor]:
    """Reduced deflection α [n, H, W], arcsec, summed over the subhalos of each image, a few of them at a time."""
    n, count = subhalos["b"].shape
    alpha_x = torch.zeros(n, *x.shape[1:], dtype=x.dtype, device=x.device)
    alpha_y = torch.zeros_like(alpha_x)
    step = max(1, CHUNK // (n * x[0].numel()))
    for start in range(0, count, step):
        some = {name: values[:, start : start + step, None, None] for name, values in subhalos.items()}
        part_x, part_y = PROFILES[profile](x[:, None], y[:, None], some)
        alpha_x += part_x.sum(1)
        alpha_y += part_y.sum(1)
    return alpha_x, alpha_y
