"""Provenance: which objects a network was trained on, so that it is never tested on them.

`training_objects.parquet` beside the weights lists them, through the whole chain of runs that a network started
from. The metadata of the weights file refer to it, so that weights without their list have an unknown history.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from zwicky.data.cutouts import STANDARD_COLUMNS, Cutouts
from zwicky.data.duplicates import nearest_position
from zwicky.errors import UserError
from zwicky.io import replacing

FILE = "training_objects.parquet"
COLUMNS = ("id", "pixel_hash", "ra", "dec")
SCHEMA = pa.schema(
    [("use", pa.string()), ("store", pa.string()), *((name, STANDARD_COLUMNS[name]) for name in COLUMNS)]
)


@dataclass(frozen=True)
class TrainingObjects:
    """A table of one row per object and use (pretrain, fit, select, normalise), and weights of `unknown` history."""

    table: pd.DataFrame = field(default_factory=lambda: SCHEMA.empty_table().to_pandas())
    unknown: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """A message where leakage cannot be excluded."""
        names = ", ".join(self.unknown)
        return f"unknown history: what {names} was trained on is not recorded; check it for leakage" if names else None


def record(cutouts: Cutouts, uses: dict[str, np.ndarray], before: TrainingObjects | None = None) -> TrainingObjects:
    """Return the training objects of a run: the rows by use, after those of the network it started from."""
    before = before or TrainingObjects()
    tables = [_identity(cutouts, rows).assign(use=use) for use, rows in uses.items()]
    return TrainingObjects(pd.concat([before.table, *tables], ignore_index=True), before.unknown)


def write(folder: Path, objects: TrainingObjects) -> None:
    """Write `training_objects.parquet`."""
    table = pa.Table.from_pandas(objects.table, SCHEMA, preserve_index=False)
    with replacing(folder / FILE) as temporary:
        pq.write_table(table.replace_schema_metadata({"unknown": json.dumps(objects.unknown)}), temporary)


def read(folder: Path) -> TrainingObjects:
    """Return the training objects of a run; without a record its history is unknown."""
    path = Path(folder) / FILE
    if not path.exists():
        return TrainingObjects(unknown=(str(folder),))
    table = pq.read_table(path)
    return TrainingObjects(table.to_pandas(), tuple(json.loads(table.schema.metadata[b"unknown"])))


def reference(folder: Path) -> dict[str, str]:
    """Return the metadata of weights in `folder` that refer to its training objects."""
    return {"training_objects": file_digest(folder / FILE)} if (folder / FILE).exists() else {}


def of_weights(source: str | None) -> TrainingObjects:
    """Return the training objects of `backbone.pretrained`: a file's own record, else an unknown history."""
    if source is None:
        return TrainingObjects()
    source = str(Path(source) / "network.safetensors") if Path(source).is_dir() else source
    folder = Path(source).parent
    try:
        with safe_open(source, "pt") as file:
            digest = (file.metadata() or {}).get("training_objects")
    except (OSError, SafetensorError):
        digest = None
    is_known = digest is not None and reference(folder).get("training_objects") == digest
    return read(folder) if is_known else TrainingObjects(unknown=(source,))


def find_leaked(cutouts: Cutouts, rows: np.ndarray, objects: TrainingObjects) -> np.ndarray:
    """Return [len(rows)] bool: which objects a network was trained on.

    Equal pixels or sky positions within 1″ are evidence in any store, equal ids only within one: files of two folders
    often have the same names.
    """
    table, trained = _identity(cutouts, rows), objects.table
    leaked = np.array(table["pixel_hash"].isin(trained["pixel_hash"].dropna()))
    leaked |= pd.MultiIndex.from_frame(table[["store", "id"]]).isin(pd.MultiIndex.from_frame(trained[["store", "id"]]))
    here, there = (part[["ra", "dec"]].to_numpy(float, na_value=np.nan).T for part in (table, trained))
    return leaked | (nearest_position(*here, *there) >= 0)


def check_no_leakage(cutouts: Cutouts, rows: np.ndarray, objects: TrainingObjects, purpose: str) -> None:
    """Raise UserError if a network was trained on `objects` among these rows, which are for `purpose`."""
    leaked = find_leaked(cutouts, rows, objects)
    if leaked.any():
        first = cutouts.ids[rows[leaked.argmax()]]
        raise UserError(
            f"leakage: the network was trained on {leaked.sum()} objects for {purpose} (first: {first!r}); "
            "take another split, or train again without them"
        )


def file_digest(path: Path) -> str:
    """Return a 128-bit hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _identity(cutouts: Cutouts, rows: np.ndarray) -> pd.DataFrame:
    """The id, pixel hash and position of these objects, and a hash of the content of their store."""
    store = cutouts.metadata.get("simulation")  # of which image i is the same however many there are
    if store is None:
        names = pd.util.hash_pandas_object(cutouts.table[["id", "pixel_hash"]].astype(str), index=False)
        store = hashlib.blake2b(names.to_numpy().tobytes(), digest_size=16).hexdigest()
    return cutouts.table.loc[rows, list(COLUMNS)].reset_index(drop=True).assign(store=store)
