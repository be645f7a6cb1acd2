"""What may be imported without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zwicky

ROOT = Path(zwicky.__file__).parent
LIGHT = sorted(
    ".".join(("zwicky", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in [*ROOT.rglob("config.py"), *ROOT.rglob("__init__.py")]
)


def test_rooms_and_settings_load_nothing_heavy():
    """The command line answers --help in half a second because of this."""
    code = (
        f"import sys, importlib\nfor name in {LIGHT}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'sklearn', 'astropy', 'matplotlib', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["vit_tiny", "nonsense"])
def test_rooms_forward_to_their_registries(name):
    from zwicky import backbones
    from zwicky.errors import UserError

    if name == "nonsense":
        with pytest.raises(UserError):
            backbones.create(name, bands=1, image_size=16)
    else:
        assert backbones.create(name, bands=1, image_size=16, depth=1).dim == 192
