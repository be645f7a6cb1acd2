"""Options of a grading session: plain data, so that the command line shows them without importing pandas."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zwicky.errors import check_limits


@dataclass(frozen=True)
class SessionConfig:
    """What is shown, and in which order.

    Args:
        next: order of the candidates: random, top (highest score first), uncertain (largest variance of the label
            first) or diverse (clusters of similar images in turn, the highest scores of each first).
        random_share: share of the objects shown that comes from the random stratum, as long as it lasts.
        calibration: labelled store of images to hide among the candidates; they tell how reliable a grader is.
        calibration_share: share of calibration images.
        repeat_share: share of objects shown a second time.
        seed: random seed of the order.
    """

    next: Literal["random", "top", "uncertain", "diverse"] = "random"
    random_share: float = 0.2
    calibration: Path | None = None
    calibration_share: float = 0.05
    repeat_share: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        limits = dict.fromkeys(("random_share", "calibration_share", "repeat_share"), (0, 0.99))
        check_limits("", vars(self), limits | {"seed": (0, 2**32 - 1)})  # of scikit-learn's clusters
