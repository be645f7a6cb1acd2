"""Masks: how many cells, which shapes, and that processes see what one would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Masking


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0, 1),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_each_image_hides_its_share_exactly(height, width, share, blocks, seed):
    masking = Masking((height, width), (share, share), blocks=blocks)
    mask = masking.draw(7, torch.Generator().manual_seed(seed))
    assert mask.shape == (7, height, width)
    assert (mask.sum((1, 2)) == round(share * height * width)).all()


def test_shares_spread_over_the_range_and_some_images_stay_whole():
    mask = Masking((10, 10), (0.1, 0.5), probability=0.5, blocks=True).draw(4000, torch.Generator().manual_seed(0))
    hidden = mask.sum((1, 2)).float() / 100
    assert 0.46 < float((hidden == 0).float().mean()) < 0.54
    some = hidden[hidden > 0]
    assert float(some.min()) >= 0.1
    assert float(some.max()) <= 0.5
    assert float(some.mean()) == pytest.approx(0.3, abs=0.01)


def test_blocks_hold_together():
    """Hidden cells have more hidden neighbours in blocks than alone, on the smallest grid in use too."""

    def neighbours(masking: Masking) -> float:
        mask = masking.draw(500, torch.Generator().manual_seed(1)).float()
        pairs = (mask[:, 1:] * mask[:, :-1]).sum() + (mask[:, :, 1:] * mask[:, :, :-1]).sum()
        return float(pairs / mask.sum())

    for grid, least in (((14, 14), 1.5), ((4, 4), 1.1)):
        assert neighbours(Masking(grid, (0.4, 0.4), blocks=True)) > least * neighbours(Masking(grid, (0.4, 0.4)))


def test_cells_of_alone_are_hidden_equally_often():
    mask = Masking((3, 5), (0.4, 0.4)).draw(20000, torch.Generator().manual_seed(2)).float().mean(0)
    assert torch.allclose(mask, torch.full((3, 5), 0.4), atol=0.02)


def test_two_processes_see_the_masks_of_one_and_unmasked_views_are_unchanged():
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 1, 24, 24)).astype(np.float32))
    config = ViewsConfig(crop=16, local_crops=0)
    normalisation = Normalisation.fit(images.numpy(), ("r",))

    def augment(masking):
        return Augment(config, normalisation, (24, 24), ("r",), 2, masking=masking)

    masked = augment(Masking((4, 4), (0.3, 0.7), blocks=True))
    rows = torch.arange(6)
    whole = masked(images, rows, seed=3, step=5)
    assert len(whole.masks) == 2
    assert not torch.equal(whole.masks[0], whole.masks[1])
    for part in (slice(0, 2), slice(2, 6)):
        mine = masked(images[part], rows[part], seed=3, step=5, part=part, global_batch=6)
        for all_of_them, some in zip(whole.masks, mine.masks, strict=True):
            assert torch.equal(all_of_them[part], some)
    plain = augment(None)(images, rows, seed=3, step=5)
    assert plain.masks is None
    assert all(torch.equal(a, b) for a, b in zip(plain.crops, whole.crops, strict=True))


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
