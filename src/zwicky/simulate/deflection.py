"""Deflectors by name: what bends the light of a lens. A population lists, for each kind, the ones it has.

Each takes positions x, y [1, H, W] of the grid that all images share and the block's parameters, and gives the
reduced deflection α [n, H, W] for the redshifts of that lens, arcsec. Parameters are [n, 1, 1]; those of subhalos
[n, S, 1, 1], NaN where an image has fewer than S. `zwicky.simulate.draw.units` says what each is. Ellipticities are as
in `zwicky.simulate.components`; the Einstein radius of an ellipsoid is circularised: κ = ½ θ_E / √(q x'² + y'²/q).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from caustics.lenses.func import (
    reduced_deflection_angle_epl,
    reduced_deflection_angle_external_shear,
    reduced_deflection_angle_mass_sheet,
    reduced_deflection_angle_sie,
    reduced_deflection_angle_sis,
)
from torch import Tensor

from zwicky.simulate import fused
from zwicky.simulate.components import CORE, ellipse
from zwicky.simulate.subhalos import TINY, Subhalos, deflect_plain
from zwicky.simulate.substructure import VORTEX_POINTS

Parameters = Mapping[str, Tensor]
Deflector = Callable[[Tensor, Tensor, Parameters], tuple[Tensor, Tensor]]

EPL_TERMS = 18  # of Tessore & Metcalf's series; its ratio is below (1 - q) / (1 + q), 0.35 at most


def sie(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid."""
    q, phi = ellipse(p["mass_e1"], p["mass_e2"])
    return reduced_deflection_angle_sie(p["lens_x"], p["lens_y"], q, phi, p["theta_E"], x, y, CORE)


def epl(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Elliptical power law, ρ ∝ r^-slope (Tessore & Metcalf 2015); slope 2 is the SIE."""
    q, phi = ellipse(p["mass_e1"], p["mass_e2"])
    shape = (p["lens_x"], p["lens_y"], q, phi, p["theta_E"], p["slope"] - 1)
    return reduced_deflection_angle_epl(*shape, x, y, EPL_TERMS, 1)


def shear(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """External shear about the lens."""
    return reduced_deflection_angle_external_shear(p["lens_x"], p["lens_y"], p["gamma1"], p["gamma2"], x, y)


def sheet(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Even convergence about the lens; negative where it makes up for the mass of subhalos spread evenly."""
    return reduced_deflection_angle_mass_sheet(p["lens_x"], p["lens_y"], p["sheet_kappa"], x, y)


def sphere(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Isothermal sphere about the lens; negative where it makes up for mass in a line through the centre."""
    return reduced_deflection_angle_sis(p["lens_x"], p["lens_y"], p["sphere_theta_E"], x, y, TINY)


def small_masses(profile: str, x: Tensor, y: Tensor, masses: Subhalos) -> tuple[Tensor, Tensor]:
    """α of many small masses: fused on a CPU that numba compiles for, plain elsewhere; they agree to 1e-5."""
    summed = fused.deflect_fused if x.device.type == "cpu" and fused.AVAILABLE else deflect_plain
    return summed(profile, x, y, masses)


def subhalos(profile: str, x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Subhalos of one profile; see `zwicky.simulate.subhalos`."""
    strength = p["subhalo_theta_E"][..., 0, 0]
    there = torch.isfinite(strength)
    used: Subhalos = {
        "x0": torch.where(there, p["subhalo_x"][..., 0, 0], 0),
        "y0": torch.where(there, p["subhalo_y"][..., 0, 0], 0),
        "b": torch.where(there, strength, 0),
    }
    if profile == "tnfw":
        used |= {name: torch.where(there, p[f"subhalo_{name}"][..., 0, 0], 1) for name in ("Rs", "tau")}
    return small_masses(profile, x, y, used)


def vortex(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """A vortex in an axion condensate: equal point masses along a line through the centre of the lens."""
    along = torch.linspace(-1, 1, VORTEX_POINTS, device=x.device) * p["vortex_half_length"][..., 0]  # [n, points]
    angle = p["vortex_angle"][..., 0]
    used: Subhalos = {
        "x0": p["lens_x"][..., 0] + along * torch.cos(angle),
        "y0": p["lens_y"][..., 0] + along * torch.sin(angle),
        "b": (p["vortex_theta_E"][..., 0] / VORTEX_POINTS**0.5).expand_as(along),
    }
    return small_masses("point", x, y, used)


DEFLECTORS: dict[str, Deflector] = {
    "sie": sie,
    "epl": epl,
    "shear": shear,
    "sheet": sheet,
    "sphere": sphere,
    "vortex": vortex,
    "points": partial(subhalos, "point"),
    "spheres": partial(subhalos, "sis"),
    "halos": partial(subhalos, "tnfw"),
}


def shoot(x: Tensor, y: Tensor, deflectors: Sequence[str], p: Parameters) -> tuple[Tensor, Tensor]:
    """Source-plane positions of image-plane ones: β = θ - Σ α(θ). Without deflectors β = θ."""
    u, v = x, y
    for name in deflectors:
        alpha_x, alpha_y = DEFLECTORS[name](x, y, p)
        u, v = u - alpha_x, v - alpha_y
    return u, v
