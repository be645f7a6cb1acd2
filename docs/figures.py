"""Draw the figures of the explanations: `python docs/figures.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import zwicky
from zwicky import backbones, methods
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment
from zwicky.report.figures import to_rgba

METHODS = {
    "dino": "DINO: all crops must give the teacher's answer for the two large ones",
    "esvit": "EsViT: also region by region, each matched to its most similar one",
    "simmim": "SimMIM: fill in the hidden patches from the others",
    "mae": "MAE: the same, seeing the visible patches alone",
}


def main() -> None:
    """Write docs/images/views.png."""
    cutouts, _ = zwicky.simulate_population("demo-lenses", 40, seed=4)
    radius, magnitude = cutouts.numbers(["theta_E", "arc_mag_g"]).T
    row = int(np.nanargmax(np.where(radius > 1.5, -magnitude, -np.inf)))  # a bright and wide ring
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    views = ViewsConfig(crop=32, local_crops=3, local_size=16, blur=0.0, noise=0.0)
    figure, axes = plt.subplots(len(METHODS), 6, figsize=(7, 5), dpi=110)
    for line, (name, title) in zip(axes, METHODS.items(), strict=True):
        backbone = backbones.create(
            "vit_tiny", bands=3, image_size=32, patch_size=4, width=32, depth=1, heads=1, pool="mean"
        )
        needs = methods.create(name, backbone).needs
        raw = torch.from_numpy(cutouts.images[[row]])
        made = Augment.for_method(needs, views, normalisation, cutouts.size, cutouts.bands)(
            raw, torch.tensor([0]), seed=1, step=0
        )
        pictures = [("image", to_rgba(cutouts.images[row], cutouts.bands))]
        for number, crop in enumerate(made.crops):
            picture = to_rgba(crop[0].numpy(), cutouts.bands)
            if made.masks is not None:
                hidden = made.masks[number][0].numpy().repeat(4, 0).repeat(4, 1)
                pictures.append(("to fill in", picture.copy()))
                picture[hidden] = (130, 130, 130, 255)
                pictures.insert(-1, ("seen", picture))
            else:
                pictures.append((f"crop {number + 1}", picture))
        for axis, (text, picture) in zip(line, pictures, strict=False):
            axis.imshow(picture, origin="lower")
            axis.set_title(text, fontsize=7, pad=2)
            if name == "esvit" and text.startswith("crop"):
                axis.set_xticks(np.arange(0, picture.shape[1], 8) - 0.5)
                axis.set_yticks(np.arange(0, picture.shape[0], 8) - 0.5)
                axis.grid(color="white", linewidth=0.6)
        for axis in line:
            axis.tick_params(length=0, labelbottom=False, labelleft=False)
            axis.set_frame_on(False)
            if not axis.images:
                axis.set_axis_off()
        line[0].annotate(title, (0, 1.22), xycoords="axes fraction", fontsize=8, fontweight="bold")
    figure.subplots_adjust(hspace=0.5, top=0.93)
    figure.savefig(Path(__file__).parent / "images" / "views.png")


if __name__ == "__main__":
    main()
