"""Objects that are one and the same: equal pixels, or within an arcsecond on the sky."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from zwicky.data.cutouts import Cutouts

SAME_POSITION = 1.0  # arcsec


def find_groups(cutouts: Cutouts, *columns: str) -> dict[str, str]:
    """Group of each object: `groups[a] == groups[b]` where a chain of equalities joins a and b.

    Two objects are equal if their pixel hashes are, if both positions are known and at most 1″ apart, or if they
    share a value of one of `columns` (e.g. `object`, a source galaxy, a sky region). A group is called after its first
    object in the table, so a lone object is its own group.
    """
    ids = cutouts.ids
    links = [_equal_values(cutouts.column("pixel_hash")), position_pairs(unit_vectors(cutouts))]
    links += [_equal_values(cutouts.column(column)) for column in columns]
    pairs = np.concatenate(links)
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(ids), len(ids)))
    _, component = connected_components(graph, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return dict(zip(ids, ids[first[inverse]], strict=True))


def members(groups: dict[str, str]) -> Iterator[list[str]]:
    """The groups of more than one object, as lists of ids."""
    lists: dict[str, list[str]] = {}
    for identifier, group in groups.items():
        lists.setdefault(group, []).append(identifier)
    return (ids for ids in lists.values() if len(ids) > 1)


def unit_vectors(cutouts: Cutouts) -> np.ndarray:
    """[N, 3] directions on the sky; NaN where the position is unknown."""
    ra, dec = np.radians(cutouts.column("ra")), np.radians(cutouts.column("dec"))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def chord(arcsec: float) -> float:
    """Straight distance between two points of the unit sphere that are `arcsec` apart."""
    return 2 * float(np.sin(np.radians(arcsec / 3600) / 2))


def position_pairs(vectors: np.ndarray) -> np.ndarray:
    """[M, 2] pairs of rows at most 1″ apart, enough of them to connect all that are."""
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if len(known) == 0:
        return np.empty((0, 2), np.int64)
    # Equal positions first, since a thousand objects at one place would make a million pairs in the tree.
    places, first, inverse = np.unique(vectors[known], axis=0, return_index=True, return_inverse=True)
    equal = np.stack([known, known[first[inverse.ravel()]]], axis=1)
    near = cKDTree(places).query_pairs(chord(SAME_POSITION), output_type="ndarray")
    return np.concatenate([equal, known[first[near]]])


def _equal_values(values: np.ndarray) -> np.ndarray:
    """[M, 2] pairs that connect rows of equal value; null and NaN equal nothing."""
    first: dict[object, int] = {}
    known = [(row, value) for row, value in enumerate(values) if value is not None and value == value]
    pairs = [(row, first.setdefault(value, row)) for row, value in known]
    return np.array(pairs, np.int64).reshape(-1, 2)
