"""Settings of `zwicky benchmark`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from zwicky.augment.config import NormalisationConfig, ViewsConfig, check
from zwicky.backbones import BackboneConfig
from zwicky.methods import MethodConfig
from zwicky.training.config import FitConfig, TrainConfig, augmentation_for_labels


@dataclass
class DesignConfig:
    """Which objects are trained on and which are tested.

    Args:
        kind: holdout, one test split and several label draws; or folds, repeated grouped cross-validation in which
            each fold uses all its training labels.
        split: name of the store's own split that a holdout is, where the store has it; null always draws one.
        fractions: shares of train, validation and test of a holdout.
        folds: folds per repeat.
        repeats: repeats of the folds.
        group: column whose equal values may not be split between training and test, e.g. object.
        test_where: column and value a labelled object must have to be tested, e.g. {origin: sw}.
        train_where: the same for training on its label; the others are for pretraining only.
        seed: random seed of the split.
    """

    kind: Literal["holdout", "folds"] = "holdout"
    split: str | None = "holdout"
    fractions: tuple[float, float, float] = (0.8, 0.0, 0.2)
    folds: int = 5
    repeats: int = 5
    group: str | None = None
    test_where: dict[str, str] = field(default_factory=dict)
    train_where: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check("design", self, ("seed", self.seed >= 0, "0 or more"))


@dataclass
class SelfSupervision:
    """One way of pretraining.

    Args:
        method: the method and its options.
        views: crops and augmentation.
        train: training loop.
        networks: short names of the backbones to pretrain; empty means all.
        weights: weights that are taken instead (`BackboneConfig.pretrained`), normalised by the pretraining images.
    """

    method: MethodConfig = field(default_factory=MethodConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay_end=0.4))
    networks: list[str] = field(default_factory=list)
    weights: str | None = None


@dataclass
class BenchmarkConfig:
    """`zwicky benchmark`: methods × backbones × numbers of labels × draws, and baselines.

    Args:
        title: title of the report.
        size_note: a sentence for the report if the size is too small to mean much; empty otherwise.
        targets: columns to regress, as a list: a name, vector:X/Y or spin2:FIRST/SECOND; empty classifies.
        design: which objects are trained on and which are tested.
        labels: numbers of labels, those for selection included; 0 is all there are.
        fit_labels: those of `labels` at which networks are trained, fine-tuned or from scratch; empty means all. Probes
            and baselines, which are cheap, are trained at all of them in any case.
        finetune_best: fine-tune only this many pretrained networks, those with the best linear probe on the labels
            for selection; 0 fine-tunes all.
        without_tta: test each trained network also without test-time augmentation, the mean over eight views.
        compare_with: short name of a backbone with which every other one is compared, method by method; empty for none.
        draws: label draws of a holdout; draw d uses pretraining seed d modulo pretrain_seeds.
        balanced: draw equal numbers of labels of each class.
        pretrain_seeds: pretrainings per arm.
        backbones: networks by short names of your choice.
        methods: pretrainings by short names of your choice.
        probes: probes of the frozen features of each pretrained network: linear, knn, or blocks, a linear probe of mean
            and spread over the tokens of every block.
        normalisation: scale of the pixel values.
        label_views: augmentation while training on labels, the same for every arm.
        finetune: fine-tuning of pretrained networks.
        scratch: training of the same networks from random weights.
        self_training: short names of the backbones to train a second time, on the labels and on their predictions of
            the images without (noisy student, arXiv:1911.04252).
        convnet: training of a ResNet-18 from random weights; null leaves it out.
        baselines: pca_linear, pca_boosting, radial_colour, modes.
        correspondence: number of test objects for region correspondence of each pretrained network; 0 leaves it out.
        replicates: bootstrap replicates of the intervals.
        keep_networks: write the network of each fit into its cell, for `zwicky evaluate` and `zwicky export`.
        seed: random seed of networks and draws.
        budget_minutes: the --minutes that the steps were chosen for; a note that changes nothing.
    """

    title: str = "Label efficiency"
    size_note: str = ""
    targets: list[str] = field(default_factory=list)
    design: DesignConfig = field(default_factory=DesignConfig)
    labels: list[int] = field(default_factory=lambda: [300, 600, 1200, 0])
    fit_labels: list[int] = field(default_factory=list)
    finetune_best: int = 0
    without_tta: bool = False
    compare_with: str = ""
    draws: int = 3
    balanced: bool = False
    pretrain_seeds: int = 1
    backbones: dict[str, BackboneConfig] = field(default_factory=lambda: {"vit": BackboneConfig()})
    methods: dict[str, SelfSupervision] = field(default_factory=lambda: {"dino": SelfSupervision()})
    probes: list[Literal["linear", "knn", "blocks"]] = field(default_factory=lambda: ["linear", "knn"])
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)
    label_views: ViewsConfig = field(default_factory=augmentation_for_labels)
    finetune: FitConfig = field(default_factory=lambda: FitConfig(head="probe"))
    scratch: FitConfig = field(default_factory=lambda: FitConfig(train=replace(FitConfig().train, layer_decay=1.0)))
    self_training: list[str] = field(default_factory=list)
    convnet: FitConfig | None = None
    baselines: list[str] = field(default_factory=lambda: ["pca_linear", "modes"])
    correspondence: int = 0
    replicates: int = 1000
    keep_networks: bool = False
    seed: int = 0
    budget_minutes: float = 0.0

    def __post_init__(self) -> None:
        least = {"draws": 1, "pretrain_seeds": 1, "replicates": 2, "finetune_best": 0, "correspondence": 0, "seed": 0}
        rules = [(name, getattr(self, name) >= number, f"{number} or more") for name, number in least.items()]
        check("benchmark", self, *rules, ("labels", len(self.labels) > 0, "one number of labels or more"))
        for name in ("finetune", "scratch", "convnet"):
            if fit := getattr(self, name):
                check(
                    name, fit, ("head", fit.head != "frozen", "random or probe: frozen features are read by `probes`")
                )
