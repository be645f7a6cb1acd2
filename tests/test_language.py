"""Names and prose use the terms of the field: words of a private dialect may not come back."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Matched as whole words, case-insensitively, in Python names (split at underscores), comments, docstrings and docs.
FORBIDDEN = [
    "house",
    "houses",
    "room",
    "rooms",
    "stranger",
    "strangers",
    "nursery",
    "gauges",
    "mend",
    "mends",
    "told",
    "sed",
]
PHRASES = [
    "begins at",
    "let learn",
    "let_learn",
    "what is fitted",
    "unless said",
    "takes_mask",
    "the user's to",
    "goes on from",
]


def texts() -> dict[str, str]:
    patterns = ("*.py", "*.md", "*.yaml", "*.html", "*.toml", "*.ipynb")
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(name) for name in listed.stdout.split() if name not in ("tests/test_language.py", "CHANGELOG.md")]
    return {str(path): (ROOT / path).read_text(encoding="utf-8") for path in paths if (ROOT / path).exists()}


@pytest.mark.parametrize("word", FORBIDDEN)
def test_forbidden_word(word):
    pattern = re.compile(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", re.IGNORECASE)
    places = [f"{path}: {match.group()}" for path, text in texts().items() for match in pattern.finditer(text)]
    assert places == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_forbidden_phrase(phrase):
    places = [path for path, text in texts().items() if phrase in " ".join(text.lower().split())]
    assert places == []
