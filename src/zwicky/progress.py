"""Progress: a bar on a terminal, plain lines in a log or a notebook."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0
SHOWN = ("loss", "accuracy", "teacher_kl", "rankme", "knn_accuracy", "select_loss")  # of the metrics


class StepProgress:
    """Progress of a loop: steps, images/s, loss and metrics; a bar on a terminal, occasional lines elsewhere.

    `start` steps are done already; `images_a_step` is for the rate.
    """

    def __init__(
        self, title: str, steps: int, start: int, images_a_step: int, quiet: bool = False, unit: str = "step"
    ) -> None:
        self.title, self.steps, self.images_a_step, self.unit = title, steps, images_a_step, unit
        self._start, self._step, self._text = start, start, ""
        self._images = 0
        self._began = time.monotonic()
        self._line_at = self._began + SECONDS_BETWEEN_LINES
        self._quiet = quiet
        self._bar: Progress | None = None
        # That of `!zwicky` in a notebook looks like a terminal, but every redraw is kept there.
        if not quiet and sys.stderr.isatty() and "JPY_PARENT_PID" not in os.environ:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=steps, completed=start, text="")

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the bar."""
        if self._bar:
            self._bar.stop()

    def metrics(self, row: Mapping[str, float]) -> None:
        """Show these metrics from now on."""
        self._text = " ".join(f"{name} {row[name]:.3f}" for name in SHOWN if name in row)

    def advance(self, images: int | None = None) -> None:
        """Count one step, of `images` where steps differ."""
        self._step += 1
        self._images += self.images_a_step if images is None else images
        rate = self._images / max(time.monotonic() - self._began, 1e-9)
        text = f"{rate:.0f} images/s {self._text}"
        if self._bar:
            self._bar.update(self._task, completed=self._step, text=text)
        elif not self._quiet and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + SECONDS_BETWEEN_LINES
            done = self._step - self._start
            left = (self.steps - self._step) * (time.monotonic() - self._began) / done
            line = f"{self.title}: {self.unit} {self._step}/{self.steps}, {text}, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
