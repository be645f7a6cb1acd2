"""The command line. It turns words into calls and nothing else; torch is loaded only when a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from zwicky import __version__, recipes
from zwicky.cutouts.config import IngestConfig
from zwicky.errors import UserError
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.training.config import FinetuneConfig, PretrainConfig


@dataclass(frozen=True)
class Command:
    """One verb. arguments: adds to a parser; run: does the work with what was parsed."""

    help: str
    usage: str
    arguments: Callable[[ArgumentParser], Any]
    run: Callable[[Namespace], None]
    settings: type | None = None  # the dataclass a recipe fills


# ---------------------------------------------------------------------------------------------------- arguments


def _simulate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("population", type=str, help="which population: demo-lenses")
    parser.add_argument("--n", type=int, default=1000, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="image i is a function of population, seed and i alone")
    parser.add_argument("--out", type=Path, required=True, help="the store to write (a new folder)")


def _ingest_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="folder of images, class folders, or a folder a catalogue describes")
    parser.add_argument(
        "--catalog",
        type=Path | None,
        default=None,
        help="CSV with file names, labels, ra, dec (degrees) and any properties",
    )
    parser.add_argument("--out", type=Path, required=True, help="the store to write (a new folder)")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def _data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="the store, as `zwicky ingest` or `zwicky simulate` wrote it"
    )


def _out(parser: ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--out",
        type=Path if required else Path | None,
        required=required,
        help="the run directory; one that was interrupted goes on",
    )


def _audit_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="the store to look at")


def _recipe(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=str, help=f"a shipped recipe ({', '.join(recipes.names())}) or a YAML file")
    parser.add_argument(
        "--size", type=str | None, default=None, help="one of the recipe's sizes; the first unless said"
    )


def _pretrain_arguments(parser: ArgumentParser) -> None:
    _recipe(parser)
    _data(parser)
    _out(parser)


def _finetune_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run whose network to start from")
    _data(parser)
    _out(parser)
    parser.add_argument(
        "--from_scratch", type=bool, default=False, help="the same network from random weights, for comparison"
    )


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run of `zwicky pretrain` or `zwicky finetune`")
    _data(parser)
    parser.add_argument("--split", type=str, default="holdout", help="the store's split whose role test is used")


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run directory of `zwicky benchmark`")
    parser.add_argument(
        "--data",
        type=Path | None,
        default=None,
        help="the store, for example images; the run's own where it still stands",
    )
    parser.add_argument(
        "--out", type=Path | None, default=None, help="the page to write; report.html in the run unless said"
    )


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the simulated store and the run")
    parser.add_argument(
        "--size", type=str, default="desk", help="desk (about ten minutes on two cores) or smoke (a minute or two)"
    )


# ------------------------------------------------------------------------------------------------------- running


def _simulate(given: Namespace) -> None:
    from zwicky.simulate.api import simulate_store

    simulate_store(given.population, given.n, given.seed, given.out)
    print(f"{given.n} simulated cutouts in {given.out}")


def _ingest(given: Namespace) -> None:
    from zwicky.cutouts.ingest import ingest

    settings = IngestConfig(**{field.name: given[field.name] for field in fields(IngestConfig)})
    print(ingest(given.path, given.out, given.catalog, settings).text())


def _audit(given: Namespace) -> None:
    from zwicky.cutouts.audit import audit, audit_text
    from zwicky.cutouts.store import open_store
    from zwicky.cutouts.tables import read_labels

    print(audit_text(audit(open_store(given.store), read_labels(given.store))))


def _pretrain(given: Namespace) -> None:
    from zwicky.cutouts.store import open_store
    from zwicky.cutouts.stored_split import stored_split
    from zwicky.cutouts.tables import read_labels
    from zwicky.training.pretrain import pretrain

    config = _settings(PretrainConfig, given)
    cutouts, labels = open_store(given.data), read_labels(given.data)
    split = stored_split(given.data, config.split, cutouts, labels)
    ids = split.ids("train", "unlabelled")
    pretrain(config, cutouts, cutouts.rows_of(ids), given.out, labels=labels.of(ids))
    print(
        f"pretrained on {len(ids)} cutouts; "
        f"next: zwicky finetune {given.out} --data {given.data} --labels 300 --out RUN"
    )


def _finetune(given: Namespace) -> None:
    from zwicky.cutouts.store import open_store
    from zwicky.cutouts.stored_split import stored_split
    from zwicky.cutouts.tables import read_labels
    from zwicky.training.finetune import finetune, parse_targets
    from zwicky.training.network import columns_of

    config = _settings(FinetuneConfig, given)
    cutouts, labels = open_store(given.data), read_labels(given.data)
    split = stored_split(given.data, config.split, cutouts, labels, columns_of(parse_targets(config.targets)))
    finetune(config, given.run, cutouts, labels, split, given.out, from_scratch=given.from_scratch)
    print(f"fine-tuned; next: zwicky evaluate {given.out} --data {given.data}")


def _evaluate(given: Namespace) -> None:
    from zwicky.cutouts.store import open_store
    from zwicky.cutouts.stored_split import stored_split
    from zwicky.cutouts.tables import read_labels
    from zwicky.evaluation.evaluate import evaluate

    cutouts, labels = open_store(given.data), read_labels(given.data)
    rows = evaluate(given.run, cutouts, labels, stored_split(given.data, given.split, cutouts, labels))
    for row in rows:
        interval = f"  [{row['low']:.4f}, {row['high']:.4f}]" if row.get("low") is not None else ""
        print(f"{row['of']:10s} {row['metric']:10s} {row['value']:.4f}{interval}")
    print(f"on {rows[0]['test_objects']} test objects; 95 % intervals over objects, conditional on this one network")


def _benchmark(given: Namespace) -> None:
    from zwicky.evaluation.benchmark import benchmark

    benchmark(_settings(BenchmarkConfig, given), given.data, given.out)
    _write_page(given.out, given.data)


def _report(given: Namespace) -> None:
    _write_page(given.run, given.data, given.out)


def _demo(given: Namespace) -> None:
    from zwicky.evaluation.benchmark import benchmark
    from zwicky.report.material import gather
    from zwicky.report.verdict import verdict
    from zwicky.simulate.api import simulate_store

    began = time.monotonic()
    settings = recipes.read("demo", given.size)
    simulation = settings.pop("simulate")
    config = _parse(COMMANDS["benchmark"], "benchmark", settings, ["demo", "--data", "x", "--out", "x"])
    store, run = given.out / f"store-{given.size}", given.out / f"run-{given.size}"
    if not store.exists():
        print(f"simulating {simulation['n']} lenses and look-alikes", file=sys.stderr, flush=True)
        simulate_store(simulation["population"], simulation["n"], simulation["seed"], store)
    benchmark(_settings(BenchmarkConfig, config), store, run)
    page = _write_page(run, store)
    found = verdict(gather(run))
    print("\n".join([found.headline, *found.details][:3]))
    print(f"{time.monotonic() - began:.0f} s; open {page}")


def _write_page(run: Path, data: Path | None, out: Path | None = None) -> Path:
    from zwicky.cutouts.store import open_store
    from zwicky.evaluation.results import BenchmarkResult
    from zwicky.report import report

    store = data or Path(str(BenchmarkResult(run).data.get("store", "")))
    cutouts = open_store(store) if store.is_dir() and str(store) != "." else None
    page = report(run, cutouts, out)
    print(f"report: {page}")
    return page


COMMANDS = {
    "simulate": Command(
        "Make a store of simulated lenses and look-alikes.",
        "POPULATION --out STORE [--n N] [--seed S]",
        _simulate_arguments,
        _simulate,
    ),
    "ingest": Command(
        "Read a folder of cutouts into a store.",
        "PATH --out STORE [--catalog CSV] [options]",
        _ingest_arguments,
        _ingest,
    ),
    "audit": Command("Say what is in a store and what is suspicious about it.", "STORE", _audit_arguments, _audit),
    "pretrain": Command(
        "Learn from cutouts without labels.",
        "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
        _pretrain_arguments,
        _pretrain,
        PretrainConfig,
    ),
    "finetune": Command(
        "Teach a pretrained network with some labels.",
        "RUN --data STORE --out RUN [--labels N] [settings]",
        _finetune_arguments,
        _finetune,
        FinetuneConfig,
    ),
    "evaluate": Command(
        "Test a network on a store's test objects.", "RUN --data STORE [--split NAME]", _evaluate_arguments, _evaluate
    ),
    "benchmark": Command(
        "Compare pretraining with the same network from scratch and with baselines.",
        "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
        _pretrain_arguments,
        _benchmark,
        BenchmarkConfig,
    ),
    "report": Command(
        "Write the page of a benchmark again.", "RUN [--data STORE] [--out PAGE]", _report_arguments, _report
    ),
    "demo": Command(
        "Do all of it on simulated lenses made on the spot.",
        "[--out FOLDER] [--size desk|smoke]",
        _demo_arguments,
        _demo,
    ),
}


# ------------------------------------------------------------------------------------------------------- parsing


def _parser(name: str, command: Command) -> ArgumentParser:
    usage = f"zwicky {name} {command.usage}".rstrip()
    parser = ArgumentParser(prog=f"zwicky {name}", usage=usage, description=command.help, exit_on_error=False)
    if command.settings is not None:
        parser.add_argument("--config", action="config", help="YAML file of settings laid over the recipe")
        parser.add_class_arguments(command.settings, fail_untyped=False)
    command.arguments(parser)
    return parser


def _parse(command: Command, name: str, settings: dict[str, Any] | None, words: Sequence[str]) -> Namespace:
    parser = _parser(name, command)
    if settings is not None:
        words = ["--config", yaml.safe_dump(settings), *words]
    return parser.instantiate_classes(parser.parse_args(list(words)))


def _settings(kind: type, given: Namespace) -> Any:
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def _option(words: Sequence[str], name: str) -> str | None:
    for position, word in enumerate(words):
        if word == name and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
    return None


def _refuse_other_verb(name: str, recipe: str, settings: dict[str, Any]) -> None:
    """Say so where all settings of a recipe are those of another command."""

    def fits(command: Command) -> bool:
        return command.settings is not None and set(settings) <= {field.name for field in fields(command.settings)}

    others = [verb for verb, command in COMMANDS.items() if fits(command)]
    if others and name not in others:
        raise UserError(f"recipe {recipe} is for `zwicky {others[0]}`, not `zwicky {name}`; use that or another one")


def _help() -> str:
    lines = ["usage: zwicky COMMAND …", "", "Self-supervised learning for strong gravitational lenses.", ""]
    lines += [f"  {name:10s} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "zwicky COMMAND --help explains each; zwicky --version says which this is."])


def run(words: Sequence[str]) -> None:
    """Run one command; raises UserError or ArgumentError for the user's mistakes."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"zwicky {__version__}")
        return
    name, rest = words[0], list(words[1:])
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; choose one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    takes_recipe = command.settings in (PretrainConfig, BenchmarkConfig)
    helping = any(word in ("-h", "--help") for word in rest) or not rest
    settings = recipes.read(rest[0], _option(rest, "--size")) if takes_recipe and not helping else None
    if settings is not None:
        settings.pop("simulate", None)
        _refuse_other_verb(name, rest[0], settings)
    command.run(_parse(command, name, settings, rest))


def main() -> None:
    """Entry point: exit 0 done, 2 the user's mistake in one line, 1 ours."""
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"zwicky: {error}", file=sys.stderr)
        sys.exit(2)
    except ArgumentError as error:
        text = " ".join(str(error.message).split())
        print(f"zwicky: {text}; see zwicky {sys.argv[1]} --help", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nzwicky: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
