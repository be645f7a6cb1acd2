"""Names and prose use the terms of the field: words of a private dialect may not come back."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Matched as whole words, case-insensitively, in Python names (split at underscores), comments, docstrings and docs.
FORBIDDEN = "house houses room rooms stranger strangers nursery gauges mend mends told sed".split()
PHRASES = ["begins at", "let learn", "let_learn", "what is fitted", "unless said", "takes_mask", "the user's to"]
PHRASES += ["goes on from"]


def texts():
    patterns = ("*.py", "*.md", "*.yaml", "*.html", "*.toml", "*.ipynb")
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(name) for name in listed.stdout.split() if name not in ("tests/test_language.py", "CHANGELOG.md")]
    read = {str(path): (ROOT / path).read_text(encoding="utf-8") for path in paths if (ROOT / path).exists()}
    return {path: re.sub(r'"image/png": ".*"', "", text) for path, text in read.items()}


def test_forbidden_words():
    pattern = re.compile(rf"(?<![a-zA-Z])({'|'.join(FORBIDDEN)})(?![a-zA-Z])", re.IGNORECASE)
    assert [f"{path}: {match.group()}" for path, text in texts().items() for match in pattern.finditer(text)] == []


def test_forbidden_phrases():
    lowered = {path: " ".join(text.lower().split()) for path, text in texts().items()}
    assert [f"{path}: {phrase}" for path, text in lowered.items() for phrase in PHRASES if phrase in text] == []
