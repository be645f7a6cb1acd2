"""The commands: each function takes the parsed arguments and calls the package that does the work."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from zwicky import recipes
from zwicky.augment.config import ViewsConfig
from zwicky.cli import arguments, parsing
from zwicky.cli.parsing import Command, Parser
from zwicky.data.image_format import IngestConfig
from zwicky.errors import UserError
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.grading.config import SessionConfig
from zwicky.io import is_store
from zwicky.survey.config import CutoutsConfig, ScoreConfig
from zwicky.training.config import FinetuneConfig, PretrainConfig
from zwicky.training.distributed import rank

if TYPE_CHECKING:
    from zwicky.simulate.stream import Data

Run = Callable[[Namespace], None]
COMMANDS: dict[str, Command] = {}


def _command(usage: str, add_arguments: Callable[[Parser], Any], *recipe: Any) -> Callable[[Run], None]:
    """Add the function `_NAME` below to COMMANDS as NAME, with its docstring as help; see `Command`."""

    def add(run: Run) -> None:
        COMMANDS[run.__name__.removeprefix("_")] = Command(run.__doc__ or "", usage, add_arguments, run, *recipe)

    return add


def _names_recipe(argument: str) -> bool:
    """Tell whether the first argument of `finetune` is a recipe; a run of the same name comes first."""
    is_recipe = argument in recipes.names() or argument.endswith((".yaml", ".yml"))
    return is_recipe and not (Path(argument) / "run.json").exists()


@_command(
    "POPULATION --out STORE [--n N] [--seed S] [--format store|deeplense|fits|hdf5] | POPULATION --print_config",
    arguments.simulate,
)
def _simulate(args: Namespace) -> None:
    """Simulate lenses and look-alikes."""
    from zwicky.data.store import check_writable
    from zwicky.data.write import write_folder
    from zwicky.simulate.simulation import simulate_store

    check_writable(args.out)
    store = args.out if args.format == "store" else args.out.with_name(f".{args.out.name}.store")
    if store != args.out and store.exists():  # left by an interrupted run
        shutil.rmtree(store)
    options = {name: args[name] for name in ("device", "workers", "ray")}
    simulate_store(args.population, args.n, args.seed, store, quiet=False, **options)
    if store != args.out:
        write_folder(store, args.out, args.format)
        shutil.rmtree(store)
    print(f"{args.n} simulated cutouts in {args.out}")


@_command("PATH --out STORE [--catalog TABLE] [options]", arguments.ingest)
def _ingest(args: Namespace) -> None:
    """Read a folder of cutouts into a store."""
    from zwicky.data.ingest import ingest

    config = parsing.settings_of(IngestConfig, args)
    print(ingest(args.path, args.out, args.catalog, config).text())


@_command("STORE", arguments.audit)
def _audit(args: Namespace) -> None:
    """Summarise a store and flag label leakage and shortcuts."""
    from zwicky.data.audit import audit, audit_text
    from zwicky.simulate.stream import open_data

    data = open_data(args.store)
    print(audit_text(audit(data.cutouts, data.labels)))


@_command(
    "RECIPE --data STORE --out RUN [--size SIZE] [settings]", arguments.pretrain, PretrainConfig, lambda argument: True
)
def _pretrain(args: Namespace) -> None:
    """Pretrain a network on unlabelled cutouts."""
    from zwicky.data.splits import write_split
    from zwicky.simulate.stream import open_data
    from zwicky.training.budget import Fits, spend, timed
    from zwicky.training.pretrain import pretrain
    from zwicky.training.task import columns_of, parse_targets

    config = parsing.settings_of(PretrainConfig, args)
    data = open_data(args.data, quiet=rank() > 0)
    config.views = _fitting(config.views, data)
    split = data.split(config.split, columns_of(parse_targets(args.targets)), runs=[args.out])
    ids = split.ids("train", "unlabelled")
    rows = data.cutouts.rows_of(ids)
    if args.minutes is not None:
        trial = partial(pretrain, config, data.cutouts, rows, labels=data.labels.of(ids), quiet=True)
        spend(args.minutes, config, args.out, lambda _: [Fits(config.train, len(rows), [(1, timed(trial))])])
    pretrain(config, data.cutouts, rows, args.out, labels=data.labels.of(ids))
    if rank() == 0:
        write_split(args.out / "splits", split)
        if not split.ids("test").size:
            advice = "name numbers to regress by --targets, or give some cutouts the role test in a split of the store"
            print(f"warning: no labels: all cutouts are used and none is left to test; {advice}", file=sys.stderr)
        out, name = shlex.quote(str(args.out)), shlex.quote(str(args.data))
        command = f"zwicky predict {out} {name} --out TABLE.csv --features FEATURES.npy"
        if count := len(split.ids("train")):
            targets = f" --targets '[{', '.join(args.targets)}]'" if args.targets else ""
            command = f"zwicky finetune {out} --data {name}{targets} --labels {min(count, 300)} --out RUN"
        print(f"pretrained on {len(ids)} cutouts; next: {command}")


@_command(
    "RUN|RECIPE --data STORE --out RUN [--labels N] [settings]", arguments.finetune, FinetuneConfig, _names_recipe
)
def _finetune(args: Namespace) -> None:
    """Fine-tune a pretrained network on labelled cutouts."""
    from zwicky.data.splits import write_split
    from zwicky.simulate.stream import open_data
    from zwicky.training.budget import fits_of, spend, timed
    from zwicky.training.finetune import finetune
    from zwicky.training.task import columns_of, parse_targets

    config = parsing.settings_of(FinetuneConfig, args)
    data = open_data(args.data, quiet=rank() > 0)
    start = None if _names_recipe(str(args.run)) else args.run
    config.views = _fitting(config.views, data)
    split = data.split(config.split, columns_of(parse_targets(config.targets)), runs=[args.out, start])
    labels = data.labels
    if args.grades is not None:
        from zwicky.grading.labels import learn_from_grades

        labels, split = learn_from_grades(args.grades, data.cutouts, labels, split)
    fit = partial(
        finetune, config, start, data.cutouts, labels, split, from_scratch=args.from_scratch, quiet=rank() > 0
    )
    if args.minutes is not None:
        images, rounds = config.labels or len(split.ids("train")), config.fit.self_training * config.unlabelled
        sizes = images, len(split.ids("train", "unlabelled"))
        spend(args.minutes, config, args.out, lambda _: fits_of(config.fit, *sizes, [(1, rounds, timed(fit))]))
    fit(args.out)
    if rank() == 0:
        write_split(args.out / "splits", split)
        print(f"fine-tuned; next: zwicky evaluate {shlex.quote(str(args.out))} --data {shlex.quote(str(args.data))}")


def _fitting(views: ViewsConfig, data: Data, quiet: bool = False) -> ViewsConfig:
    """Views whose crop fits the images; what was changed is printed."""
    from zwicky.training.settings import fit_views

    views, note = fit_views(views, data.cutouts.size)
    if note and not quiet and rank() == 0:
        print(f"warning: {note}", file=sys.stderr, flush=True)
    return views


@_command(
    "RUN --data DATA [--catalog TABLE] [--split NAME] [--out FOLDER] | SCORES --grades TABLE [--known TABLE]",
    arguments.evaluate,
)
def _evaluate(args: Namespace) -> None:
    """Evaluate a network on test objects."""
    from zwicky.data.ingest import ingest
    from zwicky.evaluation.evaluate import evaluate, evaluation_text
    from zwicky.simulate.stream import SIMULATION, open_data
    from zwicky.training.network import load_network
    from zwicky.training.task import columns_of

    if args.grades is not None:
        from zwicky.survey.estimates import evaluate_grades

        print(evaluate_grades(args.run, args.grades, args.known))
        return
    if args.data is None:
        raise UserError("name the store to test on by --data, or the grades of a survey by --grades")
    network = load_network(args.run)
    columns = columns_of(network.targets)
    with tempfile.TemporaryDirectory() as temporary:
        store = args.data
        if not str(store).startswith(SIMULATION) and store.exists() and not is_store(store):
            store = Path(temporary) / "store"
            print(ingest(args.data, store, args.catalog, IngestConfig(network.bands)).text(), file=sys.stderr)
        data, runs = open_data(store), [args.run]
        split = data.split(args.split, columns, runs) if args.split else data.test_split(args.run, columns)
        print(evaluation_text(evaluate(args.run, data.cutouts, data.labels, split, out=args.out)))


@_command(
    "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
    arguments.benchmark,
    BenchmarkConfig,
    lambda argument: True,
)
def _benchmark(args: Namespace) -> None:
    """Compare pretraining with training from scratch and with baselines."""
    from zwicky.evaluation.benchmark import benchmark, spend_on_benchmark
    from zwicky.simulate.stream import open_data

    config, data = parsing.settings_of(BenchmarkConfig, args), open_data(args.data)
    config.label_views = _fitting(config.label_views, data)
    for options in config.methods.values():
        options.views = _fitting(options.views, data, quiet=True)
    if args.minutes is not None:
        spend_on_benchmark(args.minutes, config, data, args.out)
    benchmark(config, args.data, args.out, workers=args.workers, ray=args.ray)
    _write_page(args.out, args.data)


@_command("RUN --out FOLDER [--format safetensors|onnx]", arguments.export)
def _export(args: Namespace) -> None:
    """Export a network to timm or ONNX."""
    from zwicky.training.export import export

    print("written:", *export(args.run, args.out, args.format))


@_command("RUN --data STORE [--n N] [--seed S] [--out FOLDER]", arguments.verify)
def _verify(args: Namespace) -> None:
    """Measure the equivariance error under rotations by 90° and reflections."""
    from zwicky.evaluation.equivariance import equivariance_text, verify
    from zwicky.simulate.stream import open_data

    table = verify(args.run, open_data(args.data).cutouts, args.n, args.seed, args.out)
    print(table.to_string(index=False, float_format="{:.1e}".format))
    print(equivariance_text(table))


@_command("RUN [--data STORE] [--out PAGE]", arguments.report)
def _report(args: Namespace) -> None:
    """Write the HTML page of a benchmark."""
    _write_page(args.run, args.data, args.out)


@_command("[--out FOLDER] [--size desk|smoke] [--minutes M]", arguments.demo)
def _demo(args: Namespace) -> None:
    """Run the whole pipeline on simulated lenses."""
    from zwicky.evaluation.benchmark import benchmark, spend_on_benchmark
    from zwicky.report.data import load_results
    from zwicky.report.verdict import ranking_sentence, verdict
    from zwicky.simulate.simulation import simulate_store
    from zwicky.simulate.stream import open_data
    from zwicky.start import rank_unlabelled

    start = time.monotonic()
    settings = recipes.read("demo", args.size)
    simulation = settings.pop("simulate")
    parsed = parsing.parse(COMMANDS["benchmark"], "benchmark", settings, ["demo", "--data", "x", "--out", "x"])
    config = parsing.settings_of(BenchmarkConfig, parsed)
    store, run = args.out / f"store-{args.size}", args.out / f"run-{args.size}"
    if not store.exists():
        print(f"simulating {simulation['n']} lenses and look-alikes", file=sys.stderr, flush=True)
        simulate_store(simulation["population"], simulation["n"], simulation["seed"], store)
    data = open_data(store)
    if args.minutes is not None:
        other, images = time.monotonic() - start, len(data.cutouts)
        spend_on_benchmark(args.minutes, config, data, run, other, images)
    benchmark(config, store, run)
    ranking = rank_unlabelled(run, config, data)
    page = _write_page(run, store)
    results = load_results(run)
    print("\n".join([ranking_sentence(results, ranking["arm"], ranking["labels"]), *verdict(results)[:1]]))
    print(f"{time.monotonic() - start:.0f} s; open {page}")


@_command(
    "FOLDER [--out OUT] [--catalog TABLE] [--minutes M] [--labels '[N]'] [settings]", arguments.start, BenchmarkConfig
)
def _start(args: Namespace) -> None:
    """Go from a folder of cutouts to a page and a ranking, within a time budget."""
    from zwicky.start import start

    def configure(settings: dict[str, Any]) -> BenchmarkConfig:
        settings = recipes.merge(recipes.read("start"), settings)
        return parsing.settings_of(BenchmarkConfig, parsing.parse(COMMANDS["start"], "start", settings, args.given))

    learn = max(args.labels) if any(given.startswith("--labels") for given in args.given) else 0
    options = parsing.settings_of(IngestConfig, args)
    began = time.monotonic()
    page = start(args.path, args.out, args.minutes, configure, catalog=args.catalog, options=options, learn=learn)
    print(f"{time.monotonic() - began:.0f} s; open {page}")


@_command("RUN DATA --out TABLE.csv [--features FILE.npy] [--views 1|8]", arguments.predict)
def _predict(args: Namespace) -> None:
    """Apply a network to new cutouts."""
    from zwicky.survey.predict import predict

    count, listed = predict(args.run, args.data, args.out, args.features, args.views == 8)
    print(f"{count} of {count + listed} cutouts in {args.out}" + f"; {listed} set aside" * bool(listed))


@_command("CANDIDATES --grader NAME [options] | [CANDIDATES] --merge FILE ... --out CATALOGUE", arguments.grade)
def _grade(args: Namespace) -> None:
    """Grade cutouts by eye in a local page."""
    from zwicky.data.store import open_store

    if args.merge:
        from zwicky.grading.merge import merge_grades

        cutouts = None if args.candidates is None else open_store(args.candidates)
        print(merge_grades(args.merge, args.out or Path("catalogue.csv"), cutouts))
        return
    if args.candidates is None or not args.grader:
        raise UserError("name the store to grade and the person: zwicky grade CANDIDATES --grader NAME")
    if not re.fullmatch(r"[\w. @-]+", args.grader):
        raise UserError(f"--grader {args.grader!r}: use letters, digits, blanks and any of . _ - @, it names a file")
    try:
        from zwicky.grading.app import read_keys, serve
    except ModuleNotFoundError as error:
        raise UserError(f"zwicky grade needs {error.name}; install it with `pip install 'zwicky[grade]'`") from None
    from zwicky.grading.session import Session

    cutouts, keys = open_store(args.candidates), read_keys(args["keys"])
    session = Session(cutouts, parsing.settings_of(SessionConfig, args))
    store = args.candidates.resolve()
    out = args.out or store.with_name(f"{store.name}-grades") / f"{args.grader}.db"
    serve(session, out, args.grader, keys, args.port, args.browser)


@_command("SCORES --like EXAMPLE [--unlike EXAMPLE] [--out TABLE.csv] [--data DATA] [--run RUN]", arguments.similar)
def _similar(args: Namespace) -> None:
    """Find the cutouts of a scored survey that are most like some examples."""
    from zwicky.survey.similar import write_similar

    options = {"data": args.data, "run": args.run, "count": args.n, "index_above": args.index_above}
    found = write_similar(args.scores, args.like, args.unlike, args.out, **options)
    print(f"{found} cutouts in {args.out}" + f", with pictures in {args.out.with_suffix('.html')}" * bool(args.data))


@_command("CATALOG --out FOLDER [--service legacy|hips2fits] [--bands grz] [--size 101] [options]", arguments.cutouts)
def _cutouts(args: Namespace) -> None:
    """Fetch cutouts of the objects of a catalogue from a public service."""
    from zwicky.survey.download import download_cutouts

    print(download_cutouts(args.catalog, args.out, parsing.settings_of(CutoutsConfig, args), pool=args.pool))


@_command("RUN [RUN ...] --data DATA --out SCORES [--prevalence P] [--features true] [options]", arguments.score)
def _score(args: Namespace) -> None:
    """Score a survey part by part, with one run or an ensemble."""
    from zwicky.survey.score import score

    config = parsing.settings_of(ScoreConfig, args)
    options = {name: args[name] for name in ("training", "part", "workers", "ray")}
    done = score(args.runs, args.data, args.out, config, **options)
    if "scored" not in done:
        print(f"{done['left']} parts are left; when all are scored, repeat the command without --part")
        return
    print(f"{done['scored']} of {done['found']} cutouts scored in {args.out}, {done['listed']} set aside")
    if done["candidates"]:
        print(f"{done['candidates']} candidates in {args.out / 'candidates'}")


def _write_page(run: Path, data: Path | None, out: Path | None = None) -> Path:
    from zwicky.evaluation.results import BenchmarkResult
    from zwicky.report.page import write_report
    from zwicky.simulate.stream import data_exists, open_data

    name = str(data or BenchmarkResult(run).data.get("store", ""))
    found = data is not None or data_exists(name)  # a store that is named must open; one of the run may be gone
    page = write_report(run, open_data(name).cutouts if found else None, out)
    print(f"report: {page}")
    return page
