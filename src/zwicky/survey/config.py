"""The settings of a scored survey."""

from dataclasses import dataclass


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
