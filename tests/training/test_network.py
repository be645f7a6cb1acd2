"""A network is written, read and applied; what it was not made for is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from zwicky import backbones, d4
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target, transform_targets
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.methods.supervised import TargetScaler
from zwicky.training.network import Network, load_network, save_network


@pytest.fixture
def make_network(make_blobs):
    def make(name="vit_tiny", kind="classes"):
        cutouts, _ = make_blobs(20)
        torch.manual_seed(0)
        options = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2} if name == "vit_tiny" else {}
        backbone = backbones.create(name, bands=2, image_size=16, **options)
        normalisation = Normalisation.fit(cutouts.images, cutouts.bands, NormalisationConfig())
        network = Network(backbone, normalisation, ViewsConfig(crop=16, image_size=16), cutouts.bands, 0.2)
        if kind == "classes":
            network.head, network.classes, network.temperature = nn.Linear(backbone.dim, 2), ("nonlens", "lens"), 1.7
        elif kind == "targets":
            network.head = nn.Linear(backbone.dim, 3)
            network.targets = (Target(("flux",)), Target(("dx", "dy"), "vector"))
            network.scaler = TargetScaler((2.0, 0.5, -0.5), (0.5, 2.0, 3.0))
        return network, cutouts

    return make


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
@pytest.mark.parametrize("kind", ["classes", "targets", "none"])
def test_written_and_read_gives_the_same_answers(tmp_path, make_network, name, kind):
    network, cutouts = make_network(name, kind)
    save_network(tmp_path, network)
    again = load_network(tmp_path)
    assert np.array_equal(network.features(cutouts.images), again.features(cutouts.images))
    for field in ("bands", "pixel_scale", "classes", "targets", "scaler", "temperature", "views"):
        assert getattr(network, field) == getattr(again, field), field
    assert network.normalisation == again.normalisation
    if kind != "none":
        assert np.array_equal(network.outputs(cutouts.images), again.outputs(cutouts.images))
    if kind == "classes":
        probabilities = again.probabilities(cutouts.images)
        assert np.allclose(probabilities.sum(1), 1)
        logits = torch.from_numpy(again.outputs(cutouts.images)).double() / 1.7
        assert np.allclose(probabilities, logits.softmax(1).numpy(), atol=1e-6)


def test_answers_do_not_depend_on_the_batch_or_the_mode(make_network):
    network, cutouts = make_network("resnet18")
    whole = network.features(cutouts.images)
    assert np.allclose(whole, network.features(cutouts.images, batch_size=3), atol=0.05 * np.abs(whole).max())
    network.backbone.train()
    assert np.array_equal(whole, network.features(cutouts.images))
    assert network.backbone.training
    assert network.features(cutouts.images[:0]).shape == (0, 512)


def test_turned_images_get_the_same_features(make_network):
    network, cutouts = make_network()
    turned = np.rot90(cutouts.images, axes=(2, 3))
    flat = np.ascontiguousarray(turned[..., ::-1])
    expected = network.features(cutouts.images)
    assert np.allclose(network.features(flat), expected, atol=0.02 * np.abs(expected).max())


def test_each_turn_is_undone_on_the_targets():
    """A bright pixel at an offset v lands at w in a turned image; its map brings w back to v."""
    size, (x, y) = 9, (6, 1)
    image = torch.zeros(1, 1, size, size)
    image[0, 0, y, x] = 1
    centre = (size - 1) / 2
    offset = torch.tensor([[x - centre, y - centre]])
    angle = torch.atan2(offset[0, 1], offset[0, 0])
    spin = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)])[None]
    kinds = (Target(("dx", "dy"), "vector"), Target(("e1", "e2"), "spin2"), Target(("theta_E",)))
    for turn, view in enumerate(d4.apply(image)):
        row, column = (int(value) for value in (view[0, 0] == 1).nonzero()[0])
        seen = torch.tensor([[column - centre, row - centre]])
        angle_seen = torch.atan2(seen[0, 1], seen[0, 0])
        spin_seen = torch.stack([torch.cos(2 * angle_seen), torch.sin(2 * angle_seen)])[None]
        values = torch.cat([seen, spin_seen, torch.tensor([[1.5]])], 1)
        back = transform_targets(values, kinds, d4.to_source(int(d4.INVERSE[turn]))[None])
        assert torch.allclose(back, torch.cat([offset, spin, torch.tensor([[1.5]])], 1), atol=1e-5), turn


def test_regressed_vectors_turn_with_the_image(make_network):
    """With the eight turns averaged, the answer to a turned image is the turned answer."""
    network, cutouts = make_network(kind="targets")
    upright = network.outputs(cutouts.images)
    turned = network.outputs(np.ascontiguousarray(np.rot90(cutouts.images, axes=(2, 3))))
    assert np.ptp(upright[:, 1:]) > 1e-3  # an average without turning back would give nearly one value for all
    # rot90 takes (x, y) to (y, −x).
    expected = np.stack([upright[:, 0], upright[:, 2], -upright[:, 1]], 1)
    assert np.allclose(turned, expected, atol=0.03)


def test_other_bands_and_scales_are_refused(make_network):
    network, cutouts = make_network()
    network.check(cutouts)
    images = cutouts.images
    network.check(make_cutouts(images, cutouts.bands, pixel_scale=[0.201] * len(images)))
    network.check(make_cutouts(images, cutouts.bands))  # an unknown scale cannot be compared
    with pytest.raises(UserError, match="bands"):
        network.check(make_cutouts(images, ("b1", "b0"), pixel_scale=[0.2] * len(images)))
    with pytest.raises(UserError, match=r"0\.4"):
        network.check(make_cutouts(images, cutouts.bands, pixel_scale=[0.4] * len(images)))


def test_a_network_without_a_head_says_what_to_do(make_network):
    network, cutouts = make_network(kind="none")
    with pytest.raises(UserError, match="finetune"):
        network.probabilities(cutouts.images)


def test_damage_is_one_line(tmp_path, make_network):
    network, _ = make_network()
    with pytest.raises(UserError, match="holds no network"):
        load_network(tmp_path)
    save_network(tmp_path, network)
    weights, words = tmp_path / "network.safetensors", tmp_path / "network.json"
    good, known = weights.read_bytes(), json.loads(words.read_text())
    for content in (good[:-10], good[:50], b""):
        weights.write_bytes(content)
        with pytest.raises(UserError, match="damaged") as caught:
            load_network(tmp_path)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(UserError, match="damaged"):
        load_network(tmp_path)
    weights.write_bytes(good)
    load_network(tmp_path)
    for broken in (
        {**known, "schema_version": 99},
        {**known, "head": 5},
        {key: known[key] for key in known if key != "normalisation"},
        {**known, "normalisation": {**known["normalisation"], "scale": [0.0, 0.0]}},
    ):
        words.write_text(json.dumps(broken))
        with pytest.raises(UserError) as caught:
            load_network(tmp_path)
        assert "\n" not in str(caught.value)
    words.write_text(json.dumps(known)[:40])
    with pytest.raises(UserError):
        load_network(tmp_path)
