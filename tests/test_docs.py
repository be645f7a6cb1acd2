"""What README and docs say can be done: commands parse, links lead somewhere, names exist, examples run."""

import dataclasses
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import zwicky
from zwicky import cli, recipes
from zwicky.simulate.draw import truth_columns
from zwicky.simulate.population import read_population

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
DEMO = read_population("demo-lenses")
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


COMMANDS = [
    line
    for text in TEXTS.values()
    for block in fences(text, "sh")
    for line in block.splitlines()
    if line.startswith("zwicky ")
]


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs that would have run: the command line as it is, with nothing behind it."""
    ran: list[str] = []
    for name, command in list(cli.COMMANDS.items()):
        silent = dataclasses.replace(command, run=lambda given, name=name: ran.append(name))
        monkeypatch.setitem(cli.COMMANDS, name, silent)
    cli.run(words)
    return ran


def test_commands_were_found() -> None:
    assert {line.split()[1] for line in COMMANDS} >= set(cli.COMMANDS) - {"simulate"}


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    words = shlex.split(line.split(" > ")[0], comments=True)[1:]
    if "--print_config" in words:
        with pytest.raises(SystemExit) as ended:
            parsed(words, monkeypatch)
        assert not ended.value.code
    else:
        assert parsed(words, monkeypatch) == [words[0]]


def test_a_wrong_option_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cli.ArgumentError):
        parsed(["pretrain", "dino", "--data", "x", "--out", "y", "--epochs", "3"], monkeypatch)


@pytest.mark.parametrize("page", TEXTS)
def test_verbs_and_targets_named_in_prose_exist(page: str) -> None:
    assert set(re.findall(r"`zwicky ([a-z]+)", TEXTS[page])) <= set(cli.COMMANDS)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXTS[page], flags=re.M)) <= set(targets)


@pytest.mark.parametrize("page", TEXTS)
def test_relative_links_resolve(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", TEXTS[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_recipes_of_the_docs_are_those_that_ship() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| `zwicky [a-z]+`", TEXTS["docs/recipes.md"], flags=re.M)
    assert sorted(listed) == recipes.names()


def test_truth_table_is_that_of_the_code() -> None:
    kinds, _, truth = TEXTS["docs/simulate.md"].partition("## The truth")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", truth, flags=re.M)
    assert {name: (unit.replace("–", ""), meaning) for name, unit, meaning in rows} == truth_columns(DEMO)
    shares = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) % \|", kinds, flags=re.M)
    assert {name: (label, int(share) / 100) for name, label, share in shares} == {
        name: (kind.label, kind.fraction) for name, kind in DEMO.classes.items()
    }


def test_python_examples_of_the_data_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zwicky.simulate_store("demo-lenses", 3, 1, tmp_path / "lenses")
    monkeypatch.chdir(tmp_path)
    outcome: dict = {}
    first, second, third = fences(TEXTS["docs/data.md"], "python")
    exec(first, outcome)
    assert outcome["images"].shape == (3, 3, 48, 48)
    assert len(outcome["labels"]) == 3
    exec(second, outcome)
    assert (outcome["cutouts"].images[:] == outcome["images"]).all()
    exec(third, outcome)
    assert (zwicky.open_store("copy").images[:] == outcome["images"]).all()


def test_reference_documents_what_the_package_offers() -> None:
    paths = re.findall(r"^::: ([\w.]+)", TEXTS["docs/reference.md"], flags=re.M)
    for path in paths:
        module, _, name = path.rpartition(".")
        assert callable(getattr(import_module(module), name))
    assert {path.rpartition(".")[2] for path in paths} >= set(zwicky.__all__)


def test_notebook_is_small_and_has_run() -> None:
    assert NOTEBOOK.stat().st_size < 400_000
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]


@pytest.mark.slow
def test_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert 0 <= names["auc"] <= 1
