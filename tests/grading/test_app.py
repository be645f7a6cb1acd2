"""The server and the file of judgements, without a browser."""

import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from zwicky.data.store import write_store
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.grading.database import COLUMNS, Judgements, read_judgements
from zwicky.grading.session import REPEAT_DISTANCE, Session, _round_robin

pytest.importorskip("starlette")


def make_row(key, identifier="x", grade="A", time="2026-01-01T00:00:00.000Z", **values):
    row = dict.fromkeys(COLUMNS) | {"grader": "ana", "subclass": "", "comment": "", "view": "single", "repeat": 0}
    return row | {"key": key, "id": identifier, "grade": grade, "time": time} | values


@pytest.fixture
def judgements(tmp_path):
    opened = Judgements(tmp_path / "ana.db")
    yield opened
    opened.close()


@pytest.fixture
def client(plain_session, judgements):
    from starlette.testclient import TestClient

    from zwicky.grading.app import KEYS, create_app

    return TestClient(create_app(plain_session, judgements, "ana", "secret", KEYS), base_url="http://127.0.0.1:9000")


def item(key, identifier="000000", grade="A", **values):
    times = {"time": "2026-01-01T00:00:00.000Z", "seconds": 1.5, "view": "single"}
    return {"key": key, "id": identifier, "repeat": 0, "grade": grade, "subclass": "", "comment": ""} | times | values


def post(client, *items, since=0, **options):
    return client.post("/secret/judgements", json={"judgements": items, "since": since}, **options)


def test_the_token_and_the_origin_are_needed(client, judgements):
    assert client.get("/secret/").status_code == 200
    for path in ("/", "/state", "/wrong/state", "/secretx/state", "/secret", "/thumb/0.png", "/wrong/app.js"):
        assert client.get(path).status_code == 403, path
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example:9000"}):
        assert client.get("/secret/state", headers=headers).status_code == 403, headers
        assert post(client, item("a"), headers=headers).status_code == 403
    assert judgements.since(0) == []
    assert post(client, item("a"), headers={"Origin": "http://127.0.0.1:9000"}).status_code == 200
    assert len(judgements.since(0)) == 1
    assert client.get("/secret/../../etc/passwd").status_code in (403, 404)
    page = client.get("/secret/")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "no-referrer"


def test_judgements_are_kept_once_with_their_object(client, judgements):
    first = post(client, item("a"), item("b", "000001", "X", subclass="ring")).json()
    assert [row["id"] for row in first["judgements"]] == ["000000", "000001"]
    for answer in (first, client.get("/secret/state").json()):  # nothing tells what calibrates
        names = {name for row in answer["judgements"] for name in row}
        assert names == {"id", "repeat", "grade", "subclass", "comment", "time"}
    again = post(client, item("b", "000001", "X", subclass="ring"), item("c", grade=""), since=first["seq"]).json()
    assert [(row["id"], row["grade"]) for row in again["judgements"]] == [("000000", "")]
    row = judgements.since(0)[1]
    assert (row["stratum"], row["inclusion_probability"], row["grader"], row["seconds"]) == ("top", 1.0, "ana", 1.5)
    assert np.isfinite([row["ra"], row["dec"], row["score"]]).all()
    assert post(client, item("d", "of another session")).status_code == 200
    for wrong in (item("e", grade="D"), {"key": "f"}, item("g", seconds="soon")):
        assert post(client, item("h"), wrong).status_code == 400
    assert len(judgements.since(0)) == 4


def test_a_file_that_cannot_be_written_is_507(client, judgements):
    judgements._connection.execute("PRAGMA query_only = 1")
    answer = post(client, item("a"))
    assert answer.status_code == 507
    assert "readonly" in answer.text


def test_pictures(client, plain_session):
    import io

    from PIL import Image

    def picture(query):
        answer = client.get(f"/secret/thumb/3.png?{query}")
        return np.asarray(Image.open(io.BytesIO(answer.content))) if answer.status_code == 200 else answer.status_code

    gri = plain_session.cutouts.images[3]
    gri[0, 4, 4] = np.nan
    colour, linear = picture(""), picture("stretch=linear&low=1&high=99")
    assert colour.shape == (16, 16, 3)
    black, white = np.nanpercentile(gri, [1, 99])  # of all bands, which keeps the colour
    shown = np.nan_to_num((gri[::-1] - black) / (white - black)).clip(0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(linear, 255 * shown, atol=0.51)
    one = picture("stretch=linear&low=0&high=100&band=1")
    assert (one[..., 0] == one[..., 2]).all()
    pixels = gri[1]
    np.testing.assert_allclose(one[..., 0], 255 * (pixels - pixels.min()) / np.ptp(pixels), atol=0.51)
    assert picture("stretch=log&low=0&high=100&band=1").mean() > picture("stretch=sqrt&low=0&high=100&band=1").mean()
    inverted = picture("stretch=linear&low=0&high=100&band=1&colours=gray_r")
    np.testing.assert_allclose(inverted, 255.0 - one, atol=1)
    assert np.ptp(picture("band=0&colours=viridis"), axis=2).max() > 50
    assert (picture("colours=viridis") == colour).all()
    assert picture("stretch=asinh").shape == (16, 16, 3)
    wrong = ("band=3", "low=9&high=1", "stretch=cubic", "band=0&colours=jet", "low=x")
    assert [picture(query) for query in wrong] == [404, 404, 404, 404, 400]
    assert client.get("/secret/thumb/120.png").status_code == 404
    gri[:] = np.nan
    assert not picture("stretch=linear&low=2").any()


def test_the_file_is_append_only_and_the_latest_row_counts(judgements, tmp_path):
    judgements.append([make_row("a", grade="A"), make_row("b", grade="X", time="2026-01-02"), make_row("a", "lost")])
    judgements.append([make_row("c", grade="B", time="2026-01-01T12"), make_row("d", grade="C", repeat=1)])
    for statement in ("DELETE FROM judgements", "UPDATE judgements SET grade = 'A'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            judgements._connection.execute(statement)
    judgements.append([make_row("e", "y", "A"), make_row("f", "y", "X")])  # in one moment: the later counts
    table = read_judgements(tmp_path / "ana.db")
    assert table["grade"][table["id"] == "y"].tolist() == ["X"]
    table = table[table["id"] == "x"]
    assert sorted(zip(table["repeat"], table["grade"], strict=True)) == [(0, "X"), (1, "C")]
    assert len(judgements.since(0)) == 6
    (tmp_path / "text").write_text("no database")
    for name in ("text", "absent"):
        with pytest.raises(UserError, match=name):
            read_judgements(tmp_path / name)


@pytest.mark.parametrize("order", ["random", "top", "uncertain", "diverse"])
def test_orders_keep_the_share_of_the_random_stratum(order, make_candidates):
    cutouts = make_candidates(200)
    session = Session(cutouts, SessionConfig(next=order, repeat_share=0, random_share=0.25))
    slots = session.slots
    assert sorted(slots["row"]) == list(range(200))
    is_random = (slots["stratum"] == "random").to_numpy()
    assert (np.add.reduceat(is_random, range(0, 160, 20))[:-1] == 5).all()
    score = slots["score"].to_numpy()[~is_random]
    if order == "top":
        assert (np.diff(score) <= 0).all()
    if order == "uncertain":
        assert (np.diff(abs(score - 0.5)) >= 0).all()
    if order == "random":
        other = Session(cutouts, SessionConfig(next=order, repeat_share=0, random_share=0.25, seed=1)).slots
        assert abs(np.corrcoef(score, np.arange(len(score)))[0, 1]) < 0.3
        assert list(other["row"]) != list(slots["row"])
    again = Session(cutouts, SessionConfig(next=order, repeat_share=0, random_share=0.25))
    assert list(again.slots["id"]) == list(slots["id"])


def test_where_networks_differ_is_uncertain(make_candidates):
    cutouts = make_candidates(80)
    table = cutouts.table.assign(score=0.5, spread=np.random.default_rng(1).permutation(80) / 10.0)
    slots = Session(replace(cutouts, table=table), SessionConfig("uncertain", repeat_share=0)).slots
    spread = table["spread"].to_numpy()[slots["row"]][slots["stratum"] == "top"]
    assert (np.diff(spread) < 0).all()


def test_clusters_take_turns_and_give_their_best_first():
    assert _round_robin(np.array([0, 0, 0, 1, 1]), np.array([3, 1, 2, 5, 4])).tolist() == [1, 4, 2, 3, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("top", [0, 1, 2])
def test_few_candidates_are_shown_in_any_order(top, make_candidates):
    cutouts = make_candidates(8)
    cutouts.table["stratum"] = np.where(np.arange(8) < top, "top", "random")
    for order in ("random", "top", "uncertain", "diverse"):
        assert sorted(Session(cutouts, SessionConfig(next=order, repeat_share=0)).slots["row"]) == list(range(8))


def test_diverse_shows_every_kind_of_image_first(make_candidates):
    cutouts = make_candidates(90)
    kinds = np.arange(90) % 3 == 0  # a third has a bright corner
    cutouts.images[kinds, :, :8, :8] += 30
    cutouts.table["stratum"] = "top"
    cutouts.table["score"] = np.where(kinds, 0.9, 0.1)
    orders = (SessionConfig(next=order, repeat_share=0) for order in ("top", "diverse"))
    top, diverse = (kinds[Session(cutouts, config).slots["row"][:12]] for config in orders)
    assert top.all()
    assert 0 < diverse.sum() < 12


def test_repeats_and_hidden_calibration_images(make_candidates, tmp_path):
    hidden = make_candidates(30, [f"known-{row}" for row in range(30)])
    write_store(hidden.images, hidden.table, tmp_path / "known", bands=hidden.bands)
    rows = pd.DataFrame({"id": hidden.ids, "label": np.where(np.arange(30) % 2, "lens", "nonlens")}).iloc[10:]
    rows.to_csv(tmp_path / "known" / "labels.csv", index=False)
    config = SessionConfig(calibration=tmp_path / "known", calibration_share=0.1, repeat_share=0.1)
    session = Session(make_candidates(), config)
    slots = session.slots
    known = slots[slots["truth"].notna() & (slots["repeat"] == 0)]
    assert len(known) == 13  # a tenth of all
    assert all(int(name.split("-")[1]) % 2 == truth for name, truth in zip(known["id"], known["truth"], strict=True))
    assert known.index.max() > 60
    row = known["row"].iloc[0]
    assert (session.image(row) == hidden.images[int(known["id"].iloc[0].split("-")[1])]).all()
    for _, again in slots[slots["repeat"] == 1].iterrows():
        first = slots.index[(slots["id"] == again["id"]) & (slots["repeat"] == 0)][0]
        assert again.name >= first + REPEAT_DISTANCE or (slots["repeat"][again.name :] == 1).all()
    assert 5 <= (slots["repeat"] == 1).sum() <= 25
    assert not slots.duplicated(["id", "repeat"]).any()


def test_mistakes(make_candidates, tmp_path):
    from zwicky.grading.app import read_keys

    cutouts = make_candidates(20)
    for table in (cutouts.table.drop(columns="score"), cutouts.table.assign(score="high")):
        with pytest.raises(UserError, match="needs a column `score` of numbers"):
            Session(replace(cutouts, table=table), SessionConfig("top"))
        assert len(Session(replace(cutouts, table=table), SessionConfig(repeat_share=0)).slots) == 20
    for name, value in (("random_share", 1), ("seed", -1), ("seed", 2**32)):
        with pytest.raises(UserError, match=f"{name} is {value}; choose from 0"):
            SessionConfig(**{name: value})
    write_store(cutouts.images, cutouts.table, tmp_path / "same", bands=cutouts.bands)
    with pytest.raises(UserError, match="two classes"):
        Session(cutouts, SessionConfig(calibration=tmp_path / "same"))
    for text, message in [("grades: {A: r}", "both on the key 'r'"), ("both: {fly: y}", "fly"), ("all: {}", "all")]:
        (tmp_path / "keys.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_keys(tmp_path / "keys.yaml")


def test_a_copy_of_the_file_has_every_judgement(judgements, tmp_path):
    """The file is still open, as after a kill."""
    judgements.append([make_row("k")])
    shutil.copy(tmp_path / "ana.db", tmp_path / "mail.db")
    assert len(read_judgements(tmp_path / "mail.db")) == 1


def test_a_session_file_is_whole_and_a_port_exists(tmp_path, monkeypatch, plain_session):
    from zwicky.grading import app

    with pytest.raises(UserError, match="port 99999"):
        app.listen([99999])
    monkeypatch.setattr(app.json, "dumps", lambda *_: 1 / 0)
    for _ in range(2):  # a start that was killed does not forbid the next
        with pytest.raises(ZeroDivisionError):
            app.serve(plain_session, tmp_path / "a.db", "a", app.KEYS, 0, False)
