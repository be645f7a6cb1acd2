"""Candidates: the cutouts with the highest scores, and a random stratum of the rest, chosen in one pass.

The random stratum has the smallest hashes of id and seed. So the choice depends neither on the number of parts nor on
their order, and a selection of selections is the selection of all.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data.cutouts import complete_table
from zwicky.data.splits import RANDOM_STRATUM
from zwicky.data.store import StoreWriter
from zwicky.io import write_array, write_table
from zwicky.survey.parts import display_names

TOP = "top"  # `stratum` of the highest scores
COLUMNS = ["id", "file", "ra", "dec", "score", "spread"]


def random_keys(names: pd.Series, seed: int) -> np.ndarray:
    """Return a hash of each name and the seed, [N] uint64: a random order that no other name changes."""
    key = seed.to_bytes(8, "little")
    hashes = (hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(b"".join(hashes), np.uint64)


@dataclass
class Selection:
    """The rows that may still be candidates after all that was added: the `top` scores, and `random` of the rest."""

    top: int  # number of cutouts with the highest scores
    random: int  # number of the others
    seed: int  # of the random stratum
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)  # COLUMNS, key, part and position, best first
    pixels: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # (part, position) → image

    def add(self, table: pd.DataFrame, images: np.ndarray, part: int, first: int) -> None:
        """Add cutouts `first`, first + 1, … of a part, with a score each."""
        names = display_names(table)
        position = np.arange(first, first + len(table))
        new = table[COLUMNS].assign(key=random_keys(names, self.seed), part=part, position=position)
        self.merge(new, {(part, row): image for row, image in zip(position.tolist(), images, strict=True)})

    def merge(self, rows: pd.DataFrame, pixels: dict[tuple[int, int], np.ndarray]) -> None:
        """Add rows with their images, e.g. of another selection; the images that are kept are copied."""
        order = pd.concat([self.rows, rows]).drop_duplicates(["part", "position"])
        order = order.sort_values(["score", "key", "id"], ascending=[False, True, True], ignore_index=True)
        best, rest = order[: self.top], order[self.top :]
        self.rows = pd.concat([best, rest.sort_values(["key", "id"])[: self.random]], ignore_index=True)
        kept = set(zip(self.rows["part"].tolist(), self.rows["position"].tolist(), strict=True))
        self.pixels = {place: image for place, image in self.pixels.items() if place in kept}
        self.pixels |= {place: image.copy() for place, image in pixels.items() if place in kept}

    def pop_part(self, part: int) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the rows of a part that are still selected, and their images, which are given up here."""
        rows = self.rows[self.rows["part"] == part]
        images = [self.pixels.pop((part, position)) for position in rows["position"]]
        return rows.reset_index(drop=True), np.array(images)


def save_selection(path: Path, rows: pd.DataFrame, images: np.ndarray) -> None:
    """Write the selection of one part: `path` with the table, and `.npy` with the images beside it."""
    write_array(path.with_suffix(".npy"), images)
    write_table(path, rows)


def write_candidates(folder: Path, out: Path, selection: Selection, scored: int, bands: tuple[str, ...]) -> int:
    """Merge the selections of all parts in `folder` into the store `out`, best first, and return its length.

    Its table has `score`, `spread`, `stratum` (top or random) and `inclusion_probability`, 1 or random / rest.
    """
    for path in sorted(folder.glob("*.parquet")):
        rows, images = pd.read_parquet(path), np.load(path.with_suffix(".npy"), mmap_mode="r")
        places = zip(rows["part"].tolist(), rows["position"].tolist(), strict=True)
        selection.merge(rows, dict(zip(places, images, strict=True)))
    rows = selection.rows
    is_top = np.arange(len(rows)) < selection.top
    table = rows[["ra", "dec", "score", "spread"]].assign(
        id=rows["id"].where(~rows["id"].duplicated(keep=False), display_names(rows)),
        file=rows["file"],
        stratum=np.where(is_top, TOP, RANDOM_STRATUM),
        inclusion_probability=np.where(is_top, 1.0, (~is_top).sum() / max(scored - selection.top, 1)),
    )
    places = zip(rows["part"].tolist(), rows["position"].tolist(), strict=True)
    images = np.stack([selection.pixels[place] for place in places])
    with StoreWriter(out, bands, images.shape[2:], images.dtype) as writer:
        writer.append(images, complete_table(table))
    return len(table)
