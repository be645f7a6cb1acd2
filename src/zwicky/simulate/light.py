"""Light: surface-brightness profiles, and the layers of light that populations name.

Positions x, y and results are [n, H, W], parameters [n, 1, 1]; lengths in arcsec, angles in radians, x along the last
axis. An ellipticity (e1, e2) has length (1-q)/(1+q) and position angle φ = atan2(e2, e1) / 2. Radii are circularised:
an ellipse of radius R has the semi-major axis R/√q. `LAYERS` are functions of image-plane positions, `SOURCES` of
source-plane positions, with their integral over the plane. Any normalisation will do: the renderer scales it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from caustics.light.func import brightness_sersic, k_sersic
from torch import Tensor

from zwicky.simulate.galaxies import sample_galaxy
from zwicky.simulate.population import Population

Parameters = Mapping[str, Tensor]
Shape = Callable[[Tensor, Tensor, Parameters], Tensor]

CLUMPS = 4
CORE = 1e-6  # arcsec; keeps the spiral's logarithm finite at the centre


def ellipse(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the axis ratio q and the position angle φ of an ellipticity."""
    e = torch.hypot(e1, e2)
    return (1 - e) / (1 + e), torch.atan2(e2, e1) / 2


def elliptical_polar(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the circularised radius √(q x'² + y'²/q) and the angle in the plane of a disc with that ellipticity."""
    q, phi = ellipse(e1, e2)
    along = (x - x0) * torch.cos(phi) + (y - y0) * torch.sin(phi)
    across = (y - y0) * torch.cos(phi) - (x - x0) * torch.sin(phi)
    u, v = along * q.sqrt(), across / q.sqrt()
    return torch.hypot(u, v), torch.atan2(v, u)


def sersic(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, e1: Tensor, e2: Tensor, R: Tensor, n: Tensor) -> Tensor:
    """Return the Sérsic profile exp(-b_n ((r/R)^(1/n) - 1)), 1 at the half-light radius R.

    Eq. 1 of Graham & Driver (2005), arXiv:astro-ph/0503176; b_n by Ciotti & Bertin (1999), arXiv:astro-ph/9911078.
    """
    q, phi = ellipse(e1, e2)
    return brightness_sersic(x0, y0, q, phi, n, R / q.sqrt(), 1.0, x, y, k_sersic(n))


def sersic_flux(R: Tensor, n: Tensor) -> Tensor:
    """Return the integral of `sersic` over the plane, arcsec²: 2π n R² e^b b^(-2n) Γ(2n)."""
    b = k_sersic(n)
    return 2 * torch.pi * n * R**2 * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def _galaxy(x, y, p: Parameters, prefix: str, flux: Tensor, center, n: Tensor | float, ellipticity=None) -> Tensor:
    """Return a Sérsic galaxy of this flux at `PREFIX_distance` and `PREFIX_angle` from `center`.

    Its half-light radius is `PREFIX_R`, its ellipticity (`PREFIX_e1`, `PREFIX_e2`) unless another is given.
    """
    r, angle, R = (p[f"{prefix}_{name}"] for name in ("distance", "angle", "R"))
    x0, y0, n = center[0] + r * torch.cos(angle), center[1] + r * torch.sin(angle), 0 * R + n
    e1, e2 = ellipticity or (p[f"{prefix}_e1"], p[f"{prefix}_e2"])
    return flux / sersic_flux(R, n) * sersic(x, y, x0, y0, e1, e2, R, n)


def sersic_lens(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Return the light of the lens galaxy, a Sérsic ellipse."""
    return sersic(x, y, p["lens_x"], p["lens_y"], p["lens_e1"], p["lens_e2"], p["lens_R"], p["lens_n"])


def double_nucleus(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Return the lens galaxy with a second nucleus of the same colour: a merger."""
    light, center = sersic_lens(x, y, p) / sersic_flux(p["lens_R"], p["lens_n"]), (p["lens_x"], p["lens_y"])
    turned = (p["lens_e2"], p["lens_e1"])
    return light + _galaxy(x, y, p, "second", p["second_weight"], center, p["lens_n"], turned)


def real_lens(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Return the light of a real galaxy in place of the lens galaxy."""
    return sample_galaxy("lens", x - p["lens_x"], y - p["lens_y"], p)


def spiral_arms(x: Tensor, y: Tensor, p: Parameters, arms: int = 2) -> Tensor:
    """Return logarithmic arms around the lens galaxy, one side of the disc brighter; one arm is a tidal tail.

    Arm k is at r = R exp(±(angle - phase - 2πk/arms) tan pitch); across it the light is a von Mises profile, on a disc
    with a hole, ((r/R) exp(1 - r/R))^4, 1 on the arms at r = R.
    """
    r, angle = elliptical_polar(x, y, p["lens_x"], p["lens_y"], p["disc_e1"], p["disc_e2"])
    R = p["arm_radius"]
    ridge = p["arm_angle"] + p["arm_sense"] * torch.log(r.clamp(min=CORE) / R) / torch.tan(p["arm_pitch"])
    disc = (r / R * torch.exp(1 - r / R)) ** 4
    light = disc * torch.exp(p["arm_sharpness"] * (torch.cos(arms * (angle - ridge)) - 1))
    return light * torch.exp(p["lopsided"] * torch.cos(angle - p["lopsided_angle"]))


def ring(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Return a Gaussian ring around the lens galaxy, brighter on one side, as a collision or a bar leaves it."""
    r, angle = elliptical_polar(x, y, p["lens_x"], p["lens_y"], p["ring_e1"], p["ring_e2"])
    knots = p["ring_knots"] * torch.cos(angle - p["ring_angle"])
    return torch.exp(-0.5 * ((r - p["radius"]) / p["ring_width"]) ** 2 + knots)


def companions(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Return one to three exponential discs near the lens galaxy."""
    center, light = (p["lens_x"], p["lens_y"]), torch.zeros_like(x)
    for k in (1, 2, 3):
        flux = p[f"companion{k}_weight"] * (p["companions"] >= k)
        light = light + _galaxy(x, y, p, f"companion{k}", flux, center, 1.0)
    return light


def field_galaxies(x: Tensor, y: Tensor, p: Parameters, colour: str, n: float) -> Tensor:
    """Return two unrelated galaxies of Sérsic index n anywhere in the image; `colour` is "red" or "blue"."""
    first, second = (_galaxy(x, y, p, name, p[f"{name}_weight"], (0, 0), n) for name in (f"{colour}1", f"{colour}2"))
    return first + second


def sersic_source(u: Tensor, v: Tensor, p: Parameters, clumps: int = 0) -> Tensor:
    """Return a Sérsic ellipse and round exponential clumps; a clump's weight is its flux over the ellipse's."""
    x0, y0 = p["lens_x"] + p["source_dx"], p["lens_y"] + p["source_dy"]
    light = sersic(u, v, x0, y0, p["source_e1"], p["source_e2"], p["source_R"], p["source_n"])
    flux = sersic_flux(p["source_R"], p["source_n"])
    round_ = (torch.zeros_like(flux),) * 2
    for prefix in (f"clump{k}" for k in range(1, clumps + 1)):
        light = light + _galaxy(u, v, p, prefix, p[f"{prefix}_weight"] * flux, (x0, y0), 1.0, round_)
    return light


def source_flux(p: Parameters, clumps: int = 0) -> Tensor:
    """Return the integral of `sersic_source`, arcsec²."""
    return sersic_flux(p["source_R"], p["source_n"]) * (1 + sum(p[f"clump{k}_weight"] for k in range(1, clumps + 1)))


def real_source(u: Tensor, v: Tensor, p: Parameters) -> Tensor:
    """Return a real galaxy at (source_dx, source_dy) from the lens."""
    return sample_galaxy("source", u - p["lens_x"] - p["source_dx"], v - p["lens_y"] - p["source_dy"], p)


LAYERS: dict[str, Shape] = {
    "sersic_lens": sersic_lens,
    "double_nucleus": double_nucleus,
    "real_lens": real_lens,
    "spiral_arms": spiral_arms,
    "tidal_tail": partial(spiral_arms, arms=1),
    "ring": ring,
    "companions": companions,
    "red_field": partial(field_galaxies, colour="red", n=2.5),
    "blue_field": partial(field_galaxies, colour="blue", n=1.0),
}

SOURCES: dict[str, tuple[Shape, Callable[[Parameters], Tensor]]] = {
    "sersic_source": (sersic_source, source_flux),
    "clumpy_source": (partial(sersic_source, clumps=CLUMPS), partial(source_flux, clumps=CLUMPS)),
    "real_source": (real_source, lambda p: torch.ones_like(p["source_zoom"])),
}


def has_source(population: Population) -> bool:
    """Return whether any class of a population shows a source, whose magnification is part of the truth."""
    return any(shape in SOURCES for one in population.classes.values() for shape in one.layers.values())
