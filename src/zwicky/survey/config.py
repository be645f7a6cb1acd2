"""The settings of a scored survey, and of cutouts from a service."""

from dataclasses import dataclass
from typing import Literal

from zwicky.errors import UserError, check_limits


@dataclass(frozen=True)
class ScoreConfig:
    """What is written for each cutout.

    Args:
        prevalence: share of the positive class in the survey, e.g. 1e-4, at which scores are probabilities; null keeps
            that of the labels the networks were fine-tuned on.
        views: 8 averages over the rotations by 90° and reflections; 1 is up to eight times as fast, and as good for an
            equivariant network.
        features: write the pooled features of the first run as float16, for `zwicky similar`.
        top: candidates with the highest scores.
        random: candidates drawn at random from the rest.
        seed: of the random candidates.
        part_size: cutouts of a part, about; a killed run loses the parts it was working on.
    """

    prevalence: float | None = None
    views: int = 8
    features: bool = False
    top: int = 1000
    random: int = 500
    seed: int = 0
    part_size: int = 16384

    def __post_init__(self) -> None:
        if self.views not in (1, 8):
            raise UserError(f"views is {self.views}; choose 1 or 8")
        largest = 2**64 - 1
        limits = dict.fromkeys(("top", "random", "seed"), (0, largest)) | {"part_size": (1, largest)}
        check_limits("", vars(self), limits)


@dataclass(frozen=True)
class CutoutsConfig:
    """Which cutouts of the sky are fetched.

    Args:
        service: legacy (the DESI Legacy Imaging Surveys) or hips2fits (any survey that the CDS has in HiPS).
        bands: names of the bands, e.g. grz.
        size: pixels of a side.
        pixel_scale: arcsec per pixel.
        layer: the survey of the service; empty takes DR10 of the Legacy Surveys. For hips2fits the name of the HiPS
            without the band, e.g. CDS/P/PanSTARRS/DR1.
        address: of the service, for a mirror; empty takes the public one.
        attempts: requests for an image before it is listed as not answered.
        timeout: seconds to wait for an answer.
        match: columns of magnitudes and colours in which negatives are like the lenses.
        per_lens: negatives for each lens.
    """

    service: Literal["legacy", "hips2fits"] = "legacy"
    bands: str = "grz"
    size: int = 101
    pixel_scale: float = 0.262
    layer: str = ""
    address: str = ""
    attempts: int = 5
    timeout: float = 60.0
    match: tuple[str, ...] = ()
    per_lens: int = 1

    def __post_init__(self) -> None:
        if not self.bands:
            raise UserError("bands is empty; name at least one, e.g. grz")
        limits = {"size": (1, 3000), "pixel_scale": (1e-3, 3600), "attempts": (1, 1000), "timeout": (1e-3, 3600)}
        check_limits("", vars(self), limits | {"per_lens": (0, 10**6)})
