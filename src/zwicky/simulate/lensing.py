"""Deflectors by name, and ray tracing through those that a class of objects lists.

Each takes positions x, y [1, H, W] of the grid that all images share and parameters [n, 1, 1], those of subhalos
[n, S, 1, 1] with NaN where an image has fewer than S, and returns the reduced deflection angle α [n, H, W], arcsec.
Ellipticities are as in `zwicky.simulate.light`; Einstein radii are circularised: κ = ½ θ_E / √(q x'² + y'²/q).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from caustics.lenses import func
from torch import Tensor

from zwicky.simulate.light import Parameters, ellipse
from zwicky.simulate.subhalos import SOFTENING, Subhalos, sum_deflections

CORE = 1e-6  # arcsec; keeps the deflection of the SIE finite at its centre
EPL_TERMS = 18  # of the series; its ratio is below (1 - q) / (1 + q), 0.35 at most
VORTEX_POINTS = 100


def sie(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return α of a singular isothermal ellipsoid, Eqs. 34-35 of Keeton (2001), arXiv:astro-ph/0102341."""
    q, phi = ellipse(p["mass_e1"], p["mass_e2"])
    return func.reduced_deflection_angle_sie(p["lens_x"], p["lens_y"], q, phi, p["theta_E"], x, y, CORE)


def epl(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return α of an elliptical power law ρ ∝ r^-slope, Eq. 13 of Tessore & Metcalf (2015), arXiv:1507.01819."""
    q, phi = ellipse(p["mass_e1"], p["mass_e2"])
    shape = (p["lens_x"], p["lens_y"], q, phi, p["theta_E"], p["slope"] - 1)
    return func.reduced_deflection_angle_epl(*shape, x, y, EPL_TERMS, 1)


def centred(function: Callable, names: str, x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return α by a function of caustics that takes the lens's position and the parameters `names`."""
    return function(p["lens_x"], p["lens_y"], *(p[name] for name in names.split()), x, y)


def subhalos(profile: str, x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return α of subhalos of one profile, see `zwicky.simulate.subhalos`."""
    present = torch.isfinite(p["subhalo_theta_E"][..., 0, 0])

    def values(name: str, absent: int) -> Tensor:
        return torch.where(present, p[f"subhalo_{name}"][..., 0, 0], absent)

    masses = {"x0": values("x", 0), "y0": values("y", 0), "b": values("theta_E", 0)}
    if profile == "tnfw":
        masses |= {name: values(name, 1) for name in ("Rs", "tau")}
    return sum_deflections(profile, x, y, masses)


def vortex(x: Tensor, y: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Return α of a vortex in an axion condensate: equal point masses along a line (arXiv:1909.07346)."""
    along = torch.linspace(-1, 1, VORTEX_POINTS, device=x.device) * p["vortex_half_length"][..., 0]  # [n, points]
    angle = p["vortex_angle"][..., 0]
    masses: Subhalos = {
        "x0": p["lens_x"][..., 0] + along * torch.cos(angle),
        "y0": p["lens_y"][..., 0] + along * torch.sin(angle),
        "b": (p["vortex_theta_E"][..., 0] / VORTEX_POINTS**0.5).expand_as(along),
    }
    return sum_deflections("point", x, y, masses)


DEFLECTORS: dict[str, Callable[[Tensor, Tensor, Parameters], tuple[Tensor, Tensor]]] = {
    "sie": sie,
    "epl": epl,
    "shear": partial(centred, func.reduced_deflection_angle_external_shear, "gamma1 gamma2"),
    # mass sheet and isothermal sphere are negative, to compensate the mass of subhalos and of a vortex
    "mass_sheet": partial(centred, func.reduced_deflection_angle_mass_sheet, "sheet_kappa"),
    "sis": partial(centred, partial(func.reduced_deflection_angle_sis, s=SOFTENING), "sis_theta_E"),
    "vortex": vortex,
    **{f"{profile}_subhalos": partial(subhalos, profile) for profile in ("point", "sis", "tnfw")},
}


def ray_trace(x: Tensor, y: Tensor, deflectors: Sequence[str], p: Parameters) -> tuple[Tensor, Tensor]:
    """Return the source-plane positions of image-plane positions: β = θ - Σ α(θ), the lens equation."""
    u, v = x, y
    for name in deflectors:
        alpha_x, alpha_y = DEFLECTORS[name](x, y, p)
        u, v = u - alpha_x, v - alpha_y
    return u, v
