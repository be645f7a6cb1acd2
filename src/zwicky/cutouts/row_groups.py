"""A store read one row group at a time, for what passes over it once with flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zwicky.cutouts.contract import Cutouts
from zwicky.cutouts.store import _checked_metadata, _open_part, _parts, _read_group


def iterate_store(path: Path | str) -> Iterator[Cutouts]:
    """The row groups of a store in order, each as `Cutouts` of about 15 MB. Raises UserError as `open_store`."""
    path = Path(path)
    parts = _parts(path)
    files = [_open_part(part) for part in parts]
    metadata = _checked_metadata(files, path)
    shape = (len(metadata["bands"]), *metadata["size"])
    counts = [[file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] for file in files]
    for file in files:
        file.close()
    for part, groups in zip(parts, counts, strict=True):
        for group, count in enumerate(groups):
            images = np.empty((count, *shape), metadata["dtype"])
            table = _read_group((part, group, images)).replace_schema_metadata(None)
            yield Cutouts(images, table, tuple(metadata["bands"]), tuple(metadata["truth"]), metadata)
