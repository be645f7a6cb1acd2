"""Pictures of cutouts for the page: stretch, limits, colour composite or one band in a colour map."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from astropy.visualization import AsinhStretch, LinearStretch, LogStretch, SqrtStretch
from PIL import Image

from zwicky.report.figures import to_rgba

STRETCHES = {"linear": LinearStretch(), "sqrt": SqrtStretch(), "log": LogStretch(), "asinh": AsinhStretch()}
COLOURS = ("gray", "gray_r", "viridis", "inferno")  # matplotlib's maps for single bands
AUTO = "auto"  # the stretch of `to_rgba`: asinh above the sky that keeps colours; 8-bit values as they are


def render(
    image: np.ndarray,
    bands: Sequence[str],
    stretch: str = AUTO,
    low: float = 0.5,
    high: float = 99.5,
    band: int = -1,
    colours: str = COLOURS[0],
) -> bytes:
    """Return a cutout as PNG.

    Args:
        image: [bands, H, W].
        bands: their names.
        stretch: AUTO or one of STRETCHES.
        low: percentile of the pixels, over all shown bands, that becomes black; AUTO has limits of its own.
        high: percentile that becomes white.
        band: the band to show, −1 for the colour composite.
        colours: one of COLOURS, for one band.
    """
    shown = slice(None) if band < 0 else slice(band, band + 1)
    image, bands = image[shown], bands[shown]
    if stretch != AUTO:
        pixels = image.astype(np.float32)
        finite = pixels[np.isfinite(pixels)]
        black, white = np.percentile(finite, [low, high]) if len(finite) else (0.0, 1.0)
        x = np.nan_to_num((pixels - black) / max(white - black, 1e-12), nan=0).clip(0, 1)
        image = np.round(255 * STRETCHES[stretch](x)).astype(np.uint8)
    stream, picture = io.BytesIO(), to_rgba(image, bands)
    if len(image) == 1 and colours != COLOURS[0]:
        picture = matplotlib.colormaps[colours](picture[..., 0], bytes=True)
    Image.fromarray(picture, "RGBA").convert("RGB").save(stream, "PNG", compress_level=1)
    return stream.getvalue()
