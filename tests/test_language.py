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
    return {path: " ".join(re.sub(r'"image/png": ".*"', "", text).split()) for path, text in read.items()}


def test_forbidden_words_and_phrases():
    pattern = rf"(?<![a-z])(?:{'|'.join(FORBIDDEN)})(?![a-z])|{'|'.join(PHRASES)}"
    assert [(path, found) for path, text in texts().items() for found in re.findall(pattern, text, re.I)] == []
