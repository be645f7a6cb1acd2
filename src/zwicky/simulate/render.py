"""One block of parameters to noiseless images.

Light is sampled on a grid finer than the pixels and a margin wider than the stamp, scaled to its magnitudes, convolved
there with each band's point spread function, and only then summed into pixels. A CPU does a few images at a time, so
that what is being worked on stays in its cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zwicky.errors import UserError
from zwicky.simulate.deflection import shoot
from zwicky.simulate.draw import Drawn
from zwicky.simulate.galaxies import chosen_galaxies
from zwicky.simulate.layers import LAYERS, SOURCES, Parameters
from zwicky.simulate.noise import nanomaggies
from zwicky.simulate.population import Kind, Population
from zwicky.simulate.psf import transfer

MARGIN = 8  # pixels around the stamp whose light the point spread function scatters into it
CELLS = 2**18  # of the fine grid, worked on at a time by a CPU …
CELLS_ELSEWHERE = 2**24  # … and by another device
CPU = torch.device("cpu")


def fine_size(population: Population) -> int:
    """Cells a side of the fine grid: the stamp and its margin."""
    return (population.size + 2 * MARGIN) * population.supersampling


def grid(size: int, scale: float, where: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Positions x, y [1, size, size] arcsec of the centres of a grid's cells, 0 in its middle, y along the rows."""
    axis = (torch.arange(size, device=where) - (size - 1) / 2) * scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x[None], y[None]


@dataclass(frozen=True)
class Shapes:
    """Light of some images of one kind on the fine grid, before its magnitudes.

    cells: [n, layers, size, size]; a layer sums to 1, or to its magnification where its magnitudes are unlensed ones.
    magnification: [n, layers], total, within the frame; NaN for what is not a source.
    """

    cells: Tensor
    magnification: Tensor


def render_block(
    population: Population, drawn: Drawn, where: torch.device = CPU
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noiseless layers [n, layers, bands, size, size] float32 in nanomaggies, and what only the rendering tells.

    The latter is `magnification` (total, within the frame) and the magnitudes that follow from it: `source_mag_BAND`,
    unlensed, or `arc_mag_BAND` where the unlensed ones were drawn. NaN without a source.
    """
    n, layers, bands, size = len(drawn.kinds), len(population.light), population.instrument.bands, population.size
    images = np.empty((n, layers, len(bands), size, size), np.float32)
    magnification = np.full((n, layers), np.nan)
    fine = fine_size(population)
    cell = population.instrument.pixel_scale / population.supersampling
    x, y = grid(fine, cell, where)
    step = max(1, (CELLS if where.type == "cpu" else CELLS_ELSEWHERE) // fine**2)
    for name, kind in population.kinds.items():
        of_kind = np.flatnonzero(drawn.kinds == name)
        for start in range(0, len(of_kind), step):
            rows = of_kind[start : start + step]
            p = parameters_of(drawn, rows, where)
            values = {name: one[rows] for name, one in drawn.values.items()}
            p.update(chosen_galaxies(population.galaxies, values, where))
            shapes = shapes_of(population, kind, x, y, cell, p)
            magnification[rows] = shapes.magnification.cpu().numpy()
            images[rows] = observe(population, shapes.cells, drawn, rows).cpu().numpy()
    return images, _lensing_truth(population, drawn, magnification)


class _Known(dict[str, Tensor]):
    """Parameters by name; one that a shape needs and nobody declared is the user's to mend."""

    def __missing__(self, name: str) -> Tensor:
        raise UserError(f"a shape or deflector needs the parameter {name!r}, which the population lacks; declare it")


def parameters_of(drawn: Drawn, rows: np.ndarray, where: torch.device = CPU) -> dict[str, Tensor]:
    """The parameters of these images, [n, 1, 1] each, and of their subhalos, [n, S, 1, 1]."""
    values = drawn.values | drawn.lists
    return _Known({name: _tensor(one[rows], where)[..., None, None] for name, one in values.items()})


def shapes_of(population: Population, kind: Kind, x: Tensor, y: Tensor, cell: float, p: Parameters) -> Shapes:
    """The light of images of one kind on the grid x, y, whose cells are `cell` arcsec wide."""
    n = len(next(iter(p.values())))
    cells = torch.empty(n, len(population.light), *x.shape[1:], device=x.device)
    magnification = torch.full((n, len(population.light)), torch.nan, device=x.device)
    u, v = shoot(x, y, kind.deflectors, p)
    for position, (name, light) in enumerate(population.light.items()):
        shape = kind.layers[name]
        if shape not in SOURCES:
            cells[:, position] = LAYERS[shape](x, y, p)
            cells[:, position] /= cells[:, position].sum((1, 2), keepdim=True)
            continue
        source, integral = SOURCES[shape]
        cells[:, position] = source(u, v, p) * (cell**2 / integral(p))
        factor = cells[:, position].sum((1, 2))
        magnification[:, position] = factor
        if not light.unlensed:
            cells[:, position] /= factor[:, None, None]
    return Shapes(cells, magnification)


def observe(population: Population, cells: Tensor, drawn: Drawn, rows: np.ndarray) -> Tensor:
    """Images [n, layers, bands, size, size] of light on the fine grid [n, layers, fine, fine], in nanomaggies."""
    fine, where = cells.shape[-1], cells.device
    scale = population.instrument.pixel_scale / population.supersampling
    spectra = torch.fft.rfft2(cells)  # [n, layers, fine, fine//2+1]
    bands = []
    for band in population.instrument.bands:
        fwhm = _tensor(band.fwhm * drawn.values["seeing"][rows], where)
        light = torch.fft.irfft2(spectra * transfer(band.psf, fwhm, fine, scale)[:, None], s=(fine, fine))
        pixels = torch.nn.functional.avg_pool2d(light, population.supersampling, divisor_override=1)  # sums
        named = [light.columns(layer)[band.name] for layer, light in population.light.items()]
        flux = np.stack([nanomaggies(drawn.values[name][rows]) for name in named], 1)
        bands.append(pixels[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] * _tensor(flux, where)[:, :, None, None])
    return torch.stack(bands, 2)


def _lensing_truth(population: Population, drawn: Drawn, magnification: np.ndarray) -> dict[str, np.ndarray]:
    """The unlensed source is fainter than what is observed by 2.5 log10 of the magnification."""
    if not any(shape in SOURCES for kind in population.kinds.values() for shape in kind.layers.values()):
        return {}
    layer = list(population.light).index("arc")
    truth = {"magnification": magnification[:, layer]}
    fainter = 2.5 * np.log10(truth["magnification"])
    for band in population.instrument.band_names:
        if population.light["arc"].unlensed:
            truth[f"arc_mag_{band}"] = drawn.values[f"source_mag_{band}"] - fainter
        else:
            truth[f"source_mag_{band}"] = drawn.values[f"arc_mag_{band}"] + fainter
    return truth


def _tensor(values: np.ndarray, where: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(where)
