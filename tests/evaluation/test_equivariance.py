"""What is measured of a network that is exact, one that is not, and one whose window is not."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from zwicky import backbones
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.evaluation.equivariance import ELEMENTS, equivariance_error, verify
from zwicky.methods.supervised import TargetScaler
from zwicky.training.network import Network, load_network, save_network

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
def test_an_exact_network_is_said_to_be_exact(make, kind, tmp_path):
    network, cutouts = make("d4_vit", kind)
    save_network(tmp_path, network)
    found = verify(tmp_path, cutouts, count=8)
    assert max(found.summary) < 1e-5
    assert max(found.distance) < 1e-4
    assert max(found.answers, default=0) < 1e-4
    assert "Exact" in found.text()
    assert found.count == 8
    rows = list(csv.DictReader((tmp_path / "equivariance.csv").open()))
    assert [row["element"] for row in rows] == list(ELEMENTS)
    assert [float(row["summary"]) for row in rows] == found.summary


def test_a_plain_network_is_not(make):
    network, cutouts = make("vit_tiny")
    found = equivariance_error(network, cutouts.images)
    assert found.summary[0] == 0
    assert min(found.summary[1:]) > 1e-2
    assert min(found.distance[1:]) > 1e-2
    assert min(found.answers[1:]) > 1e-4
    assert "Not invariant" in found.text()
    upright, turned = (
        network.probabilities(np.ascontiguousarray(images), turns=False)
        for images in (cutouts.images, np.rot90(cutouts.images, axes=(2, 3)))
    )
    assert found.answers[1] == pytest.approx(np.abs(turned - upright).max(), abs=0.05)
    assert found.changed[1] == pytest.approx(np.mean(turned.argmax(1) != upright.argmax(1)), abs=0.09)


def test_a_window_off_the_centre_is_named(make):
    network, cutouts = make("d4_vit", side=17)
    found = equivariance_error(network, cutouts.images)
    assert max(found.summary) > 1e-2
    assert max(found.after_cropping) < 1e-5
    assert "views.crop" in found.text()


def test_predictions_of_a_written_network_still_turn(make, tmp_path):
    network, cutouts = make("d4_vit", "targets")
    save_network(tmp_path, network)
    again = load_network(tmp_path)
    assert np.array_equal(network.outputs(cutouts.images), again.outputs(cutouts.images))
    upright = again.outputs(cutouts.images)
    turned = again.outputs(np.ascontiguousarray(np.rot90(cutouts.images, axes=(2, 3))))
    # rot90 takes (x, y) to (y, −x), and a spin-2 pair to its opposite.
    expected = upright[:, [0, 2, 1, 3, 4]] * [1, 1, -1, -1, -1]
    assert np.allclose(turned, expected, atol=1e-4 * upright.std(0).max())
    assert upright[:, 1:].std(0).min() > 1e-4


def test_too_few_cutouts_or_oblong_ones_are_refused(make):
    network, cutouts = make("vit_tiny")
    for images in (cutouts.images[:1], cutouts.images[..., :12]):
        with pytest.raises(UserError, match="verify") as caught:
            equivariance_error(network, images)
        assert "\n" not in str(caught.value)
