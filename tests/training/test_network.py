"""A network is saved, loaded and applied; images it was not made for are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from zwicky import backbones
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.methods.supervised import TargetScaler
from zwicky.training.network import Network, eval_mode, load_network, save_network


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
            network.head, network.classes, network.temperature = backbone.prediction_head(2), ("nonlens", "lens"), 1.7
        elif kind == "targets":
            network.head = backbone.prediction_head(3)
            network.targets = (Target(("flux",)), Target(("dx", "dy"), "vector"))
            network.scaler = TargetScaler((2.0, 0.5, -0.5), (0.5, 2.0, 3.0))
        return network, cutouts

    return make


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
@pytest.mark.parametrize("kind", ["classes", "targets", "none"])
def test_a_saved_network_gives_the_same_outputs(tmp_path, make_network, name, kind):
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
        probabilities = again.predict(cutouts.images)
        assert np.allclose(probabilities.sum(1), 1)
        logits = torch.from_numpy(again.outputs(cutouts.images)).double() / 1.7
        assert np.allclose(probabilities, logits.softmax(1).numpy(), atol=1e-6)


def test_outputs_do_not_depend_on_the_batch_or_the_mode(make_network):
    network, cutouts = make_network("resnet18")
    whole = network.features(cutouts.images)
    assert np.allclose(whole, network.features(cutouts.images, batch_size=3), atol=0.05 * np.abs(whole).max())
    network.backbone.train()
    assert np.array_equal(whole, network.features(cutouts.images))
    assert network.backbone.training
    assert network.features(cutouts.images[:0]).shape == (0, 512)


def test_rotated_images_have_the_same_features(make_network):
    network, cutouts = make_network()
    rotated = np.rot90(cutouts.images, axes=(2, 3))
    flat = np.ascontiguousarray(rotated[..., ::-1])
    expected = network.features(cutouts.images)
    assert np.allclose(network.features(flat), expected, atol=0.02 * np.abs(expected).max())


def test_regressed_vectors_rotate_with_the_image(make_network):
    """With D4 averaging, the output of a rotated image is the rotated output."""
    network, cutouts = make_network(kind="targets")
    upright = network.outputs(cutouts.images)
    rotated = network.outputs(np.ascontiguousarray(np.rot90(cutouts.images, axes=(2, 3))))
    assert np.ptp(upright[:, 1:]) > 1e-3  # an average without rotating back is nearly constant
    # rot90 takes (x, y) to (y, −x).
    expected = np.stack([upright[:, 0], upright[:, 2], -upright[:, 1]], 1)
    assert np.allclose(rotated, expected, atol=0.03)


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


def test_a_network_without_a_head_names_the_next_step(make_network):
    network, cutouts = make_network(kind="none")
    with pytest.raises(UserError, match="finetune"):
        network.probabilities(cutouts.images)


def test_what_cannot_be_loaded_is_one_line(tmp_path, make_network):
    network, _ = make_network()
    with pytest.raises(UserError, match="holds no network"):
        load_network(str(tmp_path))
    save_network(tmp_path, network)
    weights, description = tmp_path / "network.safetensors", tmp_path / "network.json"
    content, settings = weights.read_bytes(), json.loads(description.read_text())
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match="cannot load the network") as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)
    weights.write_bytes(content)
    load_network(tmp_path)
    for change in ({"schema_version": 99}, {"head": False}, {"normalisation": {}}):
        description.write_text(json.dumps(settings | change))
        with pytest.raises(UserError) as caught:
            load_network(tmp_path)
        assert "\n" not in str(caught.value)


def test_eval_mode_is_undone(make_network):
    network, _ = make_network("resnet18")
    network.backbone.train()
    with eval_mode(network.backbone, None):
        assert not network.backbone.net.bn1.training
    assert network.backbone.net.bn1.training


def test_big_endian_images_as_fits_has_them(make_network):
    network, cutouts = make_network()
    swapped = cutouts.images.astype(">f4")
    assert np.array_equal(network.predict(swapped), network.predict(cutouts.images))
