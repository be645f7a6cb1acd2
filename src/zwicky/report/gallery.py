"""A page of pictures with captions: candidates, or the neighbours of an example."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader

from zwicky.io import write_text
from zwicky.report.figures import data_uri


def write_gallery(
    path: Path, title: str, images: Sequence[np.ndarray], bands: Sequence[str], captions: Sequence[Sequence[str]]
) -> None:
    """Write an HTML page with one picture for each image [bands, H, W], and lines of text below it."""
    pictures = [(data_uri(image, bands), lines) for image, lines in zip(images, captions, strict=True)]
    environment = Environment(loader=PackageLoader("zwicky.report"), autoescape=True)
    write_text(path, environment.get_template("gallery.html").render(title=title, pictures=pictures))
