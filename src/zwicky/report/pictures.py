"""Cutouts as pictures: [bands, H, W] to a small PNG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

LARGEST = 96  # pixels on a side; larger cutouts are averaged down to it, or the page grows too big

# Effective wavelengths in micrometres, only to put the longest into red.
WAVELENGTHS = {
    "u": 0.36,
    "b": 0.44,
    "g": 0.48,
    "v": 0.55,
    "r": 0.62,
    "vis": 0.72,
    "i": 0.76,
    "z": 0.88,
    "y": 1.0,
    "j": 1.25,
    "h": 1.63,
    "k": 2.2,
}


def to_rgba(image: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """[bands, H, W] → [H, W, 4] uint8. Pixels invalid in every band are transparent. 8-bit images keep their values.

    Three bands become red, green and blue by wavelength where the names tell it, else as they come; from more than
    three the first, middle and last are taken; two give green their mean; one is grey.
    """
    planes = image[_colour_order(bands)].astype(np.float32)
    valid = np.any(np.isfinite(planes), axis=0)
    if image.dtype != np.uint8:
        planes = stretch(planes)
    if len(planes) == 2:
        planes = np.stack([planes[0], planes.mean(axis=0), planes[1]])
    elif len(planes) == 1:
        planes = np.repeat(planes, 3, axis=0)
    rgba = np.concatenate([np.where(valid, planes, 0), 255.0 * valid[None]])
    return np.round(rgba).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def stretch(planes: np.ndarray, softening: float = 8.0) -> np.ndarray:
    """[bands, H, W] float → 0 … 255: asinh of the flux above the sky, one scale for all bands so that colours stay.

    The same curve multiplies all bands of a pixel (Lupton et al. 2004).
    """
    finite = np.isfinite(planes)
    if not finite.any():
        return np.zeros_like(planes)
    sky = np.array([np.median(plane[good]) if good.any() else 0.0 for plane, good in zip(planes, finite, strict=True)])
    flux = np.where(finite, planes - sky[:, None, None], 0)
    mean = flux.mean(axis=0)
    noise = 1.4826 * np.median(np.abs(mean - np.median(mean)))
    top = np.percentile(mean, 99.7)
    low = -noise
    x = (mean - low) / (top - low) if top > low else np.zeros_like(mean)
    level = np.arcsinh(softening * np.clip(x, 0, None)) / np.arcsinh(softening)
    factor = np.divide(level, mean - low, out=np.zeros_like(mean), where=mean > low)
    return 255 * np.clip((flux - low) * factor, 0, 1)


def _colour_order(bands: Sequence[str]) -> list[int]:
    """Which bands become red, green, blue, in this order."""
    chosen = list(range(len(bands)))
    if len(bands) > 3:
        chosen = [0, len(bands) // 2, len(bands) - 1]
    names = [bands[position].lower() for position in chosen]
    if len(chosen) > 1 and all(name in WAVELENGTHS for name in names):
        chosen.sort(key=lambda position: -WAVELENGTHS[bands[position].lower()])
    return chosen


def data_uri(image: np.ndarray, bands: Sequence[str]) -> str:
    """The cutout as a PNG in a `data:` address."""
    picture = Image.fromarray(to_rgba(image, bands), "RGBA")
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    if picture.getchannel("A").getextrema() == (255, 255):
        picture = picture.convert("L" if image.shape[0] == 1 else "RGB")
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def sheet(
    title: str, images: Sequence[np.ndarray], bands: Sequence[str], captions: Sequence[str], alts: Sequence[str]
) -> Markup:
    """A titled row of pictures that wraps."""
    cells = Markup("").join(
        Markup(
            '<figure class="cutout"><img src="{}" alt="{}" loading="lazy"><figcaption>{}</figcaption></figure>'
        ).format(data_uri(image, bands), alt, caption)
        for image, caption, alt in zip(images, captions, alts, strict=True)
    )
    return Markup('<h3>{}</h3><div class="sheet">{}</div>').format(title, cells)
