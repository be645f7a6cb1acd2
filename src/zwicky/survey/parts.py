"""The cutouts that are scored, read part by part: a store, or files of any format without making a store first."""

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from zwicky.data.bands import unnamed_bands
from zwicky.data.columns import as_text, find_column, is_id, positions_of
from zwicky.data.cutouts import batches
from zwicky.data.image_format import ImageFormat, IngestConfig, StoreFormat
from zwicky.data.ingest import choose_store_format
from zwicky.data.readers import ReadOptions, Record, Unreadable, format_of, spans
from zwicky.data.source import Source, Unit, files_digest
from zwicky.data.store import open_images, open_store, read_rows, store_digest
from zwicky.errors import UserError
from zwicky.io import STORE, is_store, read_json
from zwicky.survey.config import ScoreConfig
from zwicky.training.network import Network
from zwicky.training.task import columns_of

BLOCK = 512  # cutouts read at a time
COLUMNS = frozenset(("id", "file", "ra", "dec", "pixel_scale", "healpix", "distance"))  # of cutouts, beside scores
HEALPIX = "_healpix_29"  # the pixel of order 29 (nested) in HATS catalogues

Listed = list[tuple[str, str]]  # (file or id, reason) of cutouts that cannot be scored


@dataclass(frozen=True)
class Part:
    """Some of the cutouts: rows of a store or of one file of many images, or files of few."""

    number: int
    units: Mapping[str, Unit]  # {} for a store
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class Block:
    """Cutouts of one part, read together.

    The table has id, file (the path, with #row in a file of many; "" in a store), ra, dec and, where the file has it,
    healpix.
    """

    images: np.ndarray  # [n, bands, H, W]
    table: pd.DataFrame  # n rows
    listed: Listed  # what cannot be scored, with the reason


@dataclass(frozen=True)
class SurveyData:
    """Cutouts in parts, and the format they share."""

    path: Path
    form: StoreFormat
    options: ReadOptions
    pixel_scale: float | None  # of the network, arcsec
    parts: tuple[Part, ...]
    listed: Listed  # files without images

    @classmethod
    def open(cls, path: Path | str, network: Network, size: int = ScoreConfig.part_size) -> Self:
        """Find the cutouts of a store, a folder or a file, in parts of about `size`.

        UserError if there are none, or they do not fit the network.
        """
        path = Path(path)
        if clash := sorted(COLUMNS.intersection(columns_of(network.targets))):
            raise UserError(f"the network predicts {clash[0]!r}, a column of all tables; fine-tune with another name")
        if is_store(path):
            store = read_json(path / STORE)
            network.check_bands(tuple(store["bands"]))
            form = StoreFormat(network.bands, (), tuple(store["size"]), store["dtype"])
            ends = [*range(size, store["objects"], size), store["objects"]]
            parts = [Part(number, {}, number * size, end) for number, end in enumerate(ends)]
            return cls(path, form, ReadOptions(), network.pixel_scale, tuple(parts), [])
        if not path.exists() or (path.is_file() and not format_of(path.name)):
            problem = "is no file of images" if path.exists() else "does not exist"
            raise UserError(f"{path} {problem}; give a store, a folder of images, or a file of many")
        source = Source.open(path, ReadOptions())
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")  # decoders warn of odd headers
            try:
                form = choose_store_format(source, IngestConfig(bands=network.bands), pool)
            except UserError as error:
                needed = ", ".join(network.bands)
                raise UserError(f"{path} does not fit the network, which takes {needed}: {error}") from error
        divided = tuple(_divide(source, size))
        return cls(source.folder, form, source.options, network.pixel_scale, divided, source.set_aside)

    def digest(self) -> str:
        """Return a hash that tells the cutouts from others, wherever they lie."""
        units = chain.from_iterable(part.units.values() for part in self.parts)
        files = dict.fromkeys(chain.from_iterable(unit.values() for unit in units))
        return files_digest(self.path, files) if files else store_digest(self.path)

    def blocks(self, part: Part) -> Iterator[Block]:
        """Read a part, some cutouts at a time."""
        for block in self._file_blocks(part) if part.units else self._store_blocks(part):
            reasons = self._reasons(block.images, block.table)
            good = reasons == ""
            listed = block.listed + [*zip(display_names(block.table)[~good], reasons[~good], strict=True)]
            table = block.table[good].drop(columns="pixel_scale").reset_index(drop=True)
            yield Block(block.images if good.all() else block.images[good], table, listed)

    def _reasons(self, images: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Why each cutout cannot be scored, "" if it can: bands, invalid pixels, pixel scale."""
        reasons = np.full(len(images), "", object)
        if self.pixel_scale:
            scale = table["pixel_scale"].to_numpy(np.float64, na_value=np.nan)
            for row in np.flatnonzero(np.abs(scale / self.pixel_scale - 1) > 0.02):
                reasons[row] = f'has {scale[row]:g}" a pixel, and the network was made for {self.pixel_scale:g}"'
        if images.dtype.kind == "f" and not np.isfinite(images.sum(dtype=np.float64)):
            invalid = ~np.isfinite(images)
            share, absent = invalid.mean((1, 2, 3)), invalid.all((2, 3))
            for row in np.flatnonzero(share > IngestConfig.max_invalid):
                reasons[row] = f"{share[row]:.0%} of its pixels are invalid"
            for row in np.flatnonzero(absent.any(1)):
                reasons[row] = f"lacks the bands {', '.join(np.array(self.form.bands)[absent[row]])}"
        return reasons

    def _store_blocks(self, part: Part) -> Iterator[Block]:
        images = open_images(self.path, slice(part.first, part.last))
        table = read_rows(self.path, part.first, part.first + len(images), ["id", "ra", "dec", "pixel_scale"])
        table.insert(1, "file", "")
        for rows in [*batches(len(table), BLOCK)] or [slice(0)]:  # an empty part has one empty block
            yield Block(images[rows], table[rows].reset_index(drop=True), [])

    def _file_blocks(self, part: Part) -> Iterator[Block]:
        source = Source(self.path, dict(part.units), replace(self.options, first=part.first, last=part.last), [])

        def in_part(name: str) -> Iterator[tuple[str, Record | Unreadable]]:
            for item in source.read(name):
                if part.last is not None and item.row is not None and item.row >= part.last:
                    return
                if item.row is None or item.row >= part.first:
                    yield name, item

        if len(part.units) == 1:
            yield from self._collect(in_part(*part.units))
            return
        names = list(part.units)
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")
            groups = (names[rows] for rows in batches(len(names), BLOCK // 8))
            read = (pool.map(lambda name: list(in_part(name)), group) for group in groups)
            yield from self._collect(chain.from_iterable(chain.from_iterable(read)))

    def _collect(self, items: Iterator[tuple[str, Record | Unreadable]]) -> Iterator[Block]:
        """Put items into the common format, some at a time."""
        chunk = list(islice(items, BLOCK))
        while True:  # once at least
            images, facts, listed = [], [], []
            for unit, item in chunk:
                name = unit if item.row is None else f"{unit}#{item.row}"
                reason = str(item) if isinstance(item, Unreadable) else self.form.mismatch(ImageFormat.of(item))
                if isinstance(item, Unreadable) or reason:
                    listed.append((name, reason))
                else:
                    images.append(self.form.conform(item))
                    facts.append({"_file": name, **item.columns})
            shape = (len(images), len(self.form.bands), *self.form.size)
            yield Block(np.array(images, self.form.dtype).reshape(shape), _table(facts), listed)
            if not (chunk := list(islice(items, BLOCK))):
                return


def read_images(path: Path, table: pd.DataFrame) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Read the images [bands, H, W] of some rows of score tables, from the survey they are of, and the names of bands.

    UserError if the survey lacks one of them.
    """
    if is_store(path):
        cutouts = open_store(path)
        return list(cutouts.images[cutouts.rows_of(table["id"].to_numpy(object))]), cutouts.bands
    if "file" not in table or not path.exists():
        raise UserError(f"{path} is not what was scored; give the --data of `zwicky score`")
    source, images, bands = Source.open(path, ReadOptions()), [], tuple[str, ...]()
    for file in table["file"]:
        name, _, row = (file, "", "") if file in source.units else file.rpartition("#")
        if name not in source.units:
            raise UserError(f"{path} lacks {file}; give the --data that was scored")
        first = int(row or 0)
        one = replace(source, options=replace(source.options, first=first, last=first + 1))
        record = next((item for item in one.read(name) if item.row is None or item.row >= first), None)
        if not isinstance(record, Record):
            raise UserError(f"{path}: {file} {record or 'is not there'}; give the --data that was scored")
        images.append(record.image)
        bands = record.bands or unnamed_bands(len(record.image))
    return images, bands


def display_names(table: pd.DataFrame) -> pd.Series:
    """Return the file of each cutout, or its id where it comes from a store."""
    return table["file"].where(table["file"] != "", table["id"])


def _divide(source: Source, size: int) -> Iterator[Part]:
    """Yield ranges of rows of each large file, and groups of small ones."""
    number, small = count(), []
    for name, unit in source.units.items():
        if source.is_large(name):
            for first, last in spans(source.folder / unit[""], size) if "" in unit else [(0, None)]:
                yield Part(next(number), {name: unit}, first, last)
        else:
            small.append(name)
    for rows in batches(len(small), size):
        yield Part(next(number), {name: source.units[name] for name in small[rows]})


def _table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """Return id, file, ra, dec (degrees), pixel_scale and, where the files have it, healpix."""
    columns = pd.DataFrame(facts, columns=None if facts else ["_file"], dtype=object)  # floats would round long ids
    names = [str(name) for name in columns if name != "_file"]
    table = pd.DataFrame({"id": columns["_file"], "file": columns["_file"]}).astype(str)
    if (identifier := find_column(names, "id")) and is_id(identifier):
        ids = as_text(columns[identifier])
        table["id"] = ids.where(ids != "", table["file"])
    table["ra"], table["dec"] = positions_of(columns)
    table["pixel_scale"] = np.nan
    if scale := find_column(names, "pixel_scale"):
        first = columns[scale].map(lambda value: value[0] if isinstance(value, tuple) and value else value)
        table["pixel_scale"] = pd.to_numeric(first, errors="coerce").astype(np.float64)
    if HEALPIX in names:
        table["healpix"] = columns[HEALPIX].astype("Int64")  # floats would round them
    return table
