"""A network is saved, loaded and applied; images it was not made for are refused."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.special import softmax

from zwicky import d4
from zwicky.augment.views import Target, eval_views
from zwicky.data.cutouts import make_cutouts
from zwicky.errors import UserError
from zwicky.training.network import eval_mode, load_network, save_network

TARGETS = (Target(("flux",)), Target(("dx", "dy"), "vector"))


@pytest.fixture
def make_network(make_blobs, small_network):
    def make(name="vit_tiny", head="classes"):
        cutouts, _ = make_blobs(20)
        return small_network(cutouts.images, head, name, cutouts.bands), cutouts

    return make


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
@pytest.mark.parametrize("head", ["classes", TARGETS, None])
def test_a_saved_network_gives_the_same_outputs(tmp_path, make_network, name, head):
    network, cutouts = make_network(name, head)
    save_network(tmp_path, network)
    again = load_network(tmp_path)
    assert np.array_equal(network.features(cutouts.images), again.features(cutouts.images))
    for field in ("bands", "pixel_scale", "classes", "targets", "scaler", "temperature", "views"):
        assert getattr(network, field) == getattr(again, field), field
    assert network.normalisation == again.normalisation
    if head:
        assert np.array_equal(network.outputs(cutouts.images), again.outputs(cutouts.images))
    if head == "classes":
        expected = softmax(again.outputs(cutouts.images) / 1.7, axis=1)
        assert np.allclose(again.predict(cutouts.images), expected, atol=1e-6)


def test_outputs_do_not_depend_on_the_batch_the_mode_or_the_byte_order(make_network):
    network, cutouts = make_network("resnet18")
    features = network.features(cutouts.images)
    few = np.concatenate([network.features(cutouts.images[rows : rows + 3]) for rows in range(0, len(cutouts), 3)])
    assert np.allclose(features, few, atol=0.05 * np.abs(features).max())
    network.backbone.train()
    assert np.array_equal(features, network.features(cutouts.images.astype(">f4")))  # as in FITS files
    assert network.backbone.training
    assert network.features(cutouts.images[:0]).shape == (0, 512)
    with eval_mode(network.backbone, None):
        assert not network.backbone.net.bn1.training
    assert network.backbone.net.bn1.training


def test_an_image_without_a_valid_pixel_has_no_output(make_network):
    network, cutouts = make_network("resnet18")
    images = cutouts.images[:3].astype(np.float32)
    images[1] = images[2, :, :3] = np.nan
    assert np.isnan(network.features(images)).all(1).tolist() == [False, True, False]


def test_features_are_invariant_and_vectors_rotate_with_the_image(make_network):
    network, cutouts = make_network(head=TARGETS)
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
        (cutouts.bands, 0.21, r"0\.21"),
    ):
        other = make_cutouts(cutouts.images, bands, pixel_scale=[scale] * 20)
        with nullcontext() if message is None else pytest.raises(UserError, match=message):
            network.check(other)
    with pytest.raises(UserError, match="finetune"):
        make_network(head=None)[0].probabilities(cutouts.images)


@pytest.mark.parametrize("name", ["vit_tiny", "polar_vit", "polar_swin", "swin_tiny", "resnet18"])
def test_block_features_are_mean_and_spread_of_the_tokens(make_network, name):
    network, cutouts = make_network(name)
    read = network.block_features(cutouts.images)
    crops = eval_views(torch.from_numpy(cutouts.images), network.views, network.normalisation)[0]
    with torch.inference_mode(), eval_mode(network.backbone):
        views = [crops] if network.backbone.invariant else d4.apply(crops)
        last = [network.backbone(view).patch_tokens.flatten(1, 2) for view in views]
    expected = np.mean([np.concatenate([t.mean(1), t.std(1, correction=0)], 1) for t in last], axis=0)
    assert np.allclose(read[:, -expected.shape[1] :], expected, atol=2e-2)
    assert (read.shape[1] > expected.shape[1]) == (name != "resnet18")
    assert np.array_equal(read, network.block_features(cutouts.images))  # no hook is left behind
