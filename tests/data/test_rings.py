"""Azimuthal modes: against a direct sum, and what they must not see."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from zwicky.data.rings import ANGLES, FLOOR, MODES, RADII, SIDE, SOFTENING, binned, ring_modes, robust_scale


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_modes_are_the_power_of_a_fourier_sum_on_circles(side):
    images = np.random.default_rng(0).normal(5, 1, (3, 2, side, side)).astype(np.float32)
    centre, scale = robust_scale(images, seed=0)
    small = np.arcsinh((images - centre) / scale / SOFTENING).reshape(3, 2, SIDE, side // SIDE, SIDE, -1).mean((3, 5))
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    radius = (np.arange(RADII)[:, None] + 0.5) / RADII * (SIDE - 1) / 2
    points = (SIDE - 1) / 2 + radius * np.sin(angle), (SIDE - 1) / 2 + radius * np.cos(angle)
    m = np.arange(MODES)
    expected = np.empty((3, 2, RADII, MODES))
    for image in range(3):
        for band in range(2):
            polar = map_coordinates(small[image, band], points, order=1)
            power = np.abs((polar[..., None] * np.exp(1j * m * angle[:, None])).mean(1)) ** 2
            expected[image, band] = np.log(power + FLOOR)
    got = ring_modes(images, centre, scale).reshape(expected.shape)
    np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("side", [31, 63, 75, 101])
def test_modes_do_not_change_under_quarter_turns_and_reflections(side):
    images = np.random.default_rng(1).integers(0, 255, (2, 1, side, side)).astype(np.uint8)
    centre, scale = robust_scale(images, seed=0)
    modes = ring_modes(images, centre, scale)
    for turned in (np.rot90(images, axes=(2, 3)), images[..., ::-1]):
        np.testing.assert_allclose(ring_modes(np.ascontiguousarray(turned), centre, scale), modes, atol=2e-2)
    assert np.isfinite(ring_modes(images[:, :, :24], centre, scale)).all()  # not square


def test_the_scale_is_the_deviation_of_the_sky():
    images = np.random.default_rng(2).normal([[[5.0]], [[-3.0]]], [[[2.0]], [[0.1]]], (60, 2, 20, 20))
    images[:, :, :2], images[:, :, 2, :5] = np.nan, 1e4  # invalid pixels and bright ones
    centre, scale = robust_scale(images.astype(np.float32), seed=0)
    np.testing.assert_allclose(centre.ravel(), [5, -3], atol=0.1)
    np.testing.assert_allclose(scale.ravel(), [2, 0.1], rtol=0.05)


def test_a_count_is_the_least_unit_of_integers():
    images = np.random.default_rng(3).poisson(0.3, (4, 1, 24, 24)).astype(np.uint8)
    centre, scale = np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), 0.5, np.float32)
    expected = ring_modes(images.astype(np.float32), centre, 2 * scale)
    np.testing.assert_allclose(ring_modes(images, centre, scale), expected, rtol=1e-6)


def test_bins_are_centred_and_leave_out_invalid_pixels():
    images = np.zeros((1, 1, 51, 51), np.float32)
    images[0, 0, 25, 25] = 4
    assert binned(images[..., :50, :50], 25)[0, 0].shape == (25, 25)
    assert binned(images, 10)[0, 0].shape == (17, 17)  # of 5, 4 and 3 the largest that leaves out as much on both sides
    even = np.full((1, 1, 51, 51), 3.0)
    even[0, 0, :2], even[0, 0, 20, 20] = np.nan, np.nan
    assert (binned(even, 17) == 3).all()
    even[0, 0, :3] = np.nan
    assert (binned(even, 17)[0, 0, 0] == 0).all()
    middle = binned(np.pad(np.ones((1, 1, 2, 2)), ((0, 0), (0, 0), (24, 24), (24, 24))), 12)[0, 0]
    assert np.array_equal(middle, middle[::-1, ::-1])
