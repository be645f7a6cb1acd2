"""Groups of equal objects, against the literal definition."""

import numpy as np
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.data.cutouts import Cutouts, make_cutouts
from zwicky.data.duplicates import find_groups, nearest_position


def objects(pixels: list[int], **columns: list) -> Cutouts:
    images = np.array(pixels, np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return make_cutouts(images, ("g",), **columns)


def literal_groups(cutouts: Cutouts, column: str | None = None) -> list[int]:
    """The first row of what each row is equal to, at one or more removes; positions by astropy."""
    count = len(cutouts)
    hashes, ra, dec = cutouts.column("pixel_hash"), cutouts.column("ra"), cutouts.column("dec")
    names = cutouts.column(column) if column else [None] * count

    def equal(a: int, b: int) -> bool:
        if hashes[a] == hashes[b] or (names[a] is not None and names[a] == names[b]):
            return True
        if np.isnan([ra[a], ra[b], dec[a], dec[b]]).any():
            return False
        return SkyCoord(ra[a], dec[a], unit="deg").separation(SkyCoord(ra[b], dec[b], unit="deg")).arcsec <= 1

    reached = np.array([[a == b or equal(a, b) for b in range(count)] for a in range(count)])
    return (np.linalg.matrix_power(reached.astype(float), count) > 0).argmax(1).tolist()


declinations, names = st.sampled_from([-89.9, 0.0, 60.0]), st.sampled_from([None, "x", "y"])
step = st.integers(0, 6).map(lambda k: k * 0.7 / 3600)  # so that neighbours are 0.7″ apart and next ones 1.4″


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.none() | step, declinations, names), min_size=1, max_size=9))
def test_groups_follow_the_definition(rows):
    pixels, ra, dec, names = (list(values) for values in zip(*rows, strict=True))
    ra = [None if value is None else (value + 359.9995) % 360 for value in ra]  # across the meridian
    cutouts = objects(pixels, ra=ra, dec=dec, source=[*names])
    for columns in ([], ["source"]):
        groups = cutouts.ids[literal_groups(cutouts, *columns)]
        assert find_groups(cutouts, *columns).tolist() == groups.tolist()


def test_many_objects_at_one_place_are_one_group_at_once():
    count = 20_000
    columns = {"ra": [1.0] * count, "dec": [2.0] * count, "pixel_hash": [None] * count}
    cutouts = make_cutouts(np.zeros((count, 1, 1, 1), np.uint8), ("g",), **columns)
    assert set(find_groups(cutouts)) == {"000000"}


def test_nearest_position_is_that_of_astropys_separations():
    rng = np.random.default_rng(0)
    ra, dec = np.append(rng.uniform(0, 2e-3, 60), [359.9999, np.nan]), np.append(rng.uniform(-2e-3, 2e-3, 60), [0, 0])
    there_ra = np.append(rng.uniform(0, 2e-3, 30), [0, np.nan])
    there_dec = np.append(rng.uniform(-2e-3, 2e-3, 30), [0, 0])
    here, there = SkyCoord(ra[:, None], dec[:, None], unit="deg"), SkyCoord(there_ra, there_dec, unit="deg")
    separation = np.nan_to_num(here.separation(there).arcsec, nan=np.inf)
    expected = np.where(separation.min(1) < 1, separation.argmin(1), -1)
    assert 0 < (expected >= 0).sum() < 60
    assert expected[60] == 30  # across 0 h
    np.testing.assert_array_equal(nearest_position(ra, dec, there_ra, there_dec), expected)
    assert (nearest_position(ra, dec, np.empty(0), np.empty(0)) == -1).all()
    beyond = np.array([-99.0, 95.0])  # no angles
    assert (nearest_position(beyond, beyond, np.append(there_ra, 95), np.append(there_dec, 95)) == -1).all()
