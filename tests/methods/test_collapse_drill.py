"""Collapse on purpose: remove what keeps a method from collapsing, and check that the metrics report it.

Blobs of many shapes, a small ViT, at most 1,000 steps, three seeds. Healthy training with the same seed is not
reported. Without BatchNorm in its head, healthy DINO is still near uniform after 1,000 steps.
SimSiam's projection has no BatchNorm at its end here: that layer gives the projection its spread whatever happens
before it, so that no collapse would show.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from zwicky import methods
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.methods.collapse import embedding_std
from zwicky.methods.losses import negative_cosine
from zwicky.methods.siamese import SimSiam

STEPS, EVERY, BATCH, IMAGES = 1000, 100, 64, 256
DISTILLED = {"prototypes": 64, "hidden": 64, "bottleneck": 32, "momentum": 0.99, "batch_norm": True}
DRILLS = {  # method, what is removed, the expected diagnosis
    "dino without centring": ("dino", {"center_momentum": 1.0}, "few prototypes"),
    "dino without sharpening": ("dino", {"teacher_temperature": 1.0, "teacher_temperature_end": 1.0}, "uniform"),
    "simsiam without predictor": ("simsiam", "predictor", "constant"),
    "simsiam without stop-gradient": ("simsiam", "stop-gradient", "constant"),
}


def blobs(count=IMAGES, size=24):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    dx, dy, angle, ratio, flux = (
        rng.uniform(low, high, (count, 1, 1)) for low, high in ((-3, 3), (-3, 3), (0, np.pi), (0.3, 1), (1, 3))
    )
    u = (x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)
    v = ((y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)) / ratio
    images = 10 * flux * np.exp(-(u**2 + v**2) / 12) + rng.normal(0, 0.3, (count, size, size))
    return images[:, None].astype(np.float32)


def metrics(kind, options, seed, small_backbone):
    """Mean metrics of the last 50 steps at step 0 and every 100 steps, with what the method says of them."""
    torch.manual_seed(seed)
    backbone = small_backbone("vit_tiny", bands=1, image_size=16, patch_size=4)
    torch.manual_seed(seed)
    if kind == "dino":
        method = methods.create("dino", backbone, **DISTILLED, **(options or {}))
    else:
        method = (NoStopGradient if options == "stop-gradient" else SimSiam)(backbone, width=64, bottleneck=16)
        method.projector[-1] = nn.Identity()
        if options == "predictor":
            method.predictor = nn.Identity()
    images = blobs()
    views = ViewsConfig(crop=16, local_crops=2, local_size=8, global_scale=(0.4, 1.0))
    normalisation = Normalisation.fit(images, ("r",))
    augment = Augment(views, normalisation, images.shape[2:], ("r",), 2, method.needs.local_crops)
    resident = torch.from_numpy(images)
    learning = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=2e-3, weight_decay=0.04)
    recent = []
    for step in range(STEPS):
        rows = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(10_000 * seed + step))[:BATCH]
        output = method(augment(resident[rows], rows, seed=seed, step=step))
        optimizer.zero_grad()
        output["loss"].backward()
        nn.utils.clip_grad_norm_(learning, 3.0)
        optimizer.step()
        method.after_step((step + 1) / STEPS)
        recent.append({name: float(value.detach()) for name, value in output.items()})
        if step == 0 or (step + 1) % EVERY == 0:
            last = recent[-50:]
            means = {name: float(np.mean([each[name] for each in last])) for name in last[0]}
            yield step + 1, means, method.diagnose(means)


class NoStopGradient(SimSiam):
    """SimSiam whose targets have a gradient."""

    def forward(self, views):
        z1, z2 = (self.projector(self.encoder(crop).pooled) for crop in views.crops)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        loss = negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2
        return {"loss": loss, "embedding_std": (embedding_std(z1) + embedding_std(z2)) / 2}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", DRILLS)
def test_each_collapse_is_diagnosed(name, seed, small_backbone):
    kind, change, expected = DRILLS[name]
    first, diagnoses = None, []
    for step, means, diagnosis in metrics(kind, change, seed, small_backbone):
        first = first or means
        if step > 1:
            diagnoses.append(diagnosis)
        if diagnosis and expected in diagnosis and step >= STEPS // 5:
            break
    assert diagnoses[-1] is not None, means
    assert expected in diagnoses[-1], (means, diagnoses[-1])
    assert all(expected in earlier for earlier in diagnoses if earlier), diagnoses  # never another collapse
    # The metric itself, relative to the first step.
    if expected == "uniform":
        short, at_first = (math.log(DISTILLED["prototypes"]) - each["teacher_entropy"] for each in (means, first))
        assert short < 0.5 * at_first, (short, at_first)  # an unsharpened teacher starts not far from uniform
    elif expected == "constant":
        assert means["embedding_std"] < 0.1 * first["embedding_std"]
    else:
        assert means["marginal_entropy"] < 0.3 * first["marginal_entropy"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["dino", "simsiam"])
def test_healthy_training_is_not_diagnosed(kind, seed, small_backbone):
    for step, means, diagnosis in metrics(kind, None, seed, small_backbone):
        if step >= STEPS // 5:
            assert diagnosis is None, (step, means)
