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
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)  # COLUMNS, key, part, position, image; best first

    def add(self, table: pd.DataFrame, images: np.ndarray, part: int, first: int) -> None:
        """Add cutouts `first`, first + 1, … of a part, with a score each."""
        position = np.arange(first, first + len(table))
        keys = random_keys(display_names(table), self.seed)
        self.merge(table[COLUMNS].assign(key=keys, part=part, position=position, image=list(images)))

    def merge(self, rows: pd.DataFrame) -> None:
        """Add rows, e.g. of another selection; the images that are kept are copied out of larger arrays."""
        order = pd.concat([self.rows, rows]).drop_duplicates(["part", "position"], keep="last")
        order = order.sort_values(["score", "key", "id"], ascending=[False, True, True])
        best, rest = order[: self.top], order[self.top :]
        kept = pd.concat([best, rest.sort_values(["key", "id"])[: self.random]], ignore_index=True)
        kept["image"] = [np.array(one) if getattr(one, "base", None) is not None else one for one in kept["image"]]
        self.rows = kept

    def pop_part(self, part: int) -> pd.DataFrame:
        """Return the rows of a part that are still selected, whose images are given up here."""
        of_part = self.rows["part"] == part
        rows = self.rows[of_part].reset_index(drop=True)
        self.rows.loc[of_part, "image"] = None
        return rows


def save_selection(path: Path, rows: pd.DataFrame) -> None:
    """Write the selection of one part: `path` with the table, and `.npy` with the images beside it."""
    write_array(path.with_suffix(".npy"), np.array(rows["image"].tolist()))
    write_table(path, rows.drop(columns="image"))


def write_candidates(folder: Path, out: Path, selection: Selection, scored: int, bands: tuple[str, ...]) -> int:
    """Merge the selections of all parts in `folder` into the store `out`, best first, and return its length.

    Its table has `score`, `spread`, `stratum` (top or random) and `inclusion_probability`, 1 or random / rest.
    """
    for path in sorted(folder.glob("*.parquet")):
        images = np.load(path.with_suffix(".npy"), mmap_mode="r")
        selection.merge(pd.read_parquet(path).assign(image=list(images)))
    rows = selection.rows
    is_top = np.arange(len(rows)) < selection.top
    table = rows[["ra", "dec", "score", "spread"]].assign(
        id=rows["id"].where(~rows["id"].duplicated(keep=False), display_names(rows)),
        file=rows["file"],
        stratum=np.where(is_top, TOP, RANDOM_STRATUM),
        inclusion_probability=np.where(is_top, 1.0, (~is_top).sum() / max(scored - selection.top, 1)),
    )
    images = np.stack(rows["image"].tolist())
    with StoreWriter(out, bands, images.shape[2:], images.dtype) as writer:
        writer.append(images, complete_table(table))
    return len(table)
