"""From the parameters of a kind to one layer of light: the shapes that populations name.

Each takes positions [n, H, W] and the block's parameters, [n, 1, 1] each, and gives a surface brightness [n, H, W] of
any normalisation: the renderer scales it to the wanted magnitudes. `LAYERS` are seen as they are, at image-plane
positions. `SOURCES` are seen through the deflectors of their kind: they are given source-plane positions, and come
with their integral over the plane, from which magnifications follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zwicky.simulate.components import elliptical_polar, ring, sersic, sersic_flux, spiral
from zwicky.simulate.galaxies import show

Parameters = Mapping[str, Tensor]
CLUMPS = 4


def galaxy(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """The red galaxy alone: a Sérsic ellipse."""
    return sersic(x, y, p["lens_x"], p["lens_y"], p["lens_e1"], p["lens_e2"], p["lens_R"], p["lens_n"])


def sersic_source(u: Tensor, v: Tensor, p: Parameters) -> Tensor:
    """A Sérsic ellipse, placed from the lens."""
    x0, y0 = p["lens_x"] + p["source_dx"], p["lens_y"] + p["source_dy"]
    return sersic(u, v, x0, y0, p["source_e1"], p["source_e2"], p["source_R"], p["source_n"])


def sersic_source_flux(p: Parameters) -> Tensor:
    """Integral of `sersic_source`, arcsec²."""
    return sersic_flux(p["source_R"], p["source_n"])


def clumpy_source(u: Tensor, v: Tensor, p: Parameters) -> Tensor:
    """A Sérsic ellipse with round exponential clumps on it; the weight of a clump is its flux over the ellipse's."""
    total = sersic_source(u, v, p)
    flux = sersic_source_flux(p)
    for k in range(1, CLUMPS + 1):
        r, angle, R = p[f"clump{k}_distance"], p[f"clump{k}_angle"], p[f"clump{k}_R"]
        x0 = p["lens_x"] + p["source_dx"] + r * torch.cos(angle)
        y0 = p["lens_y"] + p["source_dy"] + r * torch.sin(angle)
        zero, one = torch.zeros_like(R), torch.ones_like(R)
        weight = p[f"clump{k}_weight"] * flux / sersic_flux(R, one)
        total = total + weight * sersic(u, v, x0, y0, zero, zero, R, one)
    return total


def clumpy_source_flux(p: Parameters) -> Tensor:
    """Integral of `clumpy_source`, arcsec²."""
    return sersic_source_flux(p) * (1 + sum(p[f"clump{k}_weight"] for k in range(1, CLUMPS + 1)))


def real_source(u: Tensor, v: Tensor, p: Parameters) -> Tensor:
    """A real galaxy, placed from the lens."""
    return show("source", u - p["lens_x"] - p["source_dx"], v - p["lens_y"] - p["source_dy"], p)


def real_source_flux(p: Parameters) -> Tensor:
    """Integral of `real_source`: 1."""
    return torch.ones_like(p["source_zoom"])


def real_lens(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """A real galaxy in place of the red one."""
    return show("lens", x - p["lens_x"], y - p["lens_y"], p)


def two_arm_spiral(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Two blue arms around the red galaxy."""
    return _arms(x, y, p, 2)


def tidal_tail(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """One blue arm: the tail of a merger."""
    return _arms(x, y, p, 1)


def _arms(x: Tensor, y: Tensor, p: Parameters, arms: int) -> Tensor:
    r, angle = elliptical_polar(x, y, p["lens_x"], p["lens_y"], p["disc_e1"], p["disc_e2"])
    light = spiral(r, angle, arms, p["arm_radius"], p["arm_angle"], p["arm_pitch"], p["arm_sense"], p["arm_sharpness"])
    return light * torch.exp(p["lopsided"] * torch.cos(angle - p["lopsided_angle"]))


def blue_ring(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """A blue ring around the red galaxy, as a collision or a bar leaves it."""
    r, angle = elliptical_polar(x, y, p["lens_x"], p["lens_y"], p["ring_e1"], p["ring_e2"])
    return ring(r, angle, p["radius"], p["ring_width"], p["ring_knots"], p["ring_angle"])


def companions(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """One to three blue exponential discs near the red galaxy."""
    total = torch.zeros_like(x + p["lens_x"])
    for k in (1, 2, 3):
        own = {name: p[f"companion{k}_{name}"] for name in ("distance", "angle", "weight", "R", "e1", "e2")}
        x0 = p["lens_x"] + own["distance"] * torch.cos(own["angle"])
        y0 = p["lens_y"] + own["distance"] * torch.sin(own["angle"])
        n = torch.ones_like(x0)
        weight = own["weight"] * (p["companions"] >= k) / sersic_flux(own["R"], n)
        total = total + weight * sersic(x, y, x0, y0, own["e1"], own["e2"], own["R"], n)
    return total


def red_field(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Two unrelated red galaxies anywhere in the frame."""
    return _neighbours(x, y, p, "red", 2.5)


def blue_field(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """Two unrelated blue galaxies anywhere in the frame."""
    return _neighbours(x, y, p, "blue", 1.0)


def _neighbours(x: Tensor, y: Tensor, p: Parameters, colour: str, index: float) -> Tensor:
    total = torch.zeros_like(x + p["lens_x"])
    for k in (1, 2):
        own = {name: p[f"{colour}{k}_{name}"] for name in ("distance", "angle", "weight", "R", "e1", "e2")}
        x0, y0 = own["distance"] * torch.cos(own["angle"]), own["distance"] * torch.sin(own["angle"])
        n = torch.full_like(x0, index)
        total = total + own["weight"] / sersic_flux(own["R"], n) * sersic(
            x, y, x0, y0, own["e1"], own["e2"], own["R"], n
        )
    return total


def pair(x: Tensor, y: Tensor, p: Parameters) -> Tensor:
    """The red galaxy and a second red nucleus, in one light of the same colour."""
    x0 = p["lens_x"] + p["second_distance"] * torch.cos(p["second_angle"])
    y0 = p["lens_y"] + p["second_distance"] * torch.sin(p["second_angle"])
    second = sersic(x, y, x0, y0, p["lens_e2"], p["lens_e1"], p["second_R"], p["lens_n"])
    weight = p["second_weight"] / sersic_flux(p["second_R"], p["lens_n"])
    return galaxy(x, y, p) / sersic_flux(p["lens_R"], p["lens_n"]) + weight * second


LAYERS: dict[str, Callable[[Tensor, Tensor, Parameters], Tensor]] = {
    "galaxy": galaxy,
    "pair": pair,
    "real_lens": real_lens,
    "spiral": two_arm_spiral,
    "tail": tidal_tail,
    "ring": blue_ring,
    "companions": companions,
    "red_field": red_field,
    "blue_field": blue_field,
}

# shape and integral of each source
SOURCES: dict[str, tuple[Callable[[Tensor, Tensor, Parameters], Tensor], Callable[[Parameters], Tensor]]] = {
    "sersic_source": (sersic_source, sersic_source_flux),
    "clumpy_source": (clumpy_source, clumpy_source_flux),
    "real_source": (real_source, real_source_flux),
}
