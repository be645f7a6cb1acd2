"""Light profiles, batched. Pure functions of positions; nothing here knows of pixels or bands.

Positions x, y and results are [n, H, W]; parameters are [n, 1, 1]. Lengths in arcsec, angles in radians, x along the
last axis. Ellipticities (e1, e2) have length (1-q)/(1+q) and position angle φ = atan2(e2, e1) / 2. Radii are
circularised: a Sérsic ellipse has semi-major axis R/√q.
"""

from __future__ import annotations

import torch
from caustics.light.func import brightness_sersic, k_sersic
from torch import Tensor

# Keeps the deflection finite at the very centre of the SIE and the spiral's logarithm finite at the disc's.
CORE = 1e-6


def ellipse(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Axis ratio q and position angle φ of an ellipticity."""
    e = torch.hypot(e1, e2)
    return (1 - e) / (1 + e), torch.atan2(e2, e1) / 2


def elliptical_polar(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Circularised radius √(q x'² + y'²/q) and the angle in the plane of a disc seen at that ellipticity."""
    q, phi = ellipse(e1, e2)
    along = (x - x0) * torch.cos(phi) + (y - y0) * torch.sin(phi)
    across = (y - y0) * torch.cos(phi) - (x - x0) * torch.sin(phi)
    u, v = along * q.sqrt(), across / q.sqrt()
    return torch.hypot(u, v), torch.atan2(v, u)


def sersic(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, e1: Tensor, e2: Tensor, R: Tensor, n: Tensor) -> Tensor:
    """Sérsic (1963): exp(-b_n ((r/R)^(1/n) - 1)), 1 at the half-light radius R."""
    q, phi = ellipse(e1, e2)
    return brightness_sersic(x0, y0, q, phi, n, R / q.sqrt(), 1.0, x, y, k_sersic(n))


def sersic_flux(R: Tensor, n: Tensor) -> Tensor:
    """Integral of `sersic` over the plane, arcsec²: 2π n R² e^b b^(-2n) Γ(2n)."""
    b = k_sersic(n)
    return 2 * torch.pi * n * R**2 * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def spiral(
    r: Tensor, angle: Tensor, arms: int, R: Tensor, phase: Tensor, pitch: Tensor, sense: Tensor, sharpness: Tensor
) -> Tensor:
    """Logarithmic arms on a disc with a hole: ((r/R) exp(1 - r/R))^4, 1 on the arms at r = R.

    Arm k follows r = R exp(±(angle - phase - 2πk/arms) tan pitch); across it the light goes as a von Mises profile.
    """
    ridge = phase + sense * torch.log(r.clamp(min=CORE) / R) / torch.tan(pitch)
    disc = (r / R * torch.exp(1 - r / R)) ** 4
    return disc * torch.exp(sharpness * (torch.cos(arms * (angle - ridge)) - 1))


def ring(r: Tensor, angle: Tensor, R: Tensor, width: Tensor, knots: Tensor, phase: Tensor) -> Tensor:
    """A Gaussian annulus at R whose light is modulated in angle as exp(knots cos(angle - phase))."""
    return torch.exp(-0.5 * ((r - R) / width) ** 2 + knots * torch.cos(angle - phase))
