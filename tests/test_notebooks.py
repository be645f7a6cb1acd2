"""The notebooks run from top to bottom at smoke size.

`python tests/test_notebooks.py [NAME ...]` executes them at desk size, in place: what the docs show.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def execute(name, folder, smoke):
    """Return the executed notebook; it runs in `folder`. Progress bars and stderr are left out."""
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `!zwicky` is
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "TERM": "dumb"}
    environment |= {"PATH": commands}
    environment.pop("ZWICKY_SMOKE", None)
    where = {"metadata": {"path": str(folder)}}
    kernel = client.NotebookClient(notebook, timeout=3000, resources=where, coalesce_streams=True)
    kernel.execute(env=environment | ({"ZWICKY_SMOKE": "1"} if smoke else {}))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and "\x1b" not in o.get("text", "")]
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name, tmp_path):
    execute(name, tmp_path, smoke=True)  # raises for a cell that does


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as where:
            executed = execute(chosen, where, smoke=False)
        (FOLDER / f"{chosen}.ipynb").write_text(__import__("nbformat").writes(executed) + "\n", encoding="utf-8")
