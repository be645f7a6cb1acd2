"""Duplicates: objects with equal pixels, or within an arcsecond on the sky."""

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from zwicky.data.cutouts import Cutouts

SAME_POSITION = 1.0  # arcsec


def find_groups(cutouts: Cutouts, *columns: str) -> np.ndarray:
    """Group objects by equal pixel hashes, positions at most 1″ apart, or equal values of one of `columns`.

    A chain of equalities makes one group. Returns the id of the first object of each object's group, [N] objects.
    """
    values = map(cutouts.column, ("pixel_hash", *columns))
    pairs = np.concatenate([position_pairs(cutouts), *map(_equal_values, values)])
    graph = coo_matrix((np.ones(len(pairs), bool), pairs.T), shape=(len(cutouts), len(cutouts)))
    _, component = connected_components(graph, directed=False)
    return cutouts.ids[_equal_values(component)[:, 1]]


def position_pairs(cutouts: Cutouts) -> np.ndarray:
    """Return pairs of rows at most 1″ apart, [M, 2], enough of them to connect all that are."""
    ra, dec = cutouts.column("ra"), cutouts.column("dec")
    located = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    # Equal positions first: a thousand objects at one position would be a million pairs.
    equal = located[_equal_values(ra[located], dec[located])]
    unique = np.unique(equal[:, 1])
    sky = SkyCoord(ra[unique], dec[unique], unit="deg")
    first, second, *_ = sky.search_around_sky(sky, SAME_POSITION * units.arcsec)
    return np.concatenate([equal, np.stack([unique[first], unique[second]], axis=1)])


def nearest_position(
    ra: np.ndarray, dec: np.ndarray, catalog_ra: np.ndarray, catalog_dec: np.ndarray, radius: float = SAME_POSITION
) -> np.ndarray:
    """Return the row of a catalogue nearest to each position on the sky, -1 if none is within `radius` (arcsec).

    Positions are in degrees, [N] and [M]; those that are not finite or beyond a pole match nothing.
    """
    sides = (ra, dec), (catalog_ra, catalog_dec)
    here, there = (np.flatnonzero(np.isfinite(a) & (np.abs(d) <= 90)) for a, d in sides)
    rows = np.full(len(ra), -1)
    if len(here) and len(there):
        catalog = SkyCoord(catalog_ra[there], catalog_dec[there], unit="deg")
        index, separation, _ = SkyCoord(ra[here], dec[here], unit="deg").match_to_catalog_sky(catalog)
        rows[here] = np.where(separation < radius * units.arcsec, there[index], -1)
    return rows


def _equal_values(*columns: np.ndarray) -> np.ndarray:
    """Pairs [M, 2] of each row and the first with its values; null equals nothing."""
    first = pd.Series(np.arange(len(columns[0]))).groupby(list(columns), sort=False).transform("first").dropna()
    return np.stack([first.index, first], axis=1).astype(np.int64)
