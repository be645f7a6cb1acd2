"""The page in a real browser, as a grader uses it."""

import json
import os
import signal
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from zwicky.data.cutouts import Cutouts
from zwicky.data.store import write_store
from zwicky.grading.config import SessionConfig
from zwicky.grading.database import read_judgements
from zwicky.grading.session import Session

HOSTILE = '<img src=x onerror="window.hacked=1">\'"&</script><script>window.hacked=1</script>.png'


def grades(judgements):
    """[(id, grade, subclass)] of the file, in the order of judgement."""
    return [(row["id"], row["grade"], row["subclass"]) for row in judgements.latest()]


def press(page, keys):
    for key in keys:
        page.keyboard.press(key)


def setting(page, name):
    return page.evaluate(f"settings[{json.dumps(name)}]")


def test_keys_of_the_single_view(plain_session, serve, open_page, wait_until):
    with serve(plain_session) as (address, judgements):
        page = open_page(address)
        press(page, "m")
        assert page.is_visible("#single")
        press(page, "qwerasdfgh")
        expected = [("A", ""), ("B", ""), ("C", ""), ("X", "")]
        expected += [("X", name) for name in ("merger", "spiral", "ring", "elliptical", "disc", "edge-on")]
        wait_until(lambda: len(judgements.latest()) == 10)
        assert grades(judgements) == [(f"{row:06d}", *pair) for row, pair in enumerate(expected)]
        assert page.inner_text("#count") == "10 of 120 graded"
        press(page, "zz")  # undo: two new rows
        wait_until(lambda: len(judgements.since(0)) == 12)
        assert page.inner_text("#count") == "8 of 120 graded"
        assert [grade for _, grade, _ in grades(judgements)] == ["A", "B", "C", *"XXXXX", "", ""]
        assert setting(page, "cursor") == 8
        press(page, ["ArrowLeft", "ArrowLeft", "n"])  # the next ungraded
        assert setting(page, "cursor") == 8
        press(page, "c")
        page.keyboard.type("arc? q")  # letters of a comment are no keys
        press(page, ["Enter"])
        wait_until(lambda: judgements.since(0)[-1]["comment"] == "arc? q")
        press(page, "o")
        assert "000008, score 0." in page.inner_text("#known")
        for key, name, value in [("t", "stretch", "linear"), ("b", "band", 0), ("+", "zoom", 1.5), ("v", "flip", 1)]:
            press(page, key)
            assert setting(page, name) == value
        press(page, "-")
        assert setting(page, "zoom") == 1
        wait_until(lambda: page.evaluate("document.getElementById('image').naturalWidth") == 16)
        press(page, "?")
        assert page.is_visible("#keys")
        press(page, ["Escape", "Escape"])
        assert page.is_visible("#mosaic")


@pytest.mark.slow
def test_mosaic_by_keys_mouse_and_touch(plain_session, serve, open_page, wait_until):
    with serve(plain_session) as (address, judgements):
        page = open_page(address, viewport={"width": 1280, "height": 800}, has_touch=True)
        assert page.locator(".cell").count() == 100
        page.locator(".cell").nth(4).click()
        page.locator(".cell").nth(5).click(modifiers=["Shift"])
        page.locator(".cell").nth(6).click()
        page.locator(".cell").nth(6).click()  # taken back
        press(page, ["ArrowRight", "e", "r"])
        columns = page.evaluate(
            "getComputedStyle(document.getElementById('mosaic')).gridTemplateColumns.split(' ').length"
        )
        press(page, ["ArrowDown", "q"])
        wait_until(lambda: len(judgements.latest()) == 6)
        row = 9 + columns
        expected = {4: "A", 5: "B", 6: "", 7: "C", 8: "X", row: "A"}
        assert grades(judgements) == [(f"{k:06d}", grade, "") for k, grade in sorted(expected.items())]
        assert "grade B" in page.locator(".cell").nth(5).get_attribute("aria-label")
        press(page, "x")  # the rest of the page is no lens; the next page
        assert page.locator(".cell").count() == 20
        assert page.inner_text("#count") == "100 of 120 graded"
        press(page, "d")
        assert page.inner_text("#position") == "page 1 / 2"
        press(page, "f")
        page.locator(".cell").nth(0).tap()
        press(page, ["Enter"])
        assert page.is_visible("#single")
        wait_until(lambda: len(judgements.latest()) == 101)
        assert page.evaluate("document.activeElement !== document.getElementById('comment')")
        page.click("#display")
        page.select_option("#filter", "B")
        press(page, ["Escape"])
        page.click("#to-mosaic")
        assert page.locator(".cell").count() == 1


@pytest.mark.slow
def test_other_keys(plain_session, serve, open_page, wait_until, tmp_path):
    from zwicky.grading.app import read_keys

    (tmp_path / "keys.yaml").write_text("grades: {A: '1', B: '2', C: '3', X: '4'}\nsubclasses: {quasar: y}\n")
    with serve(plain_session, keys=read_keys(tmp_path / "keys.yaml")) as (address, judgements):
        page = open_page(address)
        press(page, "m14y")
        wait_until(lambda: len(judgements.latest()) == 3)
        assert grades(judgements) == [("000000", "A", ""), ("000001", "X", ""), ("000002", "X", "quasar")]


@pytest.mark.slow
def test_two_tabs_of_one_grader(plain_session, serve, open_page, wait_until):
    with serve(plain_session) as (address, judgements):
        one = open_page(address)
        two = open_page(address, context=one.context)
        press(one, "mq")
        press(two, "m")
        press(two, ["ArrowRight", "ArrowRight", "w"])
        wait_until(lambda: len(judgements.latest()) == 2)
        for page in (one, two):
            page.bring_to_front()
            wait_until(lambda page=page: page.evaluate("graded === 2"))
        press(two, ["ArrowLeft", "ArrowLeft", "ArrowLeft", "r"])  # changes what the other tab graded
        one.bring_to_front()
        wait_until(lambda: one.evaluate("judged[0].grade === 'X'"))
        assert grades(judgements) == [("000002", "B", ""), ("000000", "X", "")]


@pytest.mark.slow
def test_hostile_names_and_comments_are_text(serve, open_page, wait_until, make_candidates, in_order):
    ids = [HOSTILE, *(f"{row:03d}" for row in range(9))]
    with serve(in_order(make_candidates(10, ids))) as (address, judgements):
        page = open_page(address)
        press(page, "om")
        assert HOSTILE in page.inner_text("#known")
        press(page, "c")
        page.keyboard.type(HOSTILE)
        press(page, ["Enter", "q"])
        wait_until(lambda: judgements.since(0) and judgements.since(0)[-1]["grade"] == "A")
        assert judgements.latest()[0]["comment"] == HOSTILE
        page.reload()
        wait_until(lambda: page.evaluate("typeof slots !== 'undefined' && graded === 1"))
        press(page, ["ArrowLeft"])
        assert page.input_value("#comment") == HOSTILE
        press(page, "m")
        assert HOSTILE in page.locator(".cell").first.inner_text()
        assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_full_disk_is_reported_and_nothing_lost(plain_session, serve, open_page, wait_until):
    with serve(plain_session) as (address, judgements):
        page = open_page(address)
        press(page, "mq")
        wait_until(lambda: len(judgements.latest()) == 1)
        judgements._connection.execute("PRAGMA max_page_count = 1")  # SQLite then reports a full disk
        press(page, "c")
        page.keyboard.type("x" * 2000)
        press(page, ["Enter", *("w" * 60)])
        page.wait_for_selector("#alert:not([hidden])")
        assert "disk is full" in page.inner_text("#alert")
        assert "waiting" in page.inner_text("#saved")
        judgements._connection.execute("PRAGMA max_page_count = 100000")
        page.wait_for_selector("#alert", state="hidden")
        wait_until(lambda: len(judgements.latest()) == 61)
        assert page.inner_text("#saved") == "saved"


@pytest.mark.slow
def test_kill_of_the_server_and_of_the_tab(open_page, wait_until, tmp_path, make_candidates):
    cutouts = make_candidates(40)
    write_store(cutouts.images, cutouts.table, tmp_path / "candidates", bands=cutouts.bands)

    def start():
        words = ["grade", str(tmp_path / "candidates"), "--grader", "ana", "--browser", "false"]
        command = [sys.executable, "-c", "from zwicky.cli import main; main()", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        return process, lines[1].split()[1]

    process, address = start()
    page = open_page(address)
    press(page, "mqw")
    path = tmp_path / "candidates-grades" / "ana.db"
    wait_until(lambda: len(read_judgements(path)) == 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    press(page, "er")  # answered although nobody listens
    page.wait_for_selector("#alert:not([hidden])")
    assert "server is gone" in page.inner_text("#alert")
    context = page.context
    page.close()  # without asking, like a crash
    process, again = start()
    try:
        assert again == address
        page = open_page(address, context=context)
        wait_until(lambda: len(read_judgements(path)) == 4)
        assert list(read_judgements(path)["grade"]) == ["A", "B", "C", "X"]
        assert page.is_visible("#single")  # resumed where it was
        assert page.inner_text("#position").startswith("5 / ")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        press(page, "q")
        process, again = start()
        wait_until(lambda: len(read_judgements(path)) == 5)  # the open page finds the new server
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_key_is_answered_within_50_ms_with_100000_candidates(serve, open_page, wait_until, make_candidates):
    few = make_candidates(100)
    table = few.table.loc[few.table.index.repeat(1000)].reset_index(drop=True)
    table["id"] = [f"object-{row:06d}" for row in range(len(table))]
    many = Cutouts(np.broadcast_to(few.images[:1], (len(table), *few.images.shape[1:])), table, few.bands)
    with serve(Session(many, SessionConfig())) as (address, judgements):
        page = open_page(address)
        measure = """async ([key, view]) => {
            if (settings.view !== view) show(view);
            const times = [];
            for (let k = 0; k < 40; k++) {
                const start = performance.now();
                document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
                document.body.offsetHeight;  // the layout is part of the answer
                times.push(performance.now() - start);
                await new Promise((done) => setTimeout(done, 20));
            }
            return times.sort((a, b) => a - b)[times.length >> 1];
        }"""
        milliseconds = {pair: page.evaluate(measure, pair) for pair in product("qzn", ("single", "mosaic"))}
        assert max(milliseconds.values()) < 50, milliseconds
        wait_until(lambda: page.evaluate("queue.length") == 0, 30)
        assert len(judgements.since(0)) == 160
