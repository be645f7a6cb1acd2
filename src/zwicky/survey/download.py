"""`zwicky cutouts`: real cutouts of the objects of a catalogue from a public service, politely and with nothing lost.

One request at a time, with a pause; failed ones are repeated with growing pauses; what was fetched stays in the folder,
so a repeated command fetches the rest. Services answer with blank images outside their footprint: these are listed.
"""

import http.client
import io
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits

from zwicky import __version__
from zwicky.data.audit import audit, audit_text
from zwicky.data.catalog import read_catalog
from zwicky.data.columns import as_text, find_column, find_position_columns, parse_positions
from zwicky.data.ingest import ingest
from zwicky.data.labels import read_labels
from zwicky.data.store import open_store
from zwicky.data.write import unique_names, write_cutout
from zwicky.errors import UserError
from zwicky.io import read_json, read_set_aside, replacing, write_json, write_set_aside, write_table
from zwicky.progress import StepProgress
from zwicky.survey.config import CutoutsConfig

# The address of one request; `legacy` answers with all bands at once, `hips2fits` with one.
SERVICES = {
    "legacy": "https://www.legacysurvey.org/viewer/fits-cutout?"
    "ra={ra:.6f}&dec={dec:.6f}&layer={layer}&pixscale={pixel_scale}&bands={bands}&size={size}",
    "hips2fits": "https://alasky.cds.unistra.fr/hips-image-services/hips2fits?hips={layer}/{bands}&ra={ra:.6f}"
    "&dec={dec:.6f}&width={size}&height={size}&fov={fov:.8f}&projection=TAN&format=fits",
}
LAYERS = {"legacy": "ls-dr10", "hips2fits": "CDS/P/DESI-Legacy-Surveys/DR10"}
BLANK = "blank: outside the footprint"
FIELD = 0.5  # degrees within which negatives are in the field of a lens
EXCLUDED = 10.0  # arcsec around a lens without negatives
RECORD = ".cutouts.json"  # hidden from ingest, which reads JSON as a catalogue
SETTINGS = ("service", "layer", "bands", "size", "pixel_scale")  # that the cutouts of a folder share


class _Refused(Exception):
    """An answer that will not change when the request is repeated."""


def fetch(config: CutoutsConfig, ra: float, dec: float, pause: float) -> np.ndarray:
    """Return the image [bands, H, W] float32 around a position in degrees, with a pause (s) before each request.

    Raises:
        _Refused: The service has none.
        OSError: It does not answer properly, after all attempts.
    """
    groups = [config.bands] if config.service == "legacy" else config.bands
    facts = asdict(config) | {"ra": ra, "dec": dec, "layer": config.layer or LAYERS[config.service]}
    facts["fov"] = config.size * config.pixel_scale / 3600
    planes = []
    for bands in groups:
        address = SERVICES[config.service].format(**facts | {"bands": bands})
        if config.address:
            address = f"{config.address}?{address.partition('?')[2]}"
        planes.append(_request(address, config, len(bands), pause))
    image = np.concatenate(planes)
    if not np.nan_to_num(image).any(axis=(1, 2)).all():
        raise _Refused("blank in some bands" if np.nan_to_num(image).any() else BLANK)
    return image


def _request(address: str, config: CutoutsConfig, bands: int, wait: float) -> np.ndarray:
    request, reason = urllib.request.Request(address, headers={"User-Agent": f"zwicky/{__version__}"}), ""
    for _ in range(config.attempts):
        time.sleep(wait)
        wait = 2 * wait
        try:
            with urllib.request.urlopen(request, timeout=config.timeout) as answer:
                return _read(answer.read(), bands, config.size)
        except urllib.error.HTTPError as error:
            if error.code not in (408, 425, 429) and error.code < 500:
                raise _Refused(f"the service answers {error.code} {error.reason}") from error
            after = error.headers.get("Retry-After", "")
            wait, reason = max(wait, float(after) if after.isdigit() else 0), f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
    raise OSError(f"no proper answer in {config.attempts} attempts: {reason}")


def _read(data: bytes, count: int, size: int) -> np.ndarray:
    """The first image of a FITS file, as [count, size, size] float32; ValueError if it is anything else."""
    if not data.startswith(b"SIMPLE"):
        raise ValueError(f"the answer is no FITS file but {data[:30]!r}")
    try:
        with fits.open(io.BytesIO(data)) as hdus:
            image = np.array(next(hdu.data for hdu in hdus if hdu.data is not None), np.float32)
    except Exception as error:  # astropy raises many kinds on a truncated file
        raise ValueError(f"the answer is a damaged FITS file: {error}") from error
    image = image.reshape(-1, *image.shape[-2:])
    if image.shape != (count, size, size):
        raise ValueError(f"the answer has shape {list(image.shape)}, not {[count, size, size]}")
    return image


def download_cutouts(
    catalog: Path,
    out: Path,
    config: CutoutsConfig,
    *,
    pool: Path | None = None,
    quiet: bool = False,
    pause: float = 0.5,
) -> str:
    """Fetch one FITS file for each object of a catalogue into a folder, with `catalog.csv` for `zwicky ingest`.

    Args:
        catalog: table with positions, and ids, labels and properties that are carried along.
        out: the folder; a repeated call fetches what is missing. `set_aside.csv` lists what the service does not have.
        config: service, bands and size.
        pool: table of galaxies in the same fields, with the columns of `config.match`; negatives are drawn from it.
        quiet: show no progress.
        pause: seconds between requests.

    Returns:
        What was fetched, and the audit of the set.

    Raises:
        UserError: The catalogue has no positions, nothing could be fetched, or `out` holds other cutouts.
    """
    table, unplaced = _objects(catalog)
    if pool is not None:
        table = add_negatives(table, _objects(pool)[0], config.match, config.per_lens)
    names = unique_names(re.sub(r"[^\w.+-]+", "_", identifier) for identifier in table["id"])
    aside, files = out / "set_aside.csv", [f"{name}.fits" for name in names]
    refused = _resume(out, dict(zip(files, table[["ra", "dec"]].to_numpy().tolist(), strict=True)), config)
    survey = config.layer or config.service
    done = [(out / file).exists() or file in refused for file in files]
    with StepProgress("cutouts", len(files), sum(done), 1, quiet, "object") as progress:
        for file, is_done, row in zip(files, done, table.itertuples(index=False), strict=True):
            if is_done:
                continue
            try:
                image = fetch(config, row.ra, row.dec, pause)
                with replacing(out / file) as temporary:
                    write_cutout(temporary, image, config.bands, row.ra, row.dec, config.pixel_scale, survey)
            except (_Refused, OSError) as error:
                refused[file] = str(error)
                write_set_aside(aside, [*unplaced, *refused.items()])
            progress.advance()
    write_set_aside(aside, [*unplaced, *refused.items()])
    fetched = table.assign(file=files)[[(out / file).exists() for file in files]]
    if not len(fetched):
        raise UserError(f"nothing could be fetched: {next(iter(refused.values()))}; see {aside}")
    write_table(out / "catalog.csv", fetched[["file", *table]])
    listed = len(unplaced) + len(refused)
    summary = f"{len(fetched)} of {len(table) + len(unplaced)} cutouts in {out}, {listed} listed in {aside}"
    with tempfile.TemporaryDirectory() as folder:
        ingest(out, Path(folder) / "store", out / "catalog.csv")
        store = open_store(Path(folder) / "store")
        return f"{summary}\n{audit_text(audit(store, read_labels(Path(folder) / 'store')))}"


def _resume(out: Path, positions: dict[str, list[float]], config: CutoutsConfig) -> dict[str, str]:
    """Write RECORD, the settings and the position of each file, and return what the service does not have.

    UserError if the files in `out` are of other settings or positions.
    """
    record, aside = out / RECORD, out / "set_aside.csv"
    settings = {name: value for name, value in asdict(config).items() if name in SETTINGS}
    settings["layer"] = config.layer or LAYERS[config.service]
    old = read_json(record) if record.exists() else settings | {"positions": {}}
    if different := [name for name, value in settings.items() if old.get(name) != value]:
        raise UserError(f"{out} holds cutouts with other {', '.join(different)}; choose another --out")
    same = {file for file, position in positions.items() if old["positions"].get(file) == position}
    for file in positions:
        if file not in same and (out / file).exists():
            raise UserError(f"{out / file} is not of the position in the catalogue; remove it, or choose another --out")
    refused = dict(read_set_aside(aside)) if same and aside.exists() else {}
    refused = {f: reason for f, reason in refused.items() if f in same and not reason.startswith("no proper answer")}
    write_set_aside(aside, refused.items())
    write_json(record, settings | {"positions": old["positions"] | positions})
    return refused


def _objects(path: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The table with id, ra and dec (degrees) first, and the rows that have no position, with the reason."""
    table = read_catalog(path)
    pair = find_position_columns(list(table))
    if not pair:
        raise UserError(f"{path} has no positions; name its columns ra and dec, in degrees")
    ra, dec, _ = parse_positions(table, pair)
    is_placed = np.isfinite(ra) & np.isfinite(dec)
    if not is_placed.any():
        raise UserError(f"no row of {path} has a position; write {' and '.join(pair)} in degrees")
    name = find_column(list(table), "id")
    ids = as_text(table[name]) if name else pd.Series([""] * len(table))
    unplaced = [(ids[row] or f"row {row + 1}", "has no position") for row in np.flatnonzero(~is_placed)]
    ids = ids.where((ids != "") & ~ids.duplicated(), [f"{a:.5f}{d:+.5f}" for a, d in zip(ra, dec, strict=True)])
    rest = table.drop(columns=[column for column in {name, *pair, "id", "ra", "dec", "file"} if column in table])
    result = pd.concat([pd.DataFrame({"id": ids, "ra": ra, "dec": dec}), rest], axis=1)
    return result[is_placed].reset_index(drop=True), unplaced


def add_negatives(lenses: pd.DataFrame, pool: pd.DataFrame, match: Sequence[str], per_lens: int) -> pd.DataFrame:
    """Add to the lenses negatives from a pool, alike in the columns `match` (magnitudes, colours) and near on the sky.

    For one lens after the other the closest unused galaxies of its field (FIELD) are taken, by the Euclidean distance
    of the columns in units of the pool's standard deviation; galaxies within EXCLUDED of any lens are left out. A lens
    that lacks a value of these columns has no negatives.

    Returns:
        The table with a column `label`, lens or nonlens.
    """
    if missing := [name for name in match if name not in lenses or name not in pool]:
        raise UserError(f"no column {missing[0]!r} in both tables; name magnitudes and colours of both by --match")
    values = [table[list(match)].apply(pd.to_numeric, errors="coerce").to_numpy(float) for table in (lenses, pool)]
    scale = np.nanstd(values[1], axis=0) + 1e-12
    sky = [SkyCoord(table["ra"], table["dec"], unit="deg") for table in (lenses, pool)]
    _, to_lens, _ = sky[1].match_to_catalog_sky(sky[0])
    free = (to_lens > EXCLUDED * units.arcsec) & np.isfinite(values[1]).all(1)
    chosen: list[int] = []
    for row in range(len(lenses)):
        near = np.flatnonzero(free & (sky[0][row].separation(sky[1]) < FIELD * units.deg))
        distance = (((values[1][near] - values[0][row]) / scale) ** 2).sum(1)
        is_known = np.isfinite(distance)  # nothing is alike to a lens that lacks a value
        closest = near[is_known][np.argsort(distance[is_known], kind="stable")[:per_lens]]
        free[closest] = False
        chosen += closest.tolist()
    negatives = pool.iloc[chosen].assign(label="nonlens")
    return pd.concat([lenses.assign(label="lens"), negatives], ignore_index=True, join="inner")
