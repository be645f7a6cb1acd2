"""Noiseless images of one block of parameters, and colour composites.

Light is sampled on a grid finer than the pixels and a margin wider than the image, scaled to its magnitudes, convolved
there with each band's point spread function, and only then summed into pixels. A CPU renders a few images at a time, so
that its working set stays in the cache.
"""

import numpy as np
import torch
from torch import Tensor

from zwicky.errors import UserError
from zwicky.simulate.draw import ParameterBlock
from zwicky.simulate.galaxies import galaxy_tensors
from zwicky.simulate.instruments import nanomaggies, transfer
from zwicky.simulate.lensing import ray_trace
from zwicky.simulate.light import LAYERS, SOURCES, Parameters, has_source
from zwicky.simulate.population import CHANNELS, Composite, ObjectClass, Population

MARGIN = 8  # pixels around the image whose light the point spread function scatters into it, at least …
MARGIN_FWHM = 4 / 3  # … and in units of the widest full width at half maximum, up to the size of the image
CELLS_CPU = 2**18  # cells of the fine grid rendered at a time by a CPU …
CELLS_GPU = 2**24  # … and by another device
CPU = torch.device("cpu")


def fine_size(population: Population, seeing: float = 0.0) -> int:
    """Return the cells per side of the fine grid, the image and its margin, for images of a seeing up to this."""
    instrument = population.instrument
    fwhm = seeing * max(band.fwhm for band in instrument.bands.values()) / instrument.pixel_scale
    margin = max(MARGIN, min(int(np.ceil(MARGIN_FWHM * fwhm)), population.size))
    return (population.size + 2 * margin) * population.supersampling


def grid(size: int, scale: float, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Return the positions x, y [1, size, size], arcsec, of a grid's cells, 0 at its centre, y along the rows."""
    axis = (torch.arange(size, device=device) - (size - 1) / 2) * scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x[None], y[None]


def render_block(
    population: Population, drawn: ParameterBlock, device: torch.device = CPU
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return noiseless layers of light [n, layers, bands, size, size] float32, nanomaggies, and truth only they give.

    That is `magnification` and the magnitudes that follow from it, NaN without a source.
    """
    n, layers, bands = len(drawn.object_class), len(population.light), population.instrument.bands
    images = np.empty((n, layers, len(bands), population.size, population.size), np.float32)
    magnification = np.full((n, layers), np.nan)
    size = fine_size(population, drawn.values["seeing"].max())
    scale = population.instrument.pixel_scale / population.supersampling
    x, y = grid(size, scale, device)
    step = max(1, (CELLS_CPU if device.type == "cpu" else CELLS_GPU) // size**2)
    for name, object_class in population.classes.items():
        members = np.flatnonzero(drawn.object_class == name)
        for start in range(0, len(members), step):
            rows = members[start : start + step]
            p = parameter_tensors(drawn, rows, device)
            values = {key: column[rows] for key, column in drawn.values.items()}
            try:
                p.update(galaxy_tensors(population, object_class, values, device))
                cells, factors = render_light(population, object_class, x, y, scale, p)
            except KeyError as error:
                raise UserError(f"{population.name}: {name} needs the parameter {error}; declare it") from None
            magnification[rows] = factors.cpu().numpy()
            images[rows] = observe(population, cells, drawn, rows).cpu().numpy()
    return images, _lensing_truth(population, drawn, magnification)


def parameter_tensors(drawn: ParameterBlock, rows: np.ndarray, device: torch.device = CPU) -> dict[str, Tensor]:
    """Return the parameters of these images, [n, 1, 1] each, and of their subhalos, [n, S, 1, 1]."""
    values = {name: column[rows] for name, column in drawn.values.items()}
    columns = {name: column for name, column in values.items() if not np.isnan(column).all()}  # not of other classes
    columns |= {name: column[rows] for name, column in drawn.lists.items()}
    return {name: _tensor(column, device)[..., None, None] for name, column in columns.items()}


def render_light(
    population: Population, object_class: ObjectClass, x: Tensor, y: Tensor, scale: float, p: Parameters
) -> tuple[Tensor, Tensor]:
    """Return light [n, layers, size, size] of images of one class and the magnification [n, layers] within the grid.

    The cells of the grid x, y are `scale` arcsec wide. Each layer has sum 1, or that of its magnification if its
    magnitudes are unlensed. The magnification is NaN for a layer that is no source.
    """
    n = len(next(iter(p.values())))
    cells = torch.empty(n, len(population.light), *x.shape[1:], device=x.device)
    magnification = torch.full((n, len(population.light)), torch.nan, device=x.device)
    u, v = ray_trace(x, y, object_class.deflectors, p)
    for index, (name, photometry) in enumerate(population.light.items()):
        shape = object_class.layers[name]
        if shape not in SOURCES:
            cells[:, index] = LAYERS[shape](x, y, p)
            cells[:, index] /= cells[:, index].sum((1, 2), keepdim=True)
            continue
        source, integral = SOURCES[shape]
        cells[:, index] = source(u, v, p) * (scale**2 / integral(p))
        magnification[:, index] = cells[:, index].sum((1, 2))
        if not photometry.unlensed:
            cells[:, index] /= magnification[:, index, None, None]
    return cells, magnification


def observe(population: Population, cells: Tensor, drawn: ParameterBlock, rows: np.ndarray) -> Tensor:
    """Return images [n, layers, bands, size, size], nanomaggies, of light on the fine grid [n, layers, fine, fine]."""
    size, device = cells.shape[-1], cells.device
    margin = (size // population.supersampling - population.size) // 2
    scale = population.instrument.pixel_scale / population.supersampling
    spectra = torch.fft.rfft2(cells)  # [n, layers, size, size//2+1]
    bands = []
    for name, band in population.instrument.bands.items():
        fwhm = _tensor(band.fwhm * drawn.values["seeing"][rows], device)
        light = torch.fft.irfft2(spectra * transfer(band.psf, fwhm, size, scale)[:, None], s=(size, size))
        pixels = torch.nn.functional.avg_pool2d(light, population.supersampling, divisor_override=1)  # sums
        columns = [photometry.columns(layer)[name] for layer, photometry in population.light.items()]
        flux = np.stack([nanomaggies(drawn.values[column][rows]) for column in columns], 1)
        bands.append(pixels[:, :, margin:-margin, margin:-margin] * _tensor(flux, device)[:, :, None, None])
    return torch.stack(bands, 2)


def _lensing_truth(population: Population, drawn: ParameterBlock, magnification: np.ndarray) -> dict[str, np.ndarray]:
    """Return the truth that follows from magnification: the source is fainter by 2.5 log10 of it."""
    if not has_source(population):
        return {}
    magnification = magnification[:, list(population.light).index("arc")]
    fainter = 2.5 * np.log10(magnification)
    # What is no source has the magnitude drawn for it, lensed or not.
    unlensed = population.light["arc"].unlensed
    given, new, change = ("source", "arc", -np.nan_to_num(fainter)) if unlensed else ("arc", "source", fainter)
    magnitudes = {f"{new}_mag_{b}": drawn.values[f"{given}_mag_{b}"] + change for b in population.instrument.bands}
    return {"magnification": magnification} | magnitudes


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)


def to_eight_bit(images: np.ndarray) -> np.ndarray:
    """Return images [n, bands, H, W] as uint8, each scaled to its own peak; what is below 0 becomes 0."""
    peak = np.maximum(images.max((1, 2, 3), keepdims=True), np.finfo(np.float32).tiny)
    return np.rint(255 * np.clip(images / peak, 0, 1)).astype(np.uint8)


def make_composite(
    images: np.ndarray, bands: tuple[str, ...], config: Composite, rng: np.random.Generator
) -> np.ndarray:
    """Return 8-bit colour pictures [n, 3, H, W] uint8 of noisy images [n, bands, H, W] in nanomaggies; sky is black.

    After Lupton et al. (2004), arXiv:astro-ph/0312483: with x_c = s_c f_c, s of mean 1 and f in fluxes of AB magnitude
    `zero_point`, and I = Σ x_c, channel c is 255 x_c asinh(α Q I) / (Q I), clipped and truncated to integers.
    """
    unit = 10 ** (0.4 * (config.zero_point - 22.5))
    scales = np.array(config.scales, dtype=np.float32) * np.float32(unit * 3 / sum(config.scales))
    order = [bands.index(config.channels[channel]) for channel in CHANNELS]
    scaled = images[:, order] * scales[:, None, None]
    # asinh(t)/t tends to 1; t is kept off 0, where the quotient is not a number
    t = config.alpha * config.Q * scaled.sum(1, keepdims=True)
    t = np.where(np.abs(t) < 1e-6, np.float32(1e-6), t)
    values = np.clip(255 * config.alpha * scaled * np.arcsinh(t) / t, 0, 255).astype(np.uint8)
    return resample(values, config.resampling, rng) if config.resampling else values


def resample(pictures: np.ndarray, width: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each picture [n, 3, H, W] uint8 by up to half a pixel along both axes with a triangle kernel.

    A pixel at distance d has the weight max(width - |d|, 0), normalised: width 1 is bilinear interpolation.
    """
    result = pictures.astype(np.float32)
    size, reach = pictures.shape[-1], int(np.ceil(width + 0.5))
    steps = np.arange(-reach, reach + 1)
    for axis in (2, 3):
        shift = rng.uniform(-0.5, 0.5, len(pictures))
        weights = np.maximum(width - np.abs(steps - shift[:, None]), 0)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        padded = np.pad(result, [(reach, reach) if one == axis else (0, 0) for one in range(4)], mode="edge")
        shifted = (padded.take(range(start, start + size), axis) for start in range(len(steps)))
        result = sum(one * weights[:, k, None, None, None] for k, one in enumerate(shifted))
    return np.rint(result).astype(np.uint8)
