"""What can be chosen about a benchmark; plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.methods import MethodConfig
from zwicky.training.config import (
    FitConfig,
    TrainConfig,
    augmentation_for_labels,
    fit_from_pretrained,
    validate,
)


@dataclass
class DesignConfig:
    """Who is tested on what.

    Args:
        kind: holdout, one test split and several label draws; or folds, repeated grouped cross-validation in which
            each fold uses all its training labels.
        fractions: shares of train, validation and test of a holdout.
        folds: folds a repeat.
        repeats: repeats of the folds.
        group: column whose equal values may not be split between training and test, e.g. object.
        test_where: column and value a labelled object must have to be tested, e.g. {origin: sw}.
        train_where: the same for learning from its label; the others are for pretraining only.
        seed: seed of the split.
    """

    kind: Literal["holdout", "folds"] = "holdout"
    fractions: tuple[float, float, float] = (0.8, 0.0, 0.2)
    folds: int = 5
    repeats: int = 5
    group: str | None = None
    test_where: dict[str, str] = field(default_factory=dict)
    train_where: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass
class SelfSupervision:
    """One self-supervised arm.

    Args:
        method: which method.
        views: its crops and augmentation.
        train: its loop.
        networks: the backbones it is paired with, by their short names; empty means all.
    """

    method: MethodConfig = field(default_factory=MethodConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay_end=0.4))
    networks: list[str] = field(default_factory=list)


def fit_from_scratch() -> FitConfig:
    """A fit whose layers all learn alike, as random weights need."""
    fit = FitConfig()
    fit.train.layer_decay = 1.0
    return fit


@dataclass
class BenchmarkConfig:
    """`zwicky benchmark`: methods × backbones × numbers of labels × draws, beside the baselines.

    Args:
        title: what the page is called.
        size_note: a sentence for the page where the size is too small to mean much; empty otherwise.
        design: who is tested on what.
        labels: numbers of labels, selection included; 0 is all there are.
        fit_labels: those of `labels` that networks are fitted with, fine-tuned or from scratch; empty means all. Probes
            and baselines, which are cheap, take all in any case.
        finetune_best: fine-tune only so many pretrained networks, those whose linear probe does best among the labels
            kept for selection; 0 fine-tunes all.
        one_view: test each fitted network also without the mean over eight turns and mirrors.
        compare_with: a network; every other one is compared with it, method by method. Empty compares none.
        draws: label draws of a holdout; draw d uses pretraining seed d modulo pretrain_seeds.
        balanced: draw as many labels of each class.
        pretrain_seeds: pretrainings an arm.
        backbones: networks by a short name of your choice.
        methods: self-supervised methods by a short name.
        probes: looks at the frozen features of each pretrained network: linear, knn.
        normalisation: scale of the pixel values.
        label_views: augmentation while learning from labels, for every arm alike.
        finetune: the fit of pretrained networks.
        scratch: the fit of the same networks from random weights.
        convnet: the fit of a ResNet-18 from random weights; null leaves it out.
        baselines: pca_logistic, pca_boosting, radial_colour.
        correspondence: test objects by two views of which the regions of each pretrained network are matched; 0 leaves
            it out.
        replicates: bootstrap replicates of the intervals.
        seed: seed of networks and draws.
    """

    title: str = "Label efficiency"
    size_note: str = ""
    design: DesignConfig = field(default_factory=DesignConfig)
    labels: list[int] = field(default_factory=lambda: [300, 600, 1200, 0])
    fit_labels: list[int] = field(default_factory=list)
    finetune_best: int = 0
    one_view: bool = False
    compare_with: str = ""
    draws: int = 3
    balanced: bool = False
    pretrain_seeds: int = 1
    backbones: dict[str, BackboneConfig] = field(default_factory=lambda: {"vit": BackboneConfig()})
    methods: dict[str, SelfSupervision] = field(default_factory=lambda: {"dino": SelfSupervision()})
    probes: list[Literal["linear", "knn"]] = field(default_factory=lambda: ["linear", "knn"])
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)
    label_views: ViewsConfig = field(default_factory=augmentation_for_labels)
    finetune: FitConfig = field(default_factory=fit_from_pretrained)
    scratch: FitConfig = field(default_factory=fit_from_scratch)
    convnet: FitConfig | None = None
    baselines: list[str] = field(default_factory=lambda: ["pca_logistic"])
    correspondence: int = 0
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("draws", "pretrain_seeds", "replicates"):
            validate("benchmark", self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("finetune_best", "correspondence"):
            validate("benchmark", self, name, getattr(self, name) >= 0, "0 or more")
        validate("benchmark", self, "labels", len(self.labels) > 0, "one number of labels or more")
