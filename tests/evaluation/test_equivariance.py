"""Equivariance error of a network that is exact, of one that is not, and of one whose window is not."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.evaluation.equivariance import equivariance_error, equivariance_text, verify
from zwicky.training.network import save_network

TARGETS = (Target(("flux",)), Target(("dx", "dy"), "vector"), Target(("e1", "e2"), "spin2"))


@pytest.fixture
def make(small_network):
    def build(name, head="classes", side=16):
        images = np.random.default_rng(0).normal(5, 2, (12, 2, side, side)).astype(np.float32)
        network = small_network(images, head, name)
        network.temperature = 0.1 if head == "classes" else network.temperature
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return network, make_cutouts(images, ("g", "r"), pixel_scale=[0.2] * 12)

    return build


@pytest.mark.parametrize("head", ["classes", TARGETS, None])
def test_an_exact_network_is_exact(make, head, tmp_path):
    network, cutouts = make("d4_vit", head)
    save_network(tmp_path, network)
    table = verify(tmp_path, cutouts, count=8)
    assert len(table) == 8
    assert table["features"].max() < 1e-5
    assert table["distance"].max() < 1e-4
    assert ("outputs" in table) == (head is not None)
    assert head is None or table["outputs"].max() < 1e-4
    assert ("changed" in table) == (head == "classes")
    assert "Exactly invariant" in equivariance_text(table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "equivariance.csv"), table)


def test_a_plain_network_is_not(make):
    network, cutouts = make("vit_tiny")
    table = equivariance_error(network, cutouts.images)
    assert table["features"][0] == 0
    assert table[["features", "distance"]][1:].min().min() > 1e-2
    assert table["outputs"][1:].min() > 1e-4
    assert "Not invariant" in equivariance_text(table)
    turned = cutouts.images, np.ascontiguousarray(np.rot90(cutouts.images, axes=(2, 3)))
    upright, rotated = (network.probabilities(images, turns=False) for images in turned)
    assert table["outputs"][1] == pytest.approx(np.abs(rotated - upright).max(), abs=0.05)
    features = [network.features(images, turns=False) for images in turned]
    moved = np.linalg.norm(features[1] - features[0], axis=1)
    assert table["distance"][1] == pytest.approx(moved.mean() / pdist(features[0]).mean(), rel=0.05)
    assert table["changed"][1] == pytest.approx(np.mean(rotated.argmax(1) != upright.argmax(1)), abs=0.09)


def test_a_window_off_the_centre_is_named(make):
    network, cutouts = make("d4_vit", side=17)
    table = equivariance_error(network, cutouts.images)
    assert table["features"].max() > 1e-2
    assert table["after_cropping"].max() < 1e-5
    assert "views.crop" in equivariance_text(table)
