"""One block of parameters to noiseless images.

Light is sampled on a grid twice as fine as the pixels and a margin wider than the stamp, scaled to its magnitudes,
convolved there with each band's point spread function, and only then averaged into pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zwicky.simulate.components import sersic_flux
from zwicky.simulate.draw import Drawn
from zwicky.simulate.layers import LAYERS
from zwicky.simulate.noise import nanomaggies
from zwicky.simulate.population import Population
from zwicky.simulate.psf import moffat_transfer

SUPERSAMPLING = 2
MARGIN = 8  # pixels around the stamp whose light the point spread function scatters into it


def grid(size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Positions x, y [1, size, size] arcsec of the centres of a grid's cells, 0 in its middle, y along the rows."""
    axis = (torch.arange(size) - (size - 1) / 2) * scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x[None], y[None]


def render_block(population: Population, drawn: Drawn) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noiseless layers [n, layers, bands, size, size] float32 in nanomaggies, and what only the rendering tells.

    The latter is `magnification` (total, within the frame) and `source_mag_BAND` (unlensed), NaN without a source.
    """
    instrument = population.instrument
    fine = (population.size + 2 * MARGIN) * SUPERSAMPLING
    scale = instrument.pixel_scale / SUPERSAMPLING
    shapes, sums = _shapes(population, drawn, fine, scale)
    spectra = torch.fft.rfft2(shapes)  # [n, layers, fine, fine//2+1]
    bands = []
    for band in instrument.bands:
        transfer = moffat_transfer(_tensor(band.fwhm * drawn.values["seeing"]), fine, scale)
        light = torch.fft.irfft2(spectra * transfer[:, None], s=(fine, fine))
        pixels = torch.nn.functional.avg_pool2d(light, SUPERSAMPLING, divisor_override=1)  # the sum, not the mean
        flux = np.stack([nanomaggies(drawn.values[f"{layer}_mag_{band.name}"]) for layer in population.light], 1)
        bands.append(pixels[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] * _tensor(flux)[:, :, None, None])
    return torch.stack(bands, 2).numpy(), _lensing_truth(population, drawn, sums * scale**2)


def _shapes(population: Population, drawn: Drawn, size: int, scale: float) -> tuple[Tensor, np.ndarray]:
    """Each layer's light [n, layers, size, size], summing to 1 over the frame; and the sums before, [n, layers]."""
    x, y = grid(size, scale)
    shapes = torch.empty(len(drawn.kinds), len(population.light), size, size)
    for name, kind in population.kinds.items():
        rows = np.flatnonzero(drawn.kinds == name)
        if len(rows) == 0:
            continue
        parameters = {key: _tensor(values[rows])[:, None, None] for key, values in drawn.values.items()}
        for position, layer in enumerate(population.light):
            shapes[torch.from_numpy(rows), position] = LAYERS[kind.layers[layer]](x, y, parameters)
    sums = shapes.sum((2, 3), keepdim=True)
    return shapes / sums, sums[:, :, 0, 0].double().numpy()


def _lensing_truth(population: Population, drawn: Drawn, integrals: np.ndarray) -> dict[str, np.ndarray]:
    """Magnification = lensed over unlensed light; the unlensed source is fainter by 2.5 log10 of it."""
    if "source_R" not in drawn.values:
        return {}
    unlensed = sersic_flux(_tensor(drawn.values["source_R"]), _tensor(drawn.values["source_n"])).double().numpy()
    magnification = integrals[:, list(population.light).index("arc")] / unlensed  # NaN without a source
    truth = {"magnification": magnification}
    for band in population.instrument.band_names:
        truth[f"source_mag_{band}"] = drawn.values[f"arc_mag_{band}"] + 2.5 * np.log10(magnification)
    return truth


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
