"""`import zwicky` is quick, and every public name can be loaded."""

import subprocess
import sys

import pytest

import zwicky


def test_public_names_load_without_torch_until_used():
    code = (
        "import sys, zwicky; assert not {'torch', 'sklearn', 'astropy', 'matplotlib'} & set(sys.modules)\n"
        "assert {'LensClassifier', 'LensRegressor', 'ingest'} <= set(dir(zwicky))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert all(callable(getattr(zwicky, name)) for name in zwicky.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zwicky.no_such_name
