"""Flux: each step against numpy, scipy or kornia; colours kept; no clamping; no parameter shared within a batch."""

from dataclasses import fields
from functools import partial

import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zwicky.augment import photometry
from zwicky.augment.config import ViewsConfig
from zwicky.augment.views import Masking
from zwicky.errors import UserError

BANDS = ("u", "g", "r", "i", "z", "y")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_brightness_and_contrast_keep_colours(bands, seed):
    flux = noise(5, 1, 9, 11, seed=seed) * 10 * torch.linspace(0.3, 4, bands)[None, :, None, None]
    random = noise(2, 5, seed=seed + 1).abs() + 0.2
    mean, (b, c) = flux.mean((2, 3), keepdim=True), random.view(2, 5, 1, 1, 1)
    expected = b * (mean + c * (flux - mean))  # the same factors in all bands
    torch.testing.assert_close(photometry.brightness_contrast(flux, *random), expected, rtol=1e-4, atol=1e-3)


def test_blur_is_a_round_gaussian_of_its_own_width_for_each_crop():
    """Against scipy with the edge weights divided out, on non-square crops, and against kornia inside."""
    sigmas, crops = (0.3, 0.8, 2.0), noise(3, 3, 20, 26)
    for crop, sigma, out in zip(crops, sigmas, photometry.widen_psf(crops, torch.tensor(sigmas)), strict=True):
        blur = partial(ndimage.gaussian_filter, sigma=(0, sigma, sigma), mode="constant", truncate=8)
        np.testing.assert_allclose(out, blur(crop.double().numpy()) / blur(np.ones(crop.shape)), atol=1e-5)
        reference = kornia.filters.gaussian_blur2d(crop[None], (17, 17), (sigma, sigma), border_type="reflect")[0]
        np.testing.assert_allclose(out[:, 9:-9, 9:-9], reference[:, 9:-9, 9:-9], atol=2e-4)


@given(st.lists(st.sampled_from(BANDS), min_size=1, max_size=6, unique=True), st.floats(0, 0.5))
@settings(max_examples=20, deadline=None)
def test_reddening_in_magnitudes(bands, excess):
    coefficients = photometry.extinction(tuple(bands))
    crops = photometry.redden_(torch.ones(2, len(bands), 3, 3), coefficients, torch.tensor([0.0, excess]))
    assert (crops[0] == 1).all()
    magnitudes = -2.5 * np.log10(crops[1, :, 0, 0].double().numpy())
    np.testing.assert_allclose(magnitudes, [photometry.EXTINCTION[band] * excess for band in bands], atol=1e-5)
    with pytest.raises(UserError, match="'gray'"):
        photometry.extinction((*bands, "gray"))


def test_the_extinction_law_falls_ever_more_steeply_towards_the_red():
    wavelength = np.log([354, 477, 623, 763, 913, 971])  # nm
    slope = np.diff(np.log(photometry.extinction(BANDS).numpy())) / np.diff(wavelength)
    assert slope[0] < 0
    assert (np.diff(slope) < 0).all()


def test_draws_differ_within_a_batch_and_follow_the_configuration():
    config = ViewsConfig(brightness=0.2, contrast=0.3, blur=0.4, noise=0.6, reddening=0.2, band_dropout=0.25)
    u = torch.rand(20000, photometry.N_UNIFORMS, generator=torch.Generator().manual_seed(0))
    drawn = photometry.Photometry.draw(u, config, 3)
    for factor, width in ((drawn.brightness, 0.2), (drawn.contrast, 0.3)):
        assert factor.unique().numel() > 10000
        assert factor.aminmax() == pytest.approx((1 - width, 1 + width), abs=1e-3)
    levels = ((drawn.blur_sigma, 0.4, config.blur_sigma), (drawn.noise_sigma, 0.6, config.noise_sigma))
    for level, share, (low, high) in levels:
        positive = level[level > 0]
        assert len(positive) / 20000 == pytest.approx(share, abs=0.015)
        assert low / 1.0001 <= positive.min() < positive.max() <= high * 1.0001
        assert positive.log().mean().item() == pytest.approx(np.log(low * high) / 2, abs=0.03)  # log-uniform
    assert (drawn.dropped_band >= 0).double().mean().item() == pytest.approx(0.25, abs=0.015)
    assert drawn.dropped_band.unique().tolist() == [-1, 0, 1, 2]
    independent = np.corrcoef([getattr(drawn, field.name).numpy() for field in fields(drawn)])
    assert abs(independent - np.eye(6)).max() < 0.03
    for share in (0.0, 1.0):
        u[0] = 0
        drawn = photometry.Photometry.draw(u, ViewsConfig(blur=share, noise=share, band_dropout=share), 2)
        for fired in (drawn.blur_sigma > 0, drawn.noise_sigma > 0, drawn.dropped_band >= 0):
            assert fired.double().mean() == share


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))
def test_each_image_hides_its_share_exactly(height, width, share, blocks, seed):
    masking = Masking((height, width), (share, share), blocks=blocks)
    mask = masking.draw(7, torch.Generator().manual_seed(seed))
    assert mask.shape == (7, height, width)
    assert (mask.sum((1, 2)) == round(share * height * width)).all()


def test_shares_spread_over_the_range_and_some_images_stay_whole():
    mask = Masking((10, 10), (0.1, 0.5), probability=0.5, blocks=True).draw(4000, torch.Generator().manual_seed(0))
    hidden = mask.sum((1, 2)).float() / 100
    assert 0.46 < float((hidden == 0).float().mean()) < 0.54
    masked = hidden[hidden > 0]
    assert 0.1 <= float(masked.min()) < float(masked.max()) <= 0.5
    assert float(masked.mean()) == pytest.approx(0.3, abs=0.01)


def test_single_patches_are_masked_equally_often_and_blocks_on_either_side():
    mask = Masking((3, 5), (0.4, 0.4)).draw(20000, torch.Generator().manual_seed(2)).float().mean(0)
    assert torch.allclose(mask, torch.full((3, 5), 0.4), atol=0.02)
    mask = Masking((6, 8), (0.1, 0.5), blocks=True).draw(20000, torch.Generator().manual_seed(2)).float().mean(0)
    for side in (0, 1):
        assert torch.allclose(mask, mask.flip(side), atol=0.02)


def reference_block_mask(size, n_masked, rng):
    """The block masking of iBOT's code (`ImageFolderMask`) on a square grid."""
    mask, smallest = np.zeros((size, size), bool), (size // 3) ** 2
    while (left := n_masked - mask.sum()) > 0:
        for _ in range(10):
            area, aspect = rng.uniform(*sorted((smallest, left))), np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if w < size and h < size:
                top, first = rng.integers(0, size - h + 1), rng.integers(0, size - w + 1)
                block = mask[top : top + h, first : first + w]
                if 0 < (~block).sum() <= left:
                    block[:] = True
                    break
        else:
            return mask
    return mask


@pytest.mark.parametrize("size", [8, 14])
def test_blocks_are_as_compact_as_ibots(size):
    def compactness(masks):
        pairs = (masks[:, 1:] & masks[:, :-1]).sum() + (masks[:, :, 1:] & masks[:, :, :-1]).sum()
        return pairs / masks.sum()

    rng = np.random.default_rng(0)
    reference = np.stack([reference_block_mask(size, rng.uniform(0.1, 0.5) * size**2, rng) for _ in range(1000)])
    masks = Masking((size, size), (0.1, 0.5), blocks=True).draw(1000, torch.Generator().manual_seed(0)).numpy()
    assert compactness(masks) == pytest.approx(compactness(reference), rel=0.025)
