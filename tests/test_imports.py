"""What is imported when: the package, its settings and the help load no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

import zwicky

ROOT = Path(zwicky.__file__).parent
HEAVY = ("torch", "sklearn", "astropy", "matplotlib", "timm")
LIGHT = sorted(
    ".".join(("zwicky", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in [*ROOT.rglob("config.py"), *ROOT.rglob("__init__.py")]
)


def test_packages_and_settings_load_nothing_heavy():
    code = (
        f"import sys, importlib\nfor name in {LIGHT}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_loaded():
    assert set(zwicky.__all__) <= set(dir(zwicky))
    assert all(callable(getattr(zwicky, name)) for name in zwicky.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zwicky.no_such_name
