"""`demo-lenses`: galaxy-galaxy lenses and their look-alikes as a ground-based survey sees them.

Each image has two layers of light: a red galaxy in the middle ("lens") and blue light around it ("arc"). Their
observed magnitudes and colours are drawn alike for all kinds, and one radius distribution sets θ_E, the rings, the arms
and the distances of companions. Only the shape of the blue light tells a lens; flux, colour and place do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi

from zwicky.simulate.distributions import Around, Choice, Normal, Times, Uniform
from zwicky.simulate.instruments import CFHTLS_WIDE
from zwicky.simulate.population import Kind, Light, Parameter, Population

ELLIPTICITY = Normal(0.0, 0.12, -0.35, 0.35)
ANGLE = Uniform(0.0, 2 * pi)

COMMON: Mapping[str, Parameter] = {
    "seeing": Parameter(Normal(1.0, 0.1, 0.8, 1.3), "", "width of the point spread function over its median"),
    "lens_x": Parameter(Normal(0.0, 0.08, -0.25, 0.25), "arcsec", "centre of the red galaxy, along the last axis"),
    "lens_y": Parameter(Normal(0.0, 0.08, -0.25, 0.25), "arcsec", "centre of the red galaxy, along the rows"),
    "lens_R": Parameter(Normal(0.65, 0.2, 0.3, 1.3), "arcsec", "half-light radius of the red galaxy, circularised"),
    "lens_n": Parameter(Normal(3.5, 0.8, 1.5, 5.5), "", "Sérsic index of the red galaxy"),
    "lens_e1": Parameter(ELLIPTICITY, "", "ellipticity of the red galaxy, (1-q)/(1+q) cos 2φ"),
    "lens_e2": Parameter(ELLIPTICITY, "", "ellipticity of the red galaxy, (1-q)/(1+q) sin 2φ"),
    "radius": Parameter(Normal(1.55, 0.45, 0.75, 2.5), "arcsec", "θ_E, or the radius of what looks like an arc"),
}

LENS: Mapping[str, Parameter] = {
    "theta_E": Parameter(Times("radius", Uniform(1.0, 1.0)), "arcsec", "Einstein radius of the SIE, circularised"),
    "mass_e1": Parameter(Around("lens_e1", Normal(0.0, 0.05)), "", "ellipticity of the mass"),
    "mass_e2": Parameter(Around("lens_e2", Normal(0.0, 0.05)), "", "ellipticity of the mass"),
    "gamma1": Parameter(Normal(0.0, 0.05, -0.15, 0.15), "", "external shear"),
    "gamma2": Parameter(Normal(0.0, 0.05, -0.15, 0.15), "", "external shear"),
    "source_dx": Parameter(Times("theta_E", Normal(0.0, 0.25, -0.6, 0.6)), "arcsec", "source minus lens position"),
    "source_dy": Parameter(Times("theta_E", Normal(0.0, 0.25, -0.6, 0.6)), "arcsec", "source minus lens position"),
    "source_R": Parameter(Normal(0.15, 0.07, 0.06, 0.35), "arcsec", "half-light radius of the unlensed source"),
    "source_n": Parameter(Normal(1.0, 0.25, 0.6, 2.0), "", "Sérsic index of the source"),
    "source_e1": Parameter(Normal(0.0, 0.15, -0.4, 0.4), "", "ellipticity of the source"),
    "source_e2": Parameter(Normal(0.0, 0.15, -0.4, 0.4), "", "ellipticity of the source"),
}

SPIRAL: Mapping[str, Parameter] = {
    "arm_angle": Parameter(ANGLE, "rad", "phase of the arms"),
    "arm_radius": Parameter(Times("radius", Uniform(0.45, 0.8)), "arcsec", "where the arms are brightest"),
    "arm_pitch": Parameter(Uniform(0.2, 0.45), "rad", "pitch angle of the arms"),
    "arm_sense": Parameter(Choice((-1.0, 1.0), (1.0, 1.0)), "", "sense in which the arms wind"),
    "arm_sharpness": Parameter(Uniform(2.0, 6.0), "", "concentration of the arms in angle"),
    "lopsided": Parameter(Uniform(0.0, 2.0), "", "contrast of the disc's brighter side"),
    "lopsided_angle": Parameter(ANGLE, "rad", "direction of the disc's brighter side"),
    "disc_e1": Parameter(Normal(0.0, 0.15, -0.35, 0.35), "", "ellipticity of the disc as seen"),
    "disc_e2": Parameter(Normal(0.0, 0.15, -0.35, 0.35), "", "ellipticity of the disc as seen"),
}

RING: Mapping[str, Parameter] = {
    "ring_width": Parameter(Times("radius", Uniform(0.1, 0.3)), "arcsec", "standard deviation of the ring's profile"),
    "ring_e1": Parameter(Normal(0.0, 0.15, -0.35, 0.35), "", "ellipticity of the ring as seen"),
    "ring_e2": Parameter(Normal(0.0, 0.15, -0.35, 0.35), "", "ellipticity of the ring as seen"),
    "ring_knots": Parameter(Uniform(0.0, 2.0), "", "contrast of the brighter part of the ring"),
    "ring_angle": Parameter(ANGLE, "rad", "where the ring is brightest"),
}

COMPANIONS: Mapping[str, Parameter] = {
    "companions": Parameter(Choice((1.0, 2.0, 3.0), (1.0, 1.5, 1.5)), "", "number of blue companions"),
    **{
        f"companion{k}_{name}": Parameter(distribution, unit, f"companion {k}: {meaning}")
        for k in (1, 2, 3)
        for name, distribution, unit, meaning in (
            ("distance", Times("radius", Uniform(0.7, 1.4)), "arcsec", "distance from the red galaxy"),
            ("angle", ANGLE, "rad", "direction from the red galaxy"),
            ("weight", Uniform(0.3, 1.0), "", "its part of the blue light, before normalisation"),
            ("R", Uniform(0.15, 0.4), "arcsec", "half-light radius"),
            ("e1", Normal(0.0, 0.2, -0.45, 0.45), "", "ellipticity"),
            ("e2", Normal(0.0, 0.2, -0.45, 0.45), "", "ellipticity"),
        )
    },
}

MERGER: Mapping[str, Parameter] = {
    "second_distance": Parameter(Times("radius", Uniform(0.6, 1.2)), "arcsec", "second red nucleus: distance"),
    "second_angle": Parameter(ANGLE, "rad", "second red nucleus: direction"),
    "second_weight": Parameter(Uniform(0.1, 0.6), "", "second red nucleus: its light over the first's"),
    "second_R": Parameter(Uniform(0.2, 0.6), "arcsec", "second red nucleus: half-light radius"),
    "arm_angle": Parameter(ANGLE, "rad", "phase of the tidal tail"),
    "arm_radius": Parameter(Times("radius", Uniform(0.5, 0.8)), "arcsec", "where the tail is brightest"),
    "arm_pitch": Parameter(Uniform(0.3, 0.7), "rad", "pitch angle of the tidal tail"),
    "arm_sense": Parameter(Choice((-1.0, 1.0), (1.0, 1.0)), "", "sense in which the tail winds"),
    "arm_sharpness": Parameter(Uniform(1.0, 3.0), "", "concentration of the tail in angle"),
    "lopsided": Parameter(Uniform(0.0, 1.0), "", "contrast of the tail's brighter side"),
    "lopsided_angle": Parameter(ANGLE, "rad", "direction of the tail's brighter side"),
    "disc_e1": Parameter(Normal(0.0, 0.12, -0.35, 0.35), "", "ellipticity of the tail as seen"),
    "disc_e2": Parameter(Normal(0.0, 0.12, -0.35, 0.35), "", "ellipticity of the tail as seen"),
}

DEMO_LENSES = Population(
    name="demo-lenses",
    about="galaxy-galaxy lenses and look-alikes in g, r, i from the ground, 48 px at 0.187 arcsec; half are lenses",
    instrument=CFHTLS_WIDE,
    size=48,  # a 32 px window can turn by any angle inside it
    common=COMMON,
    light={
        "lens": Light("r", Normal(20.4, 0.6, 19.0, 21.8), {"g": Normal(1.45, 0.15), "i": Normal(-0.75, 0.12)}),
        "arc": Light("r", Normal(22.4, 0.7, 20.8, 24.0), {"g": Normal(0.25, 0.2), "i": Normal(-0.15, 0.15)}),
    },
    kinds={
        "lens": Kind("lens", 0.5, {"lens": "galaxy", "arc": "sersic_source"}, LENS, ("sie", "shear")),
        "elliptical": Kind("nonlens", 0.06, {"lens": "galaxy", "arc": "galaxy"}, {}),
        "spiral": Kind("nonlens", 0.14, {"lens": "galaxy", "arc": "spiral"}, SPIRAL),
        "ring": Kind("nonlens", 0.10, {"lens": "galaxy", "arc": "ring"}, RING),
        "companions": Kind("nonlens", 0.14, {"lens": "galaxy", "arc": "companions"}, COMPANIONS),
        "merger": Kind("nonlens", 0.06, {"lens": "pair", "arc": "tail"}, MERGER),
    },
)
