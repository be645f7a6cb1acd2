"""Lensed light and whole images against lenstronomy, which shares no code with caustics or with us.

lenstronomy computes in float64, we in float32.
"""

import numpy as np
import pytest
import torch
from caustics.light.func import k_sersic
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from zwicky.simulate.instruments import gaussian, kernel_transfer
from zwicky.simulate.lensing import ray_trace
from zwicky.simulate.light import CLUMPS, SOURCES
from zwicky.simulate.render import grid

SIZE, SCALE = 48, 0.12
MACRO_RANGES = {
    **dict.fromkeys(("lens_x", "lens_y"), (-0.5, 0.5)),
    **dict.fromkeys(("mass_e1", "mass_e2"), (-0.22, 0.22)),
    **dict.fromkeys(("gamma1", "gamma2"), (-0.12, 0.12)),
    **dict.fromkeys(("sheet_kappa", "sis_theta_E"), (-0.1, -0.001)),
    "theta_E": (0.5, 2.5),
    "slope": (1.7, 2.3),
    "vortex_theta_E": (0.1, 0.4),
    "vortex_angle": (0.0, 3.1),
    "vortex_half_length": (0.03, 3.0),
}
SOURCE_RANGES = {
    **dict.fromkeys(("source_dx", "source_dy"), (-0.8, 0.8)),
    **dict.fromkeys(("source_e1", "source_e2"), (-0.3, 0.3)),
    "source_R": (0.1, 0.4),
    "source_n": (0.7, 2.0),
}
MACRO = st.fixed_dictionaries({name: st.floats(*span) for name, span in MACRO_RANGES.items()})
SOURCE = st.fixed_dictionaries({name: st.floats(*span) for name, span in SOURCE_RANGES.items()})
CLUMP = st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 6.2), st.floats(0.05, 0.2), st.floats(0.02, 0.4))
# position, Einstein radius of a point of its mass, log10 of Rs, log10 of tau
SUBHALO = st.tuples(*(st.floats(*span) for span in ((-2.5, 2.5), (-2.5, 2.5), (0.005, 0.2), (-2.0, 0.0), (-0.5, 1.5))))
SUBHALOS = st.lists(SUBHALO, min_size=1, max_size=12)


def tensors(parameters, subhalos=()):
    """Our form of one image's parameters; two NaN pad it, as if other images had more subhalos."""
    p = {name: torch.full((1, 1, 1), value) for name, value in parameters.items()}
    if len(subhalos):
        x, y, theta_E, log_Rs, log_tau = np.array([*subhalos, [np.nan] * 5, [np.nan] * 5]).T
        columns = {"x": x, "y": y, "theta_E": theta_E, "Rs": 10**log_Rs, "tau": 10**log_tau}
        p |= {f"subhalo_{name}": torch.tensor(values).float()[None, :, None, None] for name, values in columns.items()}
    return p


def lens_list(deflectors, p, subhalos):
    """lenstronomy's models and parameters of our deflectors."""
    centre = {"center_x": p["lens_x"], "center_y": p["lens_y"]}
    ellipse = {"theta_E": p["theta_E"], "e1": p["mass_e1"], "e2": p["mass_e2"], **centre}
    smooth = {
        "sie": ("SIE", ellipse),
        "epl": ("EPL", ellipse | {"gamma": p["slope"]}),
        "shear": ("SHEAR", {"gamma1": p["gamma1"], "gamma2": p["gamma2"], "ra_0": p["lens_x"], "dec_0": p["lens_y"]}),
        "mass_sheet": ("CONVERGENCE", {"kappa": p["sheet_kappa"], "ra_0": p["lens_x"], "dec_0": p["lens_y"]}),
        "sis": ("SIS", {"theta_E": p["sis_theta_E"], **centre}),
    }
    models = []
    for name in deflectors:
        if name == "vortex":
            along = np.linspace(-p["vortex_half_length"], p["vortex_half_length"], 100)
            x, y = (p["lens_x"] + along * np.cos(p["vortex_angle"]), p["lens_y"] + along * np.sin(p["vortex_angle"]))
            point = {"theta_E": p["vortex_theta_E"] / 10}
            models += [("POINT_MASS", {**point, "center_x": u, "center_y": v}) for u, v in zip(x, y, strict=True)]
        else:
            models += [smooth[name]] if name in smooth else [one(name, *subhalo) for subhalo in subhalos]
    return [name for name, _ in models], [values for _, values in models]


def one(name, x, y, theta_E, log_Rs, log_tau):
    """One subhalo in lenstronomy. A TNFW halo of total mass m has α(r) = θ_E² m(r)/m / r (Baltz et al. 2009, A.4)."""
    centre = {"center_x": x, "center_y": y}
    if name in ("point_subhalos", "sis_subhalos"):
        return {"point_subhalos": "POINT_MASS", "sis_subhalos": "SIS"}[name], {"theta_E": theta_E, **centre}
    Rs, tau = 10**log_Rs, 10**log_tau
    total = tau**2 / (tau**2 + 1) ** 2 * ((tau**2 - 1) * np.log(tau) + tau * np.pi - (tau**2 + 1))
    # lenstronomy's amplitude is the deflection at Rs of an untruncated halo: there m(Rs) = M0 (1 - ln 2)
    at_Rs = theta_E**2 / total * (1 - np.log(2)) / Rs
    return "TNFW", {"Rs": Rs, "alpha_Rs": at_Rs, "r_trunc": tau * Rs, **centre}


def lenstronomy_sersic(x0, y0, e1, e2, R, n, flux=1.0):
    """lenstronomy rounds b_n to 1.9992 n - 0.3271; another R and another amplitude undo the difference."""
    b, reference = float(k_sersic(torch.tensor(n, dtype=torch.float64))), 1.9992 * n - 0.3271
    profile = {"amp": flux * np.exp(b - reference), "R_sersic": R * (reference / b) ** n, "n_sersic": n}
    return profile | {"e1": e1, "e2": e2, "center_x": x0, "center_y": y0}


def reference_source(p, clumps=()):
    x0, y0 = p["lens_x"] + p["source_dx"], p["lens_y"] + p["source_dy"]
    profiles = [lenstronomy_sersic(x0, y0, p["source_e1"], p["source_e2"], p["source_R"], p["source_n"])]
    for r, angle, R, weight in clumps:
        flux = weight * sersic_integral(p["source_R"], p["source_n"]) / sersic_integral(R, 1.0)
        profiles.append(lenstronomy_sersic(x0 + r * np.cos(angle), y0 + r * np.sin(angle), 0.0, 0.0, R, 1.0, flux))
    return LightModel(["SERSIC_ELLIPSE"] * len(profiles)), profiles


def sersic_integral(R, n):
    """By quadrature over the radius; R is the half-light radius, so b_n is as in `lenstronomy_sersic`."""
    b = float(k_sersic(torch.tensor(n, dtype=torch.float64)))
    r = R * np.linspace(0, 80, 400001)
    return np.trapezoid(2 * np.pi * r * np.exp(-b * ((r / R) ** (1 / n) - 1)), r)


COMBINATIONS = [
    ("sie", "shear"),
    ("epl", "shear"),
    ("sie", "shear", "point_subhalos"),
    ("sie", "shear", "sis_subhalos", "mass_sheet"),
    ("epl", "shear", "tnfw_subhalos", "mass_sheet"),
    ("epl", "shear", "vortex", "sis"),
]


X, Y = grid(SIZE, SCALE)
GRID = (X[0].double().numpy(), Y[0].double().numpy())
QUICK = settings(max_examples=10, derandomize=True)


@pytest.mark.parametrize("deflectors", COMBINATIONS, ids="+".join)
@QUICK
@given(macro=MACRO, subhalos=SUBHALOS)
def test_ray_tracing(deflectors, macro, subhalos):
    """Positions in the source plane, arcsec; a pixel on a point mass is traced far away, where no source is."""
    ours = ray_trace(X, Y, deflectors, tensors(macro, subhalos))
    models, values = lens_list(deflectors, macro, subhalos)
    reference = LensModel(models).ray_shooting(*GRID, values)
    error = np.hypot(*(u[0].numpy() - v for u, v in zip(ours, reference, strict=True)))
    assert error[np.hypot(*reference) < 3].max() < 2e-4


@QUICK
@given(MACRO, SOURCE, st.just([]) | st.lists(CLUMP, min_size=CLUMPS, max_size=CLUMPS))
def test_sources(macro, source, clumps):
    p = tensors(macro | source)
    for k, (distance, angle, R, weight) in enumerate(clumps, 1):
        clump = {"distance": distance, "angle": angle, "R": R, "weight": weight}
        p |= tensors({f"clump{k}_{name}": value for name, value in clump.items()})
    ours = SOURCES["clumpy_source" if clumps else "sersic_source"][0](X, Y, p)[0].numpy()
    light, profiles = reference_source(macro | source, clumps)
    reference = light.surface_brightness(*GRID, profiles)
    assert np.abs(ours - reference).max() < 5e-6 * reference.max()


KERNEL = np.exp(-0.5 * (np.hypot(np.mgrid[-9:10, -9:10][0] * SCALE - 0.05, 1.3 * np.arange(-9, 10) * SCALE) / 0.2) ** 2)
KERNEL[:, :9] *= 1.2  # neither round nor centred
SPREADS = {
    "gaussian": (gaussian(torch.tensor(0.35), SIZE, SCALE), PSF("GAUSSIAN", fwhm=0.35, pixel_size=SCALE, truncation=8)),
    "given": (kernel_transfer(KERNEL, SIZE), PSF("PIXEL", kernel_point_source=KERNEL / KERNEL.sum())),
}


@pytest.mark.parametrize("psf", SPREADS)
@pytest.mark.parametrize("deflectors", [COMBINATIONS[0], COMBINATIONS[4]], ids="+".join)
@settings(max_examples=6, derandomize=True)
@given(macro=MACRO, source=SOURCE, subhalos=SUBHALOS)
def test_the_convolved_image(psf, deflectors, macro, source, subhalos):
    """A whole image as lenstronomy's ImageModel makes it; far from the edge, where light from beyond is missing.

    The 2e-4 arcsec of `test_ray_tracing` are up to a thousandth of the smallest source's radius.
    """
    transfer, spread = SPREADS[psf]
    p = tensors(macro | source, subhalos)
    light = SOURCES["sersic_source"][0](*ray_trace(X, Y, deflectors, p), p)
    ours = torch.fft.irfft2(torch.fft.rfft2(light[0]) * transfer, s=(SIZE, SIZE)).numpy() * SCALE**2
    corner = -(SIZE - 1) / 2 * SCALE
    pixels = {"ra_at_xy_0": corner, "dec_at_xy_0": corner, "transform_pix2angle": np.eye(2) * SCALE}
    models, values = lens_list(deflectors, macro, subhalos)
    model, profiles = reference_source(macro | source)
    data = ImageData(np.zeros((SIZE, SIZE)), **pixels)
    reference = ImageModel(data, spread, LensModel(models), model).image(values, profiles)
    assert np.abs(ours - reference)[8:-8, 8:-8].max() < 5e-4 * max(reference.max(), SCALE**2)
