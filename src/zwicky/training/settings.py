"""Settings that follow from the data, one row each with its reason, and crops for images that a recipe does not fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Self

from zwicky.augment.config import ViewsConfig
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.recipes import merge

LEAST_CROP = 32  # pixels; a smaller part of the image is not worth free rotation
FIELD = 12.0  # arcsec: galaxy-scale rings have radii below 3"
RADII = 24  # of the polar network, as of the weights `zwicky-rings`
FEW = 20  # fewer labels than this cannot be both learned from and tested on


@dataclass(frozen=True)
class Facts:
    """What the settings depend on."""

    size: tuple[int, int]  # (H, W) of the images in pixels
    bands: int  # number of channels
    pixel_scale: float | None  # arcsec per pixel, None if unknown
    objects: int  # number of images
    labels: int  # number of labelled objects
    learn: int = 0  # number of labels to learn from; 0 is all that are not tested
    minutes: float = math.inf  # time budget, infinite without one
    given: int = 0  # number of labels to learn from in the data's own split; 0 without one
    own_network: bool = False  # whether the user gave a network, for which no weights ship

    @classmethod
    def of(
        cls, cutouts: Cutouts, labels: Labels, given: Split | None = None, learn: int = 0, minutes: float = math.inf
    ) -> Self:
        """Return the facts of a data set, with its own split if it has one."""
        train = [] if given is None else [name for name in given.ids("train") if name in labels.values]
        counts = len(cutouts), len(labels.values)
        return cls(cutouts.size, len(cutouts.bands), cutouts.pixel_scale, *counts, learn, minutes, len(train))


class Choice(NamedTuple):
    """A setting, its value, why, and the dotted names of the settings of recipe `start` that it sets."""

    name: str
    value: Any
    reason: str
    sets: Sequence[str]


def choose(facts: Facts) -> list[Choice]:
    """Return the table of settings for recipe `start`."""
    labels, (crop, window) = facts.labels, largest_crop(facts.size, facts.pixel_scale)
    tested = 0.4 if labels < 300 else 0.25 if labels < 1000 else 0.2
    learn = facts.learn or facts.given or round((1 - tested) * labels)
    batch = 64 if facts.objects < 100_000 else 128
    pretrain_steps = round(min(max(10 * facts.objects / batch, 300), 20_000))
    fit_steps = 200 if learn <= 50 else max(400, min(5 * learn // 64, 4000))
    radii = max(8, min(RADII, crop // 2 // 4 * 4))
    counts = [facts.learn] if learn < 4 * FEW else [learn // 4, facts.learn]
    views, train = ["label_views", "methods.simmim.views"], "methods.simmim.train"
    if has_weights := radii == RADII and not facts.own_network:
        views.append("methods.rings.views")
    fits = [f"{fit}.train.{limit}_steps" for fit in ("finetune", "scratch") for limit in ("min", "max")]
    rows: list[tuple[str, Any, str, Sequence[str]]] = [
        ("crop", crop, window, [f"{v}.crop" for v in views]),
        ("shift", max(1.0, crop / 100), "1 % of the crop, at least a pixel", [f"{v}.shift" for v in views]),
        ("radii", radii, f"one a pixel, at most {RADII}", ["backbones.polar.options.radii"]),
        ("pretraining batch", batch, "64 images, 128 from 100,000 objects on", [f"{train}.batch_size"]),
        (
            "pretraining steps",
            pretrain_steps,
            f"10 epochs of {facts.objects} objects, from 300 to 20,000 steps",
            [f"{train}.min_steps", f"{train}.max_steps"],
        ),
        ("fit steps", fit_steps, "200 up to 50 labels, then 400 or 5 epochs, at most 4,000", fits),
        ("split", "holdout", "the data's own", [])
        if facts.given
        else ("test share", tested, "40 % below 300 labels, 25 % below 1,000, else 20 %", ["design.fractions"]),
        ("label draws", 1 if facts.minutes < 30 else 3, "1 below 30 minutes, else 3", ["draws"]),
        ("labels", counts, f"{learn} to learn from, and a quarter of them if that is {FEW} or more", ["labels"]),
    ]
    if has_weights:
        reason = "measures lenses, and is fine-tuned beside the network pretrained here"
        rows.insert(3, ("weights", "zwicky-rings", reason, ["methods.rings.weights"]))
    return [Choice(*row) for row in rows]


def as_settings(choices: list[Choice]) -> dict[str, Any]:
    """Return the choices as settings that a recipe is merged with."""
    settings: dict[str, Any] = {}
    for choice in choices:
        value: Any = [1 - choice.value, 0.0, choice.value] if choice.name == "test share" else choice.value
        for name in choice.sets:
            settings = merge(settings, reduce(lambda inner, key: {key: inner}, reversed(name.split(".")), value))
    return settings


def largest_crop(size: tuple[int, int], pixel_scale: float | None = None) -> tuple[int, str]:
    """Return the side in pixels of the window to cut from images of `size` = (H, W), and why.

    The window has the centre of the image: its side and that of the image are both even or both odd.
    """
    side = min(size)
    if side / math.sqrt(2) < LEAST_CROP:
        return side, f"the whole image of {side} px: the part that fits at any rotation is below {LEAST_CROP} px"
    crop, why = int(side / math.sqrt(2)), f"{side} px / √2, which fits at any rotation"
    if pixel_scale and FIELD / pixel_scale < crop:
        crop, why = max(LEAST_CROP, round(FIELD / pixel_scale)), f'{FIELD:g}" at {pixel_scale:g}" a pixel'
    return crop - (side - crop) % 2, why


def fit_views(views: ViewsConfig, size: tuple[int, int]) -> tuple[ViewsConfig, str]:
    """Return views whose crop fits images of `size` = (H, W), and what was changed ("" if nothing).

    A crop that is too large is replaced by `largest_crop`, resampled to the recipe's input size, so that patches and
    local crops stay as they are.
    """
    if views.crop is None or views.crop <= min(size):
        return views, ""
    crop, why = largest_crop(size)
    image_size = views.image_size or views.crop
    note = f"crop {views.crop} px does not fit images of {size[0]} × {size[1]} px; taking {crop} px ({why})"
    return replace(views, crop=crop, image_size=image_size), f"{note}, resampled to {image_size} px"
