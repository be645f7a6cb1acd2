"""What README and docs say: commands parse, examples run, links and names exist, figures are those of the tables."""

import dataclasses
import functools
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import zwicky
from zwicky import cli, recipes
from zwicky.backbones import BACKBONES, network_class
from zwicky.cli.parsing import make_parser
from zwicky.data.columns import USUAL, usual_columns
from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.methods import METHODS
from zwicky.simulate.population import read_population
from zwicky.simulate.truth import truth_columns

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
DEMO = read_population("demo-lenses")
NOTEBOOKS = {
    path.relative_to(ROOT).as_posix(): json.loads(path.read_text("utf-8"))["cells"]
    for path in ROOT.glob("notebooks/*.ipynb")
}


TEXTS |= {
    name: "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for name, cells in NOTEBOOKS.items()
}


def fences(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def commands(text):
    """The command lines of a page's blocks, and scripts named in a sentence."""
    lines = "".join(fences(text, "sh")).replace("\\\n", "").splitlines()
    return lines + re.findall(r"`(python [^`…]+)`", text)


LINES = {line for text in TEXTS.values() for line in commands(text) if line and line[0] != "#"}
COMMANDS = sorted({found[0] for line in LINES if (found := re.search(r"\bzwicky .*", line)) and "pip" not in line})
SCRIPTS = sorted(line for line in LINES if line.startswith("python "))


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line, tmp_path, monkeypatch):
    """With nothing behind the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    words, ran = shlex.split(line.split(" > ")[0], comments=True)[1:], []
    for name, command in list(cli.COMMANDS.items()):
        silent = dataclasses.replace(command, run=lambda given, name=name: ran.append(name))
        monkeypatch.setitem(cli.COMMANDS, name, silent)
    if "--print_config" in words:
        with pytest.raises(SystemExit) as ended:
            cli.run(words)
        assert not ended.value.code
    else:
        cli.run(words)
        assert ran == [words[0]]


def test_options_named_in_sentences_exist():
    named = {match for text in TEXTS.values() for match in re.findall(r"`zwicky (\w+)( [^`]*--[^`]+)`", text)}
    assert len(named) > 3
    for name, words in named:
        options = make_parser(name, cli.COMMANDS[name]).format_help()
        assert [option for option in re.findall(r"--[\w.]+", words) if option not in options] == []


def test_all_commands_are_found_and_no_others():
    """Besides those tested here: installation, make (below), and chromium and playwright that make figures."""
    assert {line.split()[1] for line in COMMANDS} >= set(cli.COMMANDS) - {"simulate"}
    others = LINES - set(SCRIPTS) - {line for line in LINES if re.search(r"\bzwicky ", line)}
    assert [line for line in others if not re.match(r"(pip install|make|chromium|fusermount) ", line)] == []


@pytest.mark.parametrize("line", SCRIPTS)
def test_script_has_these_options(line):
    script, *words = shlex.split(line, comments=True)[1:]
    text = (ROOT / script).read_text(encoding="utf-8")
    options = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
    assert [option for option in options if f'"{option}"' not in text] == []


@pytest.mark.slow
def test_python_examples_of_the_pages_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zwicky.simulate_store("demo-lenses", 3, 1, "lenses")
    zwicky.simulate_store("demo-lenses", 60, 1, "stores/mine")
    cutouts, labels = zwicky.simulate_population("demo-lenses", 40, seed=1)
    names = {"images": cutouts.images, "labels": labels.of(cutouts.ids).astype(str), "unlabelled": cutouts.images}
    for name in ("LensClassifier", "LensEncoder"):
        monkeypatch.setitem(vars(zwicky), name, functools.partial(getattr(zwicky, name), steps=2))
    for page in ("docs/scikit-learn.md", "docs/data.md"):
        for example in fences(TEXTS[page], "python"):
            exec(example.replace("steps=800", "steps=2"), names)
    assert names["probabilities"].shape == (40, 2)
    assert set(names["search"].best_params_) == {"train"}
    for other in (names["cutouts"], zwicky.open_store("copy")):
        assert (other.images[:] == names["images"]).all()
    assert names["images"].shape == (3, 3, 48, 48)


@pytest.mark.slow
def test_figures_of_the_losses_are_drawn(tmp_path):
    environment = os.environ | {"ZWICKY_SMOKE": "1", "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, ROOT / "docs/figures.py", "--out", tmp_path], check=True, env=environment)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs/images").glob("loss-*.png")}


def test_each_figure_stands_below_a_command_that_makes_it():
    shown = {}
    for page, text in TEXTS.items():
        for match in re.finditer(r"!\[[^]]*\]\((?:docs/)?images/([\w.-]+)\)", text):
            blocks, name = fences(text[: match.start()], "sh"), match[1]
            shown[name] = shown.get(name, False) or bool(blocks)
            if name.startswith("loss-"):
                assert f"python docs/figures.py {name[5:-4]}" in blocks[-1], f"{page}: {name}"
    assert shown == dict.fromkeys((path.name for path in (ROOT / "docs/images").glob("*.png")), True)


@pytest.mark.parametrize("page", TEXTS)
def test_links_commands_and_targets_exist(page):
    for example in fences(TEXTS[page], "python"):
        compile(example, page, "exec")
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", TEXTS[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert set(re.findall(r"`zwicky ([a-z]+)", TEXTS[page])) <= set(cli.COMMANDS)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXTS[page], flags=re.M)) <= set(targets)


def intervals(path):
    """(value, low, high) of every row of a table, as they are and in per cent."""
    table = pd.read_csv(path, comment="#")
    ends = {name: (f"{name}_low", f"{name}_high") for name in table}
    ends |= {name: ("low", "high") for name in ("value", "difference") if f"{name}_low" not in table}
    found = [table[[name, *pair]].to_numpy(float) for name, pair in ends.items() if {name, *pair} <= set(table)]
    return [scale * rows for rows in found for scale in (1, 100)]


def test_figures_with_intervals_are_those_of_the_tables():
    """Each `value [low, high]` of the text is a row of a table, rounded."""
    tables = [*ROOT.glob("docs/tables/*.csv"), *ROOT.glob("benchmarks/results/*.csv")]
    known, number = np.concatenate([rows for path in tables for rows in intervals(path)]), r"([+−-]?\d*\.?\d+)"
    counted, wrong = 0, []
    for page, text in TEXTS.items():
        for match in re.finditer(rf"{number}(?: %)? \[{number}, {number}\]", " ".join(text.split())):
            stated = [float(text.replace("−", "-")) for text in match.groups()]
            rounding = 0.5 * 10.0 ** -len(match[1].partition(".")[2]) + 1e-9
            counted += 1
            if not (np.abs(known - stated) <= rounding).all(1).any():
                wrong.append(f"{page}: {match[0]}")
    assert wrong == []
    assert counted > 200


def test_arms_of_the_results_page_have_their_names():
    title = runpy.run_path(str(ROOT / "benchmarks" / "results_page.py"))["title"]
    assert title("pca-linear") == "PCA + logistic regression"
    assert title("dino-ViT-finetune-no-tta") == "DINO, ViT, fine-tuned, one view"
    assert title("rings-polar-self-training") == "zwicky-rings, polar, self-trained"


def test_results_page_is_written_from_tables_that_are_not_stale():
    module = runpy.run_path(str(ROOT / "benchmarks" / "results_page.py"))
    assert module["render"]() == TEXTS["docs/results.md"], "run python benchmarks/results_page.py"
    page = module["Page"]()
    page.records["demo"]["golden"] = "another"
    with pytest.raises(ValueError, match="demo is stale, the numbers of the pipeline changed; run again: zwicky demo"):
        page.current("demo")
    with pytest.raises(ValueError, match="stale"):
        page.current("substructure")


def test_architecture_names_every_package_module_and_layer():
    text, source = TEXTS["docs/architecture.md"], Path(zwicky.__file__).parent
    packages = {path.parent.name for path in source.glob("*/__init__.py")} - {"cli", "recipes"}
    assert set(re.findall(r"^\| `(\w+)` \|", text.split("## Contracts")[0], flags=re.M)) == packages
    modules = [path.name for path in source.glob("*.py") if not path.name.startswith("__")]
    assert [name for name in modules if f"`{name}`" not in text] == []
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [name.removeprefix("zwicky.") for name in contracts[0]["layers"]]
    (stated,) = re.findall(r"\*\*Imports go down only\*\*: (.*?) · the leaf modules", text, flags=re.S)
    assert re.findall(r"`(\w+)`", stated) == layers[: layers.index("data") + 1]


def parameters(kind):
    """The keywords of a class, with those of its bases."""
    return {name for base in kind.__mro__[:-1] for name in inspect.signature(base).parameters}


def cells(page, first):
    """The cells of a table's rows, without code marks; `first` begins its header."""
    (table,) = re.findall(rf"^\| {re.escape(first)}.*\n\|[-|]+\n((?:\|.*\n)+)", TEXTS[page], flags=re.M)
    return [[cell.strip() for cell in row.replace("`", "").split("|")[1:-1]] for row in table.splitlines()]


def test_tables_of_methods_networks_and_columns_are_those_of_the_code():
    methods = {row[0]: row for row in cells("docs/methods.md", "method |")}
    assert set(methods) == set(METHODS) - {"supervised"}
    for name, row in methods.items():
        source = inspect.getsource(import_module(f"zwicky.methods.{str(METHODS[name]).partition(':')[0]}"))
        assert f"arXiv:{row[4][1:11]}" in source, name
    options: dict[str, set[str]] = {}
    for names, _, listed, _ in cells("docs/methods.md", "name | architecture"):
        words = set(re.findall(r"\w+", re.sub(r"as \w+|and as above", "", listed)))
        options |= dict.fromkeys(names.split(", "), words)
    assert set(options) == set(BACKBONES)
    for name, words in options.items():
        assert words <= parameters(network_class(name)), name
    assert ", ".join(row[0] for row in cells("docs/data.md", "column | type")) == ", ".join(STANDARD_COLUMNS)
    ingest = make_parser("ingest", cli.COMMANDS["ingest"]).format_help()
    for role, names, option in cells("docs/data.md", "column | usual names"):
        assert all(word in ingest for word in option.split(", "))
        known = re.split("; | with |, …", names)[0].split(", ")
        assert role not in USUAL or known == usual_columns(known[::-1], role)


def test_measured_tables_are_those_of_the_files():
    offsets = pd.read_csv(ROOT / "docs/tables/offsets.csv", comment="#").groupby("centre")["auc"]
    for name, *values in cells("docs/methods.md", "offset, px"):
        rows = offsets.get_group(name.removeprefix("centre: "))
        np.testing.assert_allclose(np.array(values, float), rows, atol=5.1e-4)
    rates = pd.read_csv(ROOT / "benchmarks/results/score_rates.csv", comment="#").groupby("network", sort=False)
    *networks, reading = cells("docs/survey.md", "network | store")
    expected = [
        [name, *rows["disk_to_scores"], *rows[["network_in_batches_of_64", "ceiling"]].iloc[0]] for name, rows in rates
    ]
    expected.append(["reading alone", *next(iter(rates))[1]["reading_alone"], "", ""])
    assert [*networks, reading] == [[f"{x:,}" if isinstance(x, int) else x for x in row] for row in expected]


def test_recipes_of_the_docs_are_those_that_ship():
    listed = re.findall(r"^\| `([a-z-]+)` \| `zwicky [a-z]+`", TEXTS["docs/recipes.md"], flags=re.M)
    assert sorted(listed) == recipes.names()


def test_truth_table_is_that_of_the_code():
    kinds, _, truth = TEXTS["docs/simulate.md"].partition("## The truth")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", truth, flags=re.M)
    documented = {name: {"unit": unit.replace("–", ""), "meaning": meaning} for name, unit, meaning in rows}
    assert documented == truth_columns(DEMO)
    shares = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) % \|", kinds, flags=re.M)
    assert {name: (label, int(share) / 100) for name, label, share in shares} == {
        name: (kind.label, kind.fraction) for name, kind in DEMO.classes.items()
    }


def test_reference_documents_what_the_package_offers():
    paths = re.findall(r"^::: ([\w.]+)", TEXTS["docs/reference.md"], flags=re.M)
    for path in paths:
        module, _, name = path.rpartition(".")
        assert callable(getattr(import_module(module), name))
    names = {path.rpartition(".")[2] for path in paths}
    assert names >= set(zwicky.__all__)
    code = "\n".join("".join(cell["source"]) for cells in NOTEBOOKS.values() for cell in cells)
    taught = re.findall(r"^from zwicky[\w.]* import (.+)$", code, flags=re.M)
    assert {name for line in taught for name in line.split(", ")} - names - {"BACKBONES", "METHODS"} == set()


def test_notebooks_are_small_in_the_site_and_without_errors():
    listed = re.findall(r"notebooks/[\w-]+\.ipynb", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(NOTEBOOKS)
    for name, cells in NOTEBOOKS.items():
        assert (ROOT / name).stat().st_size < 1_000_000
        outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
        assert not [output for output in outputs if output["output_type"] == "error"]
