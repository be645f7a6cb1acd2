"""Masks: how many patches, and which shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zwicky.augment.views import Masking


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


def test_single_patches_are_masked_equally_often():
    mask = Masking((3, 5), (0.4, 0.4)).draw(20000, torch.Generator().manual_seed(2)).float().mean(0)
    assert torch.allclose(mask, torch.full((3, 5), 0.4), atol=0.02)


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
