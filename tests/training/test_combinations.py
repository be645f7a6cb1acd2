"""Every method on every backbone trains, saves and goes on with the numbers of an uninterrupted fit."""

from __future__ import annotations

import pytest
import torch

from zwicky.augment.augment import Augment
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.backbones.registry import BACKBONES
from zwicky.backbones.vit import ViT
from zwicky.errors import UserError
from zwicky.methods import METHODS
from zwicky.training import state
from zwicky.training.config import TrainConfig
from zwicky.training.loader import TrainingSet
from zwicky.training.loop import fit

SAME_MADE_SMALL = ("vit_small", "vit_base", "swin_small")  # as vit_tiny and swin_tiny


class Stopped(Exception):
    pass


def sensible(method, backbone):
    if method == "mae":
        return isinstance(backbone, ViT)
    return backbone.supports_masking or method not in ("ibot", "simmim", "beit")


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("backbone_name", [name for name in BACKBONES if name not in SAME_MADE_SMALL])
def test_stopped_and_resumed_is_uninterrupted(
    method_name, backbone_name, small_backbone, small_method, make_blobs, tmp_path, monkeypatch
):
    monkeypatch.setattr(state, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    cutouts, _ = make_blobs(16, size=40)
    images, rows = torch.from_numpy(cutouts.images), torch.arange(16)
    views = ViewsConfig(crop=32, local_crops=1, local_size=16)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands, NormalisationConfig())
    config = TrainConfig(max_steps=3, batch_size=8, precision="float32", evaluations=1)

    def run(folder, stop=None):
        backbone = small_backbone(backbone_name, bands=2, drop_path=0.1) if backbone_name != "resnet18" else None
        backbone = backbone or small_backbone(backbone_name, bands=2)
        torch.manual_seed(0)
        method = small_method(method_name, backbone)
        needs = method.needs
        augment = Augment(
            views,
            normalisation,
            cutouts.size,
            cutouts.bands,
            needs.global_crops,
            needs.local_crops,
            masking=needs.masking,
        )
        torch.manual_seed(0)
        method.prepare(augment(images, rows, seed=0, step=0))
        after_step, done = method.after_step, []

        def stopping(progress):
            done.append(progress)
            if len(done) == stop:
                raise Stopped
            after_step(progress)

        method.after_step = stopping
        source = TrainingSet(cutouts.images, rows.numpy(), rows % 3 if needs.targets else None)
        fit(method, source, augment, config, seed=1, folder=tmp_path / folder, title="t", quiet=True)
        return method

    if not sensible(method_name, small_backbone(backbone_name)):
        with pytest.raises(UserError, match=f"{method_name}: {backbone_name}.*take"):
            run("refused")
        return
    whole = run("whole").state_dict()
    with pytest.raises(Stopped):
        run("parts", stop=3)
    resumed = run("parts").state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
