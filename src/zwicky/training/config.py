"""Options of pretraining and fine-tuning: plain data, so that the command line shows them without importing torch."""

import math
from dataclasses import dataclass, field
from typing import Literal

from zwicky.augment.config import NormalisationConfig, ViewsConfig, check
from zwicky.backbones import BackboneConfig
from zwicky.methods import MethodConfig


@dataclass
class TrainConfig:
    """The training loop.

    The number of steps is epochs × images / batch_size, between min_steps and max_steps, unless `pflops` is set.

    Args:
        epochs: passes over the training images.
        min_steps: fewest optimiser steps.
        max_steps: most optimiser steps; 0 means no limit.
        pflops: compute budget in 10^15 floating-point operations, forward and backward, which then sets the number of
            steps, to compare methods at equal compute; 0 means no budget.
        batch_size: images per step, over all processes; smaller if there are fewer images.
        lr: peak learning rate at a batch size of 256; it scales with the batch size.
        min_lr: learning rate at the end.
        warmup: fraction of training over which the learning rate rises from 0.
        weight_decay: weight decay at the start.
        weight_decay_end: weight decay at the end; null keeps it constant.
        clip: largest gradient norm; 0 means no clipping.
        beta2: AdamW's decay of the mean square of the gradients; 0.95 in MAE.
        layer_decay: factor on the learning rate per layer below the head.
        weight_ema: decay per step of the averaged weights that are kept; 0 keeps the last weights.
        evaluations: number of evaluations during training.
        precision: bf16 (losses stay float32), float32, or auto, bf16 where the hardware supports it well.
        compile: use torch.compile, which first takes a minute.
        checkpoint_seconds: shortest time between checkpoints, in seconds.
    """

    epochs: float = 100
    min_steps: int = 0
    max_steps: int = 0
    pflops: float = 0.0
    batch_size: int = 128
    lr: float = 5e-4
    min_lr: float = 1e-6
    warmup: float = 0.1
    weight_decay: float = 0.04
    weight_decay_end: float | None = None
    clip: float = 3.0
    beta2: float = 0.999
    layer_decay: float = 1.0
    weight_ema: float = 0.0
    evaluations: int = 20
    precision: Literal["auto", "bf16", "float32"] = "auto"
    compile: bool = False
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        positive = "lr min_lr weight_decay clip pflops checkpoint_seconds min_steps max_steps evaluations".split()
        rules = [(name, 0 <= getattr(self, name) < math.inf, "0 or more") for name in positive]
        rules += [
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("epochs", 0 < self.epochs < math.inf, "a number above 0"),
            ("warmup", 0 <= self.warmup <= 1, "a fraction from 0 to 1"),
            ("beta2", 0 <= self.beta2 < 1, "a decay from 0 to below 1"),
            ("layer_decay", 0 < self.layer_decay <= 1, "a factor above 0 and up to 1"),
            ("weight_ema", 0 <= self.weight_ema < 1, "a decay from 0 to below 1"),
        ]
        check("train", self, *rules)

    def steps(self, images: int, step_flops: float = 0.0) -> int:
        """Return the number of optimiser steps for this many images; `step_flops` is the compute of one."""
        if self.pflops:
            return max(round(self.pflops * 1e15 / step_flops), 1)
        steps = max(round(self.epochs * images / min(self.batch_size, images)), self.min_steps, 1)
        return min(steps, self.max_steps) if self.max_steps else steps


@dataclass
class PretrainConfig:
    """`zwicky pretrain`: self-supervised training of a backbone.

    Args:
        method: self-supervised method.
        backbone: network.
        views: crops and augmentation.
        normalisation: scaling of the pixel values.
        train: training loop.
        split: name of the split; its roles train and unlabelled are used.
        targets: columns to be regressed later, as of `FinetuneConfig`; a new split leaves objects with them to test.
        seed: random seed of weights, order and augmentation.
        budget_minutes: the --minutes that the steps were chosen for; a note that changes nothing.
    """

    method: MethodConfig = field(default_factory=MethodConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay_end=0.4))
    split: str = "holdout"
    targets: list[str] = field(default_factory=list)
    seed: int = 0
    budget_minutes: float = 0.0

    def __post_init__(self) -> None:
        check("pretrain", self, ("seed", self.seed >= 0, "0 or more"))


@dataclass
class FitConfig:
    """Supervised training of a pretrained or a new network.

    Args:
        train: training loop.
        select: fraction of the n labels held out to select the weights and the temperature.
        select_most: largest number of labels held out.
        label_smoothing: fraction of the target probability spread over all classes.
        head: initialisation of the head: random, or probe, a logistic (of numbers a ridge) regression on the frozen
            features (LP-FT, arXiv:2202.10054). If fine-tuning does not improve on the probe on the held-out labels, the
            probe is kept. Vector and spin-2 targets always start at random. frozen trains nothing else: the head is the
            linear probe of the features of all n labels, and the backbone stays as it is.
        self_training: rounds of self-training, where images without labels are learned from.
        student: training in these rounds; null trains for as many steps, and otherwise as before.
        consistency: weight, in self-training, of a loss between two views of every image (FixMatch, arXiv:2001.07685).
    """

    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=60, min_steps=300, batch_size=64, lr=2e-3, weight_decay=0.05, layer_decay=0.75, weight_ema=0.99
        )
    )
    select: float = 0.2
    select_most: int = 400
    label_smoothing: float = 0.05
    head: Literal["random", "probe", "frozen"] = "random"
    self_training: int = 1
    student: TrainConfig | None = None
    consistency: float = 0.0

    def __post_init__(self) -> None:
        fractions = ("select", "label_smoothing")
        rules = [(name, 0 <= getattr(self, name) < 1, "a fraction from 0 to below 1") for name in fractions]
        rules += [(name, getattr(self, name) >= 1, "1 or more") for name in ("select_most", "self_training")]
        check("fit", self, *rules, ("consistency", self.consistency >= 0, "0 or more"))


def augmentation_for_labels() -> ViewsConfig:
    """Return the augmentation of supervised training: rotation, reflection and shift of the whole window, no zoom."""
    return ViewsConfig(global_scale=(1.0, 1.0), blur=0.0, noise=0.0, local_crops=0)


@dataclass
class FinetuneConfig:
    """`zwicky finetune`: supervised training of the network of a run or of a recipe.

    Args:
        backbone: network, in a recipe; null with a run.
        normalisation: scaling of the pixel values, in a recipe; null with a run.
        views: augmentation; null crop and image_size are those of the pretrained network.
        fit: training and selection.
        unlabelled: train the network a second time, on its labels and on its own predictions of the images of the
            split's roles train and unlabelled (self-training; the labels of those are not read).
        labels: number of labels, those for selection included; 0 means all of the split's role train.
        targets: columns to regress, a list of names, vector:X/Y or spin2:FIRST/SECOND; empty for classification.
        balanced: draw the same number of labels from each class.
        split: name of the split.
        draw: number of the random draw of the labels.
        seed: random seed of the head, order and augmentation.
        budget_minutes: the --minutes that the steps were chosen for; a note that changes nothing.
    """

    backbone: BackboneConfig | None = None
    normalisation: NormalisationConfig | None = None
    views: ViewsConfig = field(default_factory=augmentation_for_labels)
    fit: FitConfig = field(default_factory=lambda: FitConfig(head="probe"))
    unlabelled: bool = False
    labels: int = 0
    targets: list[str] = field(default_factory=list)
    balanced: bool = False
    split: str = "holdout"
    draw: int = 0
    seed: int = 0
    budget_minutes: float = 0.0

    def __post_init__(self) -> None:
        check("finetune", self, *((name, getattr(self, name) >= 0, "0 or more") for name in ("labels", "draw", "seed")))
