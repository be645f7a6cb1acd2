"""A network is saved, loaded and applied; images it was not made for are refused."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.special import softmax

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
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
        normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
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
        expected = softmax(again.outputs(cutouts.images) / 1.7, axis=1)
        assert np.allclose(again.predict(cutouts.images), expected, atol=1e-6)


def test_outputs_do_not_depend_on_the_batch_the_mode_or_the_byte_order(make_network):
    network, cutouts = make_network("resnet18")
    features = network.features(cutouts.images)
    assert np.allclose(features, network.features(cutouts.images, batch_size=3), atol=0.05 * np.abs(features).max())
    network.backbone.train()
    assert np.array_equal(features, network.features(cutouts.images.astype(">f4")))  # as in FITS files
    assert network.backbone.training
    assert network.features(cutouts.images[:0]).shape == (0, 512)
    with eval_mode(network.backbone, None):
        assert not network.backbone.net.bn1.training
    assert network.backbone.net.bn1.training


def test_features_are_invariant_and_vectors_rotate_with_the_image(make_network):
    network, cutouts = make_network(kind="targets")
    rotated = np.ascontiguousarray(np.rot90(cutouts.images, axes=(2, 3)))
    expected = network.features(cutouts.images)
    assert np.allclose(network.features(rotated[..., ::-1].copy()), expected, atol=0.02 * np.abs(expected).max())
    upright = network.outputs(cutouts.images)
    assert np.ptp(upright[:, 1:]) > 1e-3  # an average without rotating back is nearly constant
    # rot90 takes (x, y) to (y, −x).
    expected = np.stack([upright[:, 0], upright[:, 2], -upright[:, 1]], 1)
    assert np.allclose(network.outputs(rotated), expected, atol=0.03)


def test_other_bands_and_scales_are_refused(make_network):
    network, cutouts = make_network()
    for bands, scale, message in (
        (cutouts.bands, 0.2, None),
        (cutouts.bands, 0.201, None),
        (cutouts.bands, np.nan, None),  # an unknown scale cannot be compared
        (("b1", "b0"), 0.2, "bands"),
        (cutouts.bands, 0.4, r"0\.4"),
    ):
        other = make_cutouts(cutouts.images, bands, pixel_scale=[scale] * 20)
        with nullcontext() if message is None else pytest.raises(UserError, match=message):
            network.check(other)
    with pytest.raises(UserError, match="finetune"):
        make_network(kind="none")[0].probabilities(cutouts.images)
