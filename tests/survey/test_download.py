"""Cutouts from a service that misbehaves: asked one at a time, repeated, resumed; what is missing is listed."""

from __future__ import annotations

import contextlib
import http.server
import io
import threading
import time
import urllib.error
from dataclasses import replace
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from zwicky.data.ingest import ingest
from zwicky.data.readers import read_image
from zwicky.errors import UserError
from zwicky.survey import download
from zwicky.survey.config import CutoutsConfig
from zwicky.survey.download import add_negatives, download_cutouts

SIZE = 8


def image(ra, bands=3, size=SIZE, value=None):
    pixels = np.random.default_rng(int(ra * 1000)).normal(1, 1, (bands, size, size)).astype(np.float32)
    stream = io.BytesIO()
    fits.PrimaryHDU(pixels if value is None else np.full_like(pixels, value)).writeto(stream)
    return stream.getvalue()


GOOD = image(3.5)
ONCE = {  # the whole part of ra → what is answered at first: status, body and headers
    1: (503, b"busy"),
    2: (429, b"slow down", {"Retry-After": "0"}),
    3: (200, GOOD[: len(GOOD) // 2], {"Content-Length": str(len(GOOD))}),  # ends in the middle of the file
    4: (200, b""),
    5: (200, b"<html>maintenance</html>"),
    6: (200, GOOD[:2000]),
    8: (200, image(1, bands=2)),
    9: (200, image(1, size=SIZE + 1)),
}
ALWAYS = {
    20: (404, b"no such field"),
    21: (200, image(1, value=0.0)),
    22: (200, image(1, value=np.nan)),
    23: (500, b"always"),
}


class Service(http.server.BaseHTTPRequestHandler):
    """Misbehaves as ONCE and ALWAYS say; 7 comes after the timeout, and 10 closes the connection."""

    def do_GET(self):
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        ra, asked = float(query["ra"]), self.server.asked
        kind, is_first = int(ra), ra not in asked
        asked.append(ra)
        if is_first and kind == 7:
            return time.sleep(0.6)
        if is_first and kind == 10:
            return self.connection.close()
        good = 200, image(ra, len(query.get("bands", "g")), int(query.get("size") or query["width"]))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(*((ONCE if is_first else {}) | ALWAYS).get(kind, good))

    def send(self, code, body, headers=None):
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(service):
    address = f"http://127.0.0.1:{service.server_port}/cutout"
    return CutoutsConfig(size=SIZE, address=address, attempts=3, timeout=0.3)


def catalogue(path, kinds):
    columns = {"id": [f"o {kind}" for kind in kinds], "ra": np.add(kinds, 0.5), "dec": -1.5}
    pd.DataFrame(columns | {"label": np.resize(["a", "b"], len(kinds))}).to_csv(path, index=False)
    return path


@pytest.mark.filterwarnings("ignore:Error validating header")
def test_a_service_that_misbehaves_in_fourteen_ways(service, config, tmp_path):
    kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23]
    table, out = catalogue(tmp_path / "c.csv", kinds), tmp_path / "out"
    text = download_cutouts(table, out, config, quiet=True, pause=0.001)
    assert "13 of 17 cutouts" in text
    reasons = pd.read_csv(out / "set_aside.csv").set_index("file")["reason"]
    expected = {"o_20.fits": "404", "o_21.fits": "footprint", "o_22.fits": "footprint", "o_23.fits": "no proper answer"}
    assert set(reasons.index) == set(expected)
    assert all(part in reasons[file] for file, part in expected.items())
    record = read_image(out / "o_3.fits")
    assert record.bands == ("g", "r", "z")
    np.testing.assert_array_equal(record.image, fits.getdata(io.BytesIO(image(3.5))))
    assert record.columns["ra"] == 3.5
    assert record.columns["pixel_scale"] == 0.262
    written = pd.read_csv(out / "catalog.csv")
    assert written["label"].tolist() == ["a", "b"] * 6 + ["a"]
    service.asked.clear()
    download_cutouts(table, out, config, quiet=True, pause=0.001)
    assert set(service.asked) == {23.5}  # all else is there, or known to be missing


def test_an_interrupted_download_goes_on(service, config, tmp_path, monkeypatch):
    table, out, written = catalogue(tmp_path / "c.csv", [0, 11, 12, 13]), tmp_path / "out", []
    write = download.write_cutout

    def interrupted(path, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(path, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(download, "write_cutout", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download_cutouts(table, out, config, quiet=True, pause=0)
    assert not list(out.glob(".*.tmp"))
    download_cutouts(table, out, config, quiet=True, pause=0)
    assert service.asked == [0.5, 11.5, 12.5, 12.5, 13.5]


def test_cutouts_of_other_positions_or_settings_are_refused(service, config, tmp_path):
    table, out = catalogue(tmp_path / "c.csv", [0, 11, 20]), tmp_path / "out"
    download_cutouts(table, out, config, quiet=True, pause=0)
    catalogue(table, [0, 11, 20, 12])  # one more is no other
    download_cutouts(table, out, config, quiet=True, pause=0)
    assert service.asked == [0.5, 11.5, 20.5, 12.5]
    catalogue(table, [0, 11, 20])
    for other, name in [
        (replace(config, service="hips2fits"), "service, layer"),
        (replace(config, layer="ls-dr9"), "layer"),
        (replace(config, bands="gri"), "bands"),
        (replace(config, size=SIZE + 1), "size"),
        (replace(config, pixel_scale=0.1), "pixel_scale"),
    ]:
        with pytest.raises(UserError, match=f"other {name}; choose another --out"):
            download_cutouts(table, out, other, quiet=True, pause=0)
    moved = pd.read_csv(table)
    moved.loc[2, "ra"] = 13.5
    moved.to_csv(table, index=False)
    download_cutouts(table, out, config, quiet=True, pause=0)  # what was refused elsewhere is asked for again
    assert read_image(out / "o_20.fits").columns["ra"] == 13.5
    report = ingest(out, tmp_path / "store")
    assert report.read == 4
    assert report.catalog == str(out / "catalog.csv")
    moved.assign(ra=[1.5, 11.5, 13.5]).to_csv(table, index=False)
    with pytest.raises(UserError, match=r"o_0\.fits is not of the position"):
        download_cutouts(table, out, config, quiet=True, pause=0)
    assert service.asked == [0.5, 11.5, 20.5, 12.5, 13.5]
    (out / download.RECORD).unlink()
    with pytest.raises(UserError, match=r"o_0\.fits is not of the position"):
        download_cutouts(table, out, config, quiet=True, pause=0)


def test_rows_without_a_position_are_listed(service, config, tmp_path):
    table, out = catalogue(tmp_path / "c.csv", [0, 11, 12, 13]), tmp_path / "out"
    rows = pd.read_csv(table)
    rows.loc[1, "ra"], rows.loc[2, "dec"], rows.loc[2, "id"] = np.nan, np.nan, None
    rows.to_csv(table, index=False)
    for _ in range(2):
        text = download_cutouts(table, out, config, quiet=True, pause=0)
        assert "2 of 4 cutouts" in text
        assert ", 2 listed" in text
        listed = pd.read_csv(out / "set_aside.csv")
        assert list(listed.itertuples(index=False, name=None)) == [(n, "has no position") for n in ("o 11", "row 3")]
    rows.assign(ra=np.nan).to_csv(table, index=False)
    with pytest.raises(UserError, match=r"no row of .* has a position"):
        download_cutouts(table, tmp_path / "none", config, quiet=True, pause=0)


def test_ids_that_differ_in_signs_have_files_of_their_own(service, config, tmp_path):
    table, out = catalogue(tmp_path / "c.csv", [0, 11, 12, 13]), tmp_path / "out"
    rows = pd.read_csv(table).assign(id=["a b", "a/b", "a_b_1", "A b"], file="of another folder")
    rows.to_csv(table, index=False)
    assert "4 of 4 cutouts" in download_cutouts(table, out, config, quiet=True, pause=0)
    written = pd.read_csv(out / "catalog.csv")
    assert written.columns.tolist() == ["file", "id", "ra", "dec", "label"]
    assert written["file"].tolist() == ["a_b.fits", "a_b_.fits", "a_b_1.fits", "A_b__.fits"]
    assert [fits.getval(out / file, "RA") for file in written["file"]] == [0.5, 11.5, 12.5, 13.5]


@pytest.mark.parametrize(
    ("name", "value"), [("size", 3001), ("pixel_scale", 0), ("attempts", 0), ("timeout", -1), ("per_lens", -1)]
)
def test_settings_that_no_service_takes_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} is {value}; choose from"):
        CutoutsConfig(**{name: value})


def test_a_file_is_no_folder_to_write(service, config, tmp_path):
    table = catalogue(tmp_path / "c.csv", [0])
    with pytest.raises(UserError, match="cannot write"):
        download_cutouts(table, table, config, quiet=True, pause=0)


def test_a_service_is_asked_for_the_place_and_the_scale(monkeypatch):
    asked = []

    def request(address, config, bands, pause):
        asked.append({key: values[0] for key, values in parse_qs(urlparse(address).query).items()})
        return np.ones((bands, SIZE, SIZE), np.float32)

    monkeypatch.setattr(download, "_request", request)
    for service in ("legacy", "hips2fits"):
        config = CutoutsConfig(service=service, size=SIZE, pixel_scale=0.3)
        assert download.fetch(config, 150.123456, -2.345678, 0).shape == (3, SIZE, SIZE)
    assert all((float(one["ra"]), float(one["dec"])) == (150.123456, -2.345678) for one in asked)
    assert {"layer": "ls-dr10", "bands": "grz", "size": str(SIZE), "pixscale": "0.3"}.items() <= asked[0].items()
    assert [one["hips"] for one in asked[1:]] == [f"CDS/P/DESI-Legacy-Surveys/DR10/{band}" for band in "grz"]
    for one in asked[1:]:
        assert (one["width"], one["height"], one["projection"]) == (str(SIZE), str(SIZE), "TAN")
        assert float(one["fov"]) == pytest.approx(SIZE * 0.3 / 3600, abs=1e-8)  # degrees


@pytest.mark.parametrize(("headers", "waits"), [({}, [1, 2, 4]), ({"Retry-After": "7"}, [1, 7, 14])])
def test_pauses_grow_or_are_those_that_the_service_asks_for(monkeypatch, headers, waits):
    def busy(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 429, "slow down", headers, None)

    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    monkeypatch.setattr(download.urllib.request, "urlopen", busy)
    with pytest.raises(OSError, match="no proper answer in 3 attempts: 429"):
        download.fetch(CutoutsConfig(attempts=3), 1.0, 2.0, 1)
    assert slept == waits


def test_one_band_at_a_time_of_hips2fits(service, config, tmp_path):
    table = catalogue(tmp_path / "c.csv", [11, 12])
    download_cutouts(table, tmp_path / "out", replace(config, service="hips2fits"), quiet=True, pause=0)
    assert service.asked == [11.5] * 3 + [12.5] * 3
    assert read_image(tmp_path / "out" / "o_11.fits").image.shape == (3, SIZE, SIZE)


def test_negatives_are_matched_in_the_field():
    rng = np.random.default_rng(0)
    lenses = pd.DataFrame(
        {"id": ["a", "b"], "ra": [10.0, 200.0], "dec": [0.0, 40.0], "mag": [18.0, 21.0], "gr": [1.0, 0.4]}
    )
    pool = pd.concat([lenses] * 200, ignore_index=True).assign(id=[f"p{n}" for n in range(400)])
    pool[["ra", "dec"]] += rng.uniform(-0.3, 0.3, (400, 2))
    pool["mag"], pool["gr"] = rng.uniform(16, 23, 400), rng.uniform(0, 1.5, 400)
    pool.loc[0, ["ra", "dec", "mag", "gr"]] = [10.0, 1 / 3600, 18.0, 1.0]  # the lens itself
    table = add_negatives(lenses, pool, ("mag", "gr"), 3)
    assert table["label"].tolist() == ["lens"] * 2 + ["nonlens"] * 6
    negatives = table[2:]
    assert "p0" not in set(negatives["id"])
    assert negatives["id"].is_unique
    assert np.abs(negatives["mag"] - np.repeat([18.0, 21.0], 3)).max() < 1
    assert np.abs(negatives["ra"] - np.repeat([10.0, 200.0], 3)).max() < 0.5
    table = add_negatives(lenses.assign(gr=[np.nan, 0.4]), pool, ("mag", "gr"), 3)
    assert np.abs(table["ra"][2:] - 200).max() < 0.5  # nothing is alike to the first lens
    assert len(table) == 2 + 3
    with pytest.raises(UserError, match="--match"):
        add_negatives(lenses, pool, ("size",), 1)
