"""Take the pictures of grading.md: `python docs/grading.py RUN`, in Chromium, of a simulated survey with few lenses.

RUN is a network that `zwicky demo` fine-tuned, e.g. demo/run-desk/cells/simmim-polar-finetune-n300-d0. The grader is
simulated: 90 % of the lenses and 5 % of the others get an A or B.
"""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from zwicky import cli
from zwicky.data.labels import read_labels
from zwicky.rng import numpy_rng

IMAGES = Path(__file__).parent.absolute() / "images"
SURVEY = """base: demo-lenses
description: a survey with few lenses
classes:
  lens: {fraction: 0.03}
  elliptical: {fraction: 0.17}
  spiral: {fraction: 0.28}
  ring: {fraction: 0.12}
  companions: {fraction: 0.28}
  merger: {fraction: 0.12}
"""
SHOTS = {"mosaic": (1000, 560, "light"), "single": (1000, 520, "light"), "tablet": (768, 620, "dark")}
SHOTS |= {"phone": (375, 667, "dark")}  # width and height in pixels, colours


def grade(page: Page, is_lens: dict[str, bool], count: int = 31) -> None:
    """Grade the first images of the mosaic by keys, and comment on the last lens among them."""
    rng, names = numpy_rng(0), page.evaluate("slots.id")[:count]
    for name in names:
        says_lens = rng.random() < (0.9 if is_lens[name] else 0.05)
        page.keyboard.press(rng.choice([*"qw"]) if says_lens else rng.choice([*"errr"]))
    for name in reversed(names):
        page.keyboard.press("ArrowLeft")
        if is_lens[name]:
            break
    page.keyboard.press("c")
    page.keyboard.type("counter-image on the other side?")
    page.keyboard.press("Enter")
    page.get_by_text("saved", exact=True).wait_for()


def take_picture(page: Page, name: str, width: int, height: int, colours: str) -> None:
    """Write docs/images/grading-NAME.png."""
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if colours == "dark" else "light")
    page.click("#to-single" if name == "single" else "#to-mosaic")
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(IMAGES / f"grading-{name}.png", optimize=True)


def main() -> None:
    """Score a survey, and grade its candidates in a temporary folder."""
    run = str(Path(sys.argv[1]).absolute())
    os.chdir(tempfile.mkdtemp())
    Path("survey.yaml").write_text(SURVEY)
    cli.run("simulate survey.yaml --n 4000 --seed 2 --out survey".split())
    is_lens = {name: label == "lens" for name, label in read_labels("survey").values.items()}
    cli.run(["score", run, *"--data survey --out scores --top 200 --random 100 --prevalence 0.03 --views 1".split()])
    words = [sys.executable, "-m", "zwicky", *"grade scores/candidates --grader ana --browser false".split()]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = next(line.split()[1] for line in server.stdout if line.startswith("open "))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)  # milliseconds, for a busy machine
        page.goto(address)
        page.wait_for_selector(".cell img")
        grade(page, is_lens)
        for name, shot in SHOTS.items():
            take_picture(page, name, *shot)
        browser.close()
    server.terminate()


if __name__ == "__main__":
    main()
