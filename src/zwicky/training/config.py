"""What can be chosen about training; plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.backbones.config import BackboneConfig
from zwicky.errors import UserError
from zwicky.methods import MethodConfig


def validate(where: str, config: object, name: str, holds: bool, instead: str) -> None:
    """Raise UserError about a setting unless `holds`. instead: what to choose."""
    if not holds:
        raise UserError(f"{where}.{name} is {getattr(config, name)}; choose {instead}")


@dataclass
class TrainConfig:
    """How the loop runs. The number of steps is epochs × images / batch_size, kept within min_steps and max_steps; or
    what `pflops` pays for.

    Args:
        epochs: passes over the training images.
        min_steps: fewest optimiser steps, however few the images.
        max_steps: most optimiser steps, however many the images; 0 means no limit.
        pflops: spend so many 10^15 floating-point operations (forward and backward, counted on the first step), however
            many steps that makes, so that methods can be compared at equal compute; 0 goes by the epochs.
        batch_size: images a step, over all processes; smaller where there are fewer images.
        lr: peak learning rate at a batch of 256; it scales with the batch.
        min_lr: learning rate at the end.
        warmup: share of training over which the learning rate rises from 0.
        weight_decay: at the start.
        weight_decay_end: at the end; null keeps it constant.
        clip: largest gradient norm; 0 does not clip.
        beta2: AdamW's decay of the mean square of the gradients; 0.95 in MAE.
        layer_decay: factor on the learning rate for each layer further from the output.
        weight_ema: decay a step of the averaged weights that are kept; 0 keeps the last weights.
        evaluations: how many times a fit looks at its selection set.
        precision: bf16 (losses stay float32), float32, or auto, which takes bf16 where the hardware has it.
        compile: use torch.compile; costs a minute first.
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
        validate("train", self, "batch_size", self.batch_size >= 1, "1 or more")
        validate("train", self, "epochs", 0 < self.epochs < math.inf, "a number above 0")
        for name in ("lr", "min_lr", "weight_decay", "clip", "pflops", "checkpoint_seconds"):
            validate("train", self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("min_steps", "max_steps", "evaluations"):
            validate("train", self, name, getattr(self, name) >= 0, "0 or more")
        validate("train", self, "warmup", 0 <= self.warmup <= 1, "a share from 0 to 1")
        validate("train", self, "beta2", 0 <= self.beta2 < 1, "a decay from 0 to below 1")
        validate("train", self, "layer_decay", 0 < self.layer_decay <= 1, "a factor above 0 and up to 1")
        validate("train", self, "weight_ema", 0 <= self.weight_ema < 1, "a decay from 0 to below 1")

    def steps(self, images: int, step_flops: float = 0.0) -> int:
        """Optimiser steps for this many training images; `step_flops`, of one step, counts where `pflops` is set."""
        if self.pflops:
            return max(round(self.pflops * 1e15 / step_flops), 1)
        batch = min(self.batch_size, images)
        steps = max(round(self.epochs * images / batch), self.min_steps, 1)
        return min(steps, self.max_steps) if self.max_steps else steps


@dataclass
class PretrainConfig:
    """`zwicky pretrain`: a backbone learns from cutouts without labels.

    Args:
        method: which self-supervision.
        backbone: which network.
        views: crops and augmentation.
        normalisation: scale of the pixel values.
        train: the loop.
        split: name of the store's split; its roles train and unlabelled are used.
        seed: seed of weights, order and augmentation.
    """

    method: MethodConfig = field(default_factory=MethodConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    normalisation: NormalisationConfig = field(default_factory=NormalisationConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(weight_decay_end=0.4))
    split: str = "holdout"
    seed: int = 0


@dataclass
class FitConfig:
    """How a network is fitted to labels, from pretrained weights or from scratch.

    Args:
        train: the loop.
        select: share of the n labels kept back to choose the weights and the temperature.
        select_most: largest number of labels kept back.
        label_smoothing: share of each label spread over all classes.
        head: how the head on top begins: random, or probe, the logistic regression (for numbers the ridge regression)
            on the features as they are before the fit, so that a pretrained network does not first forget what it knows
            (Kumar et al. 2022). Where the fitted network does not do better on the labels kept back than that probe,
            the probe is kept. With targets that have a direction the head begins at random.
    """

    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=60, min_steps=300, batch_size=64, lr=2e-3, weight_decay=0.05, layer_decay=0.75, weight_ema=0.99
        )
    )
    select: float = 0.2
    select_most: int = 400
    label_smoothing: float = 0.05
    head: Literal["random", "probe"] = "random"

    def __post_init__(self) -> None:
        validate("fit", self, "select", 0 <= self.select < 1, "a share from 0 to below 1")
        validate("fit", self, "select_most", self.select_most >= 1, "1 or more")
        validate("fit", self, "label_smoothing", 0 <= self.label_smoothing < 1, "a share from 0 to below 1")


def augmentation_for_labels() -> ViewsConfig:
    """Views for learning from labels: the whole window, turned, mirrored and shifted, no zoom."""
    return ViewsConfig(global_scale=(1.0, 1.0), blur=0.0, noise=0.0, local_crops=0)


def fit_from_pretrained() -> FitConfig:
    """A fit whose head begins as the probe of what pretraining learnt."""
    return FitConfig(head="probe")


@dataclass
class FinetuneConfig:
    """`zwicky finetune`: labels for the network of a run, or for one that a recipe names.

    Args:
        backbone: which network, in a recipe; null where a run gives it.
        normalisation: scale of the pixel values, in a recipe; null takes the defaults, or where a run gives it the
            run's.
        views: augmentation; crop and image_size follow the pretrained network where null.
        fit: the fit.
        labels: how many labels to use, selection included; 0 is all of the split's role train.
        targets: columns to regress, as a list: a name, vector:X/Y or spin2:FIRST/SECOND; empty classifies.
        balanced: draw as many labels of each class.
        split: name of the store's split.
        draw: number of the label draw.
        seed: seed of the head, order and augmentation.
    """

    backbone: BackboneConfig | None = None
    normalisation: NormalisationConfig | None = None
    views: ViewsConfig = field(default_factory=augmentation_for_labels)
    fit: FitConfig = field(default_factory=fit_from_pretrained)
    labels: int = 0
    targets: list[str] = field(default_factory=list)
    balanced: bool = False
    split: str = "holdout"
    draw: int = 0
    seed: int = 0
