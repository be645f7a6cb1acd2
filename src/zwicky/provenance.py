"""Provenance: which objects a network was trained on, so that it is never tested on them.

The record is part of the weights file, through the whole chain of networks that it started from: a tensor of 17 bytes
per object and run or, in files for other programs, the same bytes in the metadata. It is read when it is asked for.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from zwicky.data.cutouts import Cutouts
from zwicky.data.duplicates import nearest_position
from zwicky.errors import UserError
from zwicky.io import weights_file

NAME = "training_objects"  # of the tensor, and of the metadata that list weights of unknown history
USES = ("pretrain", "normalise", "fit", "select", "pseudo_label")
RECORD = np.dtype([("key", "<u8"), ("ra", "<i4"), ("dec", "<i4"), ("use", "u1")])  # use: bits, in the order of USES
MILLIARCSECONDS = 3_600_000  # of ra and dec in a degree
NOWHERE = np.iinfo(np.int32).min  # ra and dec where they are unknown
MAX_METADATA = 90_000_000  # bytes; safetensors refuses headers above 10^8


@dataclass(frozen=True, eq=False)
class TrainingObjects:
    """One record per object and run, see RECORD, and the names of weights whose history is `unknown`."""

    records: np.ndarray = field(default_factory=lambda: np.empty(0, RECORD))
    unknown: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """A message where leakage cannot be excluded."""
        names = ", ".join(self.unknown)
        return f"unknown history: what {names} was trained on is not recorded; check it for leakage" if names else None

    def of_use(self, *uses: str) -> Self:
        """Return those of some of USES."""
        bits = sum(1 << USES.index(use) for use in uses)
        return replace(self, records=self.records[self.records["use"] & bits > 0])

    def as_use(self, use: str) -> Self:
        """Return the same objects as of this use alone."""
        records = self.records.copy()
        records["use"] = 1 << USES.index(use)
        return replace(self, records=records)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the records as a tensor of a weights file, which takes `metadata` too."""
        return {NAME: torch.from_numpy(self.records.view(np.uint8).reshape(-1, RECORD.itemsize))}

    def metadata(self, with_records: bool = False) -> dict[str, str]:
        """Return metadata of a weights file, `with_records` where other programs do not expect their tensor.

        Records that a header cannot hold, of more than four million objects, are left out: an unknown history.
        """
        records = {"records": base64.b64encode(self.records.tobytes()).decode()} if with_records else {}
        text = json.dumps({"unknown": self.unknown} | records)
        return {NAME: text} if len(text) < MAX_METADATA else {}


def record(cutouts: Cutouts, uses: dict[str, np.ndarray], before: TrainingObjects | None = None) -> TrainingObjects:
    """Return the training objects of a run: the rows by use, after those of the network it started from."""
    before, use = before or TrainingObjects(), np.zeros(len(cutouts), np.uint8)
    for name, rows in uses.items():
        use[rows] |= 1 << USES.index(name)
    rows = np.flatnonzero(use)
    ra, dec = (cutouts.column(name)[rows] for name in ("ra", "dec"))
    known = np.isfinite(ra) & (np.abs(dec) <= 90)
    added = np.empty((2, len(rows)), RECORD)
    added["key"], added["use"] = _keys(cutouts, rows), use[rows]
    for name, degrees in (("ra", ra % 360), ("dec", dec)):
        added[name] = np.where(known, np.round(degrees * MILLIARCSECONDS), NOWHERE)
    kept = [0, 1] if added["key"][1].any() else [0]
    return TrainingObjects(np.concatenate([before.records, added[kept].ravel()]), before.unknown)


def read(source: Path | str | None) -> TrainingObjects:
    """Return the training objects of a run or weights file, none without a source; UNKNOWN history without a record."""
    if source is None:
        return TrainingObjects()
    try:
        with safe_open(weights_file(source), "pt") as file:  # which maps tensors into memory and copies nothing
            values = json.loads((file.metadata() or {})[NAME])
            text = values.get("records")
            data = file.get_tensor(NAME).numpy().ravel() if text is None else base64.b64decode(text)
        return TrainingObjects(np.frombuffer(data, RECORD), tuple(values["unknown"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return TrainingObjects(unknown=(str(source),))


def find_leaked(cutouts: Cutouts, rows: np.ndarray, objects: TrainingObjects) -> np.ndarray:
    """Return [len(rows)] bool: which objects a network was trained on.

    Equal pixels or sky positions within 1″ are evidence in any store. Names are within one store or simulation, where
    there is no hash of pixels: files of two folders often have the same.
    """
    keys, trained = _keys(cutouts, rows), objects.records
    leaked = (np.isin(keys, trained["key"]) & (keys != 0)).any(0)
    trained = trained[trained["dec"] != NOWHERE]
    here = (cutouts.column(name)[rows] for name in ("ra", "dec"))
    return leaked | (nearest_position(*here, *(trained[name] / MILLIARCSECONDS for name in ("ra", "dec"))) >= 0)


def check_no_leakage(cutouts: Cutouts, rows: np.ndarray, objects: TrainingObjects, purpose: str) -> None:
    """Raise UserError if a network was trained on `objects` among these rows, which are for `purpose`."""
    leaked = find_leaked(cutouts, rows, objects)
    if leaked.any():
        first = cutouts.ids[rows[leaked.argmax()]]
        raise UserError(
            f"leakage: the network was trained on {leaked.sum()} objects for {purpose} (first: {first!r}); "
            "take another split, or train again without them"
        )


def _keys(cutouts: Cutouts, rows: np.ndarray) -> np.ndarray:
    """[2, len(rows)] 64-bit hashes of pixels, and of the name in its simulation or store; 0 is no evidence."""
    pixels, ids = (cutouts.table[name].to_numpy(object)[rows] for name in ("pixel_hash", "id"))
    has_pixels, store = pd.notna(pixels), cutouts.metadata.get("simulation")  # of which image i is always the same
    is_named = ~has_pixels | (store is not None)
    if store is None:
        content = pd.util.hash_pandas_object(cutouts.table[["id", "pixel_hash"]].astype(str), index=False)
        store = hashlib.blake2b(content.to_numpy().tobytes(), digest_size=16).hexdigest()
    names = [f"{store}/{name}" for name in ids]
    hashes = [pd.util.hash_array(np.array([*map(str, texts)], object)) for texts in (pixels, names)]
    return np.where([has_pixels, is_named], hashes, np.uint64(0))
