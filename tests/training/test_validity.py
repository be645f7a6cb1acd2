"""From the files of two surveys to the views: missing bands and pixels are 0 in the crops, and invalid."""

import numpy as np
import pytest
import torch
from astropy.io import fits

from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.data.ingest import ingest
from zwicky.data.store import open_store

from .conftest import STILL


@pytest.fixture
def survey(tmp_path):
    """Store of 16 × 16 images: six with the bands g and r, six with r and i, and a few bad pixels; (cutouts, truth)."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    truth = {}
    for row in range(12):
        bands = "gr" if row % 2 else "ri"
        image = rng.normal(5, 2, (2, 16, 16)).astype(np.float32)
        image[1, 3, row] = np.nan
        header = fits.Header({f"BAND{number}": band for number, band in enumerate(bands)})
        fits.PrimaryHDU(image, header).writeto(tmp_path / "in" / f"{row:02}.fits")
        for band, plane in zip(bands, image, strict=True):
            truth[f"{row:02}.fits", band] = plane
    ingest(tmp_path / "in", tmp_path / "store")
    return open_store(tmp_path / "store"), truth


def augmented(cutouts, views, *counts):
    normalisation = Normalisation.fit(cutouts.images[:], cutouts.bands)
    augment = Augment(views, normalisation, cutouts.size, cutouts.bands, *counts)
    return augment(torch.from_numpy(cutouts.images[:]), torch.arange(12), seed=0, step=0)


def test_missing_bands_and_pixels_are_invalid_in_the_views(survey):
    cutouts, truth = survey
    assert sorted(cutouts.bands) == ["g", "i", "r"]
    views = augmented(cutouts, STILL, 1)
    absent = torch.tensor([[(i, band) not in truth for band in cutouts.bands] for i in cutouts.ids])
    for row, index in np.ndindex(12, 3):
        crop, valid = (values[0][row, index].numpy() for values in (views.crops, views.valid))
        assert (crop[~valid] == 0).all()
        if absent[row, index]:
            assert not valid.any()
        else:
            plane = truth[cutouts.ids[row], cutouts.bands[index]]
            assert np.array_equal(valid, np.isfinite(plane))
            assert np.corrcoef(crop[valid], plane[valid])[0, 1] > 0.97
    # However it is rotated, zoomed, blurred or made noisy: a missing band is invalid everywhere, and 0.
    views = augmented(cutouts, ViewsConfig(local_crops=2, local_size=8, blur=1.0, noise=1.0), 2, True)
    for crop, valid in zip(views.crops, views.valid, strict=True):
        assert torch.equal(~valid.any(-1).any(-1), absent)
        assert not crop[~valid].any()
