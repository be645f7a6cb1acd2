"""Progress: a bar on a terminal, lines in a log and in a notebook."""

import io
import sys

import pytest

from zwicky import progress


@pytest.mark.parametrize(("terminal", "notebook"), [(True, False), (True, True), (False, False)])
def test_a_bar_is_redrawn_on_a_terminal_alone(terminal, notebook, monkeypatch):
    stream, bar = io.StringIO(), terminal and not notebook
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    if notebook:
        monkeypatch.setenv("JPY_PARENT_PID", "1")  # what the kernel of a notebook hands to `!zwicky`
    with progress.StepProgress("fit", 3, 0, 8) as shown:
        for _ in range(3):
            shown.advance()
    assert ("\x1b[" in stream.getvalue()) == bar
    assert bar or stream.getvalue().count("fit: step ") == 3
