"""Small candidates, a server in a thread, and the system's Chromium."""

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from zwicky.data.cutouts import make_cutouts
from zwicky.grading.config import SessionConfig
from zwicky.grading.database import Judgements
from zwicky.grading.session import Session

CHROMIUM = "/usr/bin/chromium"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
FLAGS += "--disable-component-update --disable-sync".split()
TOKEN = "secret"


def candidates(count=120, ids=None, bands=("g", "r", "i")):
    """Cutouts of noise with a score, one in four of the random stratum."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, len(bands), 16, 16)).astype(np.float32)
    stratum = np.where(np.arange(count) % 4 == 3, "random", "top").astype(object)
    columns = {"ra": rng.uniform(0, 360, count), "dec": rng.uniform(-60, 60, count), "stratum": stratum}
    columns |= {"score": rng.random(count), "spread": np.zeros(count)}
    columns["inclusion_probability"] = np.where(stratum == "random", 0.01, 1.0)
    return make_cutouts(images, bands, ids, **columns)


@pytest.fixture
def make_candidates():
    """The function `candidates`."""
    return candidates


@pytest.fixture
def in_order():
    """A function that returns a session of all cutouts once, in the order of their rows."""

    def make(cutouts):
        session = Session(cutouts, SessionConfig(repeat_share=0, random_share=0))
        session.slots = session.slots.sort_values("row").reset_index(drop=True)
        return session

    return make


@pytest.fixture
def plain_session(in_order):
    return in_order(candidates())


@pytest.fixture
def serve(tmp_path):
    """A function that serves a session from a thread: (address, judgements), as a context."""
    import uvicorn

    from zwicky.grading import app

    @contextlib.contextmanager
    def server(session, keys=app.KEYS):
        judgements, listener = Judgements(tmp_path / "ana.db"), app.listen([0])
        application = app.create_app(session, judgements, "ana", TOKEN, keys)
        runner = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/{TOKEN}/", judgements
        finally:
            runner.should_exit = True
            thread.join(5)
            judgements.close()

    return server


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """A function that opens an address in a browser of its own, or in a tab of the context given."""
    contexts = []

    def open_page(address, context=None, **options):
        if context is None:
            context = browser.new_context(**options)
            contexts.append(context)
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#count:not(:empty)")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def wait_until():
    """A function that waits until its argument returns something true, and returns that."""

    def wait_until(condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, "timed out"
            time.sleep(0.02)
        return result

    return wait_until
