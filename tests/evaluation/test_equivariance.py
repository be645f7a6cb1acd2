"""Equivariance error of a network that is exact, of one that is not, and of one whose window is not."""

import numpy as np
import pandas as pd
import pytest
import torch

from zwicky import backbones
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.evaluation.equivariance import equivariance_error, equivariance_text, verify
from zwicky.methods.supervised import TargetScaler
from zwicky.training.network import Network, save_network

TARGETS = (Target(("flux",)), Target(("dx", "dy"), "vector"), Target(("e1", "e2"), "spin2"))


@pytest.fixture
def make():
    def build(name, kind="classes", side=16, crop=16):
        torch.manual_seed(0)
        images = np.random.default_rng(0).normal(5, 2, (12, 2, side, side)).astype(np.float32)
        cutouts = make_cutouts(images, ("g", "r"), pixel_scale=[0.2] * 12)
        backbone = backbones.create(name, bands=2, image_size=16, patch_size=8, width=32, depth=2, heads=2)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        normalisation = Normalisation.fit(images, ("g", "r"), NormalisationConfig())
        network = Network(backbone, normalisation, ViewsConfig(crop=crop, image_size=16), ("g", "r"), 0.2)
        if kind == "classes":
            network.head, network.classes, network.temperature = backbone.prediction_head(2), ("nonlens", "lens"), 0.1
        elif kind == "targets":
            network.head, network.targets = backbone.prediction_head(5, TARGETS), TARGETS
            network.scaler = TargetScaler((3.0, 0, 0, 0, 0), (2.0, 3.0, 3.0, 0.5, 0.5))
        return network, cutouts

    return build


@pytest.mark.parametrize("kind", ["classes", "targets", "none"])
def test_an_exact_network_is_exact(make, kind, tmp_path):
    network, cutouts = make("d4_vit", kind)
    save_network(tmp_path, network)
    table = verify(tmp_path, cutouts, count=8)
    assert len(table) == 8
    assert table["features"].max() < 1e-5
    assert table["distance"].max() < 1e-4
    assert ("outputs" in table) == (kind != "none")
    assert kind == "none" or table["outputs"].max() < 1e-4
    assert ("changed" in table) == (kind == "classes")
    assert "Exactly invariant" in equivariance_text(table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "equivariance.csv"), table)


def test_a_plain_network_is_not(make):
    network, cutouts = make("vit_tiny")
    table = equivariance_error(network, cutouts.images)
    assert table["features"][0] == 0
    assert table[["features", "distance"]][1:].min().min() > 1e-2
    assert table["outputs"][1:].min() > 1e-4
    assert "Not invariant" in equivariance_text(table)
    upright, rotated = (
        network.probabilities(np.ascontiguousarray(images), turns=False)
        for images in (cutouts.images, np.rot90(cutouts.images, axes=(2, 3)))
    )
    assert table["outputs"][1] == pytest.approx(np.abs(rotated - upright).max(), abs=0.05)
    assert table["changed"][1] == pytest.approx(np.mean(rotated.argmax(1) != upright.argmax(1)), abs=0.09)


def test_a_window_off_the_centre_is_named(make):
    network, cutouts = make("d4_vit", side=17)
    table = equivariance_error(network, cutouts.images)
    assert table["features"].max() > 1e-2
    assert table["after_cropping"].max() < 1e-5
    assert "views.crop" in equivariance_text(table)
