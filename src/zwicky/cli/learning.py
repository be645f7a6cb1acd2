"""Commands that train, test and compare networks."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from zwicky import recipes
from zwicky.augment.config import ViewsConfig
from zwicky.cli.arguments import A_RUN, A_STORE, CATALOG, DATA, MINUTES, PARALLEL, RECIPES, RESULTS, RUN, TRAINING
from zwicky.cli.parsing import COMMANDS, command, is_recipe, parse, settings_of
from zwicky.data.image_format import IngestConfig
from zwicky.errors import UserError
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.io import is_store
from zwicky.training.config import FinetuneConfig, PretrainConfig
from zwicky.training.processes import rank

if TYPE_CHECKING:
    from zwicky.data.splits import Split
    from zwicky.simulate.stream import Data


@command(
    "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
    ("recipe", str, f"a shipped recipe ({RECIPES['pretrain']}) or a YAML file"),
    *TRAINING,
    settings=PretrainConfig,
)
def pretrain(args: Namespace) -> None:
    """Pretrain a network on unlabelled cutouts."""
    from zwicky.data.splits import write_split
    from zwicky.training.budget import Fits, spend, timed
    from zwicky.training.pretrain import pretrain

    config = settings_of(PretrainConfig, args)
    data, split = _open(args, config, [args.out])
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
            warnings.warn(f"no labels: all cutouts are used and none is left to test; {advice}")
        out, name = shlex.quote(str(args.out)), shlex.quote(str(args.data))
        command = f"zwicky predict {out} {name} --out TABLE.csv --features FEATURES.npy"
        if count := len(split.ids("train")):
            targets = f" --targets '[{', '.join(config.targets)}]'" if config.targets else ""
            command = f"zwicky finetune {out} --data {name}{targets} --labels {min(count, 300)} --out RUN"
        print(f"pretrained on {len(ids)} cutouts; next: {command}")


@command(
    "RUN|RECIPE --data STORE --out RUN [--labels N] [settings]",
    ("run", Path, f"pretrained run to start from, a shipped recipe ({RECIPES['finetune']}) or a YAML file"),
    *TRAINING,
    ("--from_scratch", bool, "train the same network from random weights, for comparison", False),
    (
        "--grades",
        Path | None,
        "catalogue of `zwicky grade --merge`: learn its grades too; the random stratum stays out",
    ),
    settings=FinetuneConfig,
    recorded=("start", "from_scratch"),
)
def finetune(args: Namespace) -> None:
    """Fine-tune a pretrained network on labelled cutouts."""
    from zwicky.data.splits import write_split
    from zwicky.training.budget import fits_of, spend, timed
    from zwicky.training.finetune import finetune

    config, start = settings_of(FinetuneConfig, args), None if is_recipe(args.run) else args.run
    if start is not None and not start.exists():
        recipes.read(str(start))  # says what is there
    if start is not None and args.size is not None:
        raise UserError(f"--size {args.size}: {start} is a run, and sizes are of recipes; set --fit.train.max_steps")
    data, split = _open(args, config, [args.out, start])
    labels = data.labels
    if args.grades is not None:
        from zwicky.grading.labels import learn_from_grades

        labels, split = learn_from_grades(args.grades, data.cutouts, labels, split)
        learned = sum(split.roles.get(name) == "train" for name in labels.soft)
        if rank() == 0:
            left_out = "the others are tested or of the random stratum"
            print(f"{learned} of {len(labels.soft)} graded objects are in the training set; {left_out}")
    fit = partial(
        finetune, config, start, data.cutouts, labels, split, from_scratch=args.from_scratch, quiet=rank() > 0
    )
    if args.minutes is not None:
        if config.fit.head == "frozen":
            raise UserError("--minutes sets the number of steps, and fit.head frozen trains in none; leave it out")
        images, rounds = config.labels or len(split.ids("train")), config.fit.self_training * config.unlabelled
        sizes = images, len(split.ids("train", "unlabelled"))
        spend(args.minutes, config, args.out, lambda _: fits_of(config.fit, *sizes, [(1, rounds, timed(fit))]))
    fit(args.out)
    if rank() == 0:
        write_split(args.out / "splits", split)
        out, name = shlex.quote(str(args.out)), shlex.quote(str(args.data))
        following = f"evaluate {out} --data {name}{'' if args.grades is None else ' --split grades'}"
        if args.grades is not None and not len(split.ids("test")):
            following = f"score {out} --data {name} --out SCORES"
        print(f"fine-tuned; next: zwicky {following}")


def _open(args: Namespace, config: Any, runs: list[Path | None]) -> tuple[Data, Split]:
    """Return the data and the split of a training, whose views are made to fit the images."""
    from zwicky.simulate.stream import open_data
    from zwicky.training.task import columns_of, parse_targets

    data = open_data(args.data, quiet=rank() > 0)
    config.views = _fitting(config.views, data)
    return data, data.split(config.split, columns_of(parse_targets(config.targets)), runs)


def _fitting(views: ViewsConfig, data: Data, quiet: bool = False) -> ViewsConfig:
    """Views whose crop fits the images; what was changed is printed."""
    from zwicky.training.settings import fit_views

    views, note = fit_views(views, data.cutouts.size)
    if note and not quiet and rank() == 0:
        warnings.warn(note)
    return views


@command(
    "RUN --data DATA [--catalog TABLE] [--split NAME] [--out FOLDER] | SCORES --grades TABLE [--known TABLE]",
    ("run", Path, f"{A_RUN}; with --grades the folder of `zwicky score`"),
    ("--data", Path | None, f"{A_STORE}; or a folder of cutouts"),
    ("--catalog", Path | None, "table of files, labels, ra and dec of such a folder"),
    (
        "--split",
        str | None,
        "split whose test objects are used, of the run, else of the store; default: holdout where the data are "
        "those of the run or have such a split, else all labelled objects",
    ),
    (
        "--grades",
        Path | None,
        "grades of the candidates of a survey, for purity and completeness: catalogue.csv or grades.csv",
    ),
    ("--known", Path | None, "table of known lenses, with ids or positions"),
    RESULTS,
)
def evaluate(args: Namespace) -> None:
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
        elif args.catalog is not None:
            raise UserError(f"{store} is no folder of cutouts; leave --catalog out")
        data = open_data(store)
        split = data.split(args.split, columns, [args.run]) if args.split else data.test_split(args.run, columns)
        print(evaluation_text(evaluate(args.run, data.cutouts, data.labels, split, out=args.out)))


@command(
    "RUN --out FOLDER [--format safetensors|onnx]",
    RUN,
    ("--out", Path, "folder to write the files to"),
    (
        "--format",
        Literal["safetensors", "onnx"],
        "safetensors (timm loads it where the architecture is timm's) or onnx",
        "safetensors",
    ),
)
def export(args: Namespace) -> None:
    """Export a network to timm or ONNX."""
    from zwicky.training.export import export

    files = export(args.run, args.out, args.format)
    print("written:", *files)
    if args.format == "safetensors" and args.out / "config.json" not in files:
        print("timm has no such network: zwicky alone reads these files; other programs read --format onnx")


@command(
    "RUN --data STORE [--n N] [--seed S] [--out FOLDER]",
    RUN,
    DATA,
    ("--n", PositiveInt, "number of cutouts to rotate and reflect", 64),
    ("--seed", NonNegativeInt, "random seed of the choice of cutouts", 0),
    RESULTS,
)
def verify(args: Namespace) -> None:
    """Measure the equivariance error under rotations by 90° and reflections."""
    from zwicky.evaluation.equivariance import equivariance_text, verify
    from zwicky.simulate.stream import open_data

    table = verify(args.run, open_data(args.data).cutouts, args.n, args.seed, args.out)
    print(table.to_string(index=False, float_format="{:.1e}".format))
    print(equivariance_text(table))


@command(
    "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
    ("recipe", str, f"a shipped recipe ({RECIPES['benchmark']}) or a YAML file"),
    *TRAINING,
    *PARALLEL,
    settings=BenchmarkConfig,
)
def benchmark(args: Namespace) -> None:
    """Compare pretraining with training from scratch and with baselines."""
    from zwicky.evaluation.benchmark import benchmark, benchmark_fits
    from zwicky.simulate.stream import open_data
    from zwicky.training.budget import spend

    config, data = settings_of(BenchmarkConfig, args), open_data(args.data)
    config.label_views = _fitting(config.label_views, data)
    for options in config.methods.values():
        options.views = _fitting(options.views, data, quiet=True)
    if args.minutes is not None:
        spend(args.minutes, config, args.out, partial(benchmark_fits, config, data))
    benchmark(config, args.data, args.out, workers=args.workers, ray=args.ray)
    _write_page(args.out, args.data)


@command(
    "RUN [--data STORE] [--out PAGE]",
    ("run", Path, "run directory of `zwicky benchmark`"),
    ("--data", Path | None, "store for example images; default: the store of the run"),
    ("--out", Path | None, "page to write; default: report.html in the run"),
)
def report(args: Namespace) -> None:
    """Write the HTML page of a benchmark."""
    _write_page(args.run, args.data, args.out)


@command(
    "[--out FOLDER] [--size desk|smoke] [--minutes M]",
    ("--out", Path, "folder for the simulated store and the run", Path("demo")),
    ("--size", str, "desk (minutes on two cores) or smoke", "desk"),
    MINUTES,
)
def demo(args: Namespace) -> None:
    """Run the whole pipeline on simulated lenses."""
    from zwicky.evaluation.benchmark import benchmark, benchmark_fits
    from zwicky.report.data import load_results
    from zwicky.report.page import write_report
    from zwicky.report.verdict import ranking_sentence, verdict
    from zwicky.simulate.simulation import simulate_store
    from zwicky.simulate.stream import open_data
    from zwicky.start import rank_unlabelled
    from zwicky.training.budget import spend

    began = time.monotonic()
    settings = recipes.read("demo", args.size)
    simulation = settings.pop("simulate")
    parsed = parse(COMMANDS["benchmark"], "benchmark", settings, ["demo", "--data", "x", "--out", "x"])
    config = settings_of(BenchmarkConfig, parsed)
    store, run = args.out / f"store-{args.size}", args.out / f"run-{args.size}"
    if not store.exists():
        print(f"simulating {simulation['n']} lenses and look-alikes", file=sys.stderr, flush=True)
        simulate_store(simulation["population"], simulation["n"], simulation["seed"], store)
    data = open_data(store)
    if args.minutes is not None:
        other, images = time.monotonic() - began, len(data.cutouts)
        spend(args.minutes, config, run, partial(benchmark_fits, config, data), other, images)
    benchmark(config, store, run)
    ranking = rank_unlabelled(run, config, data)
    page, results = write_report(run, data.cutouts), load_results(run)
    print("\n".join([ranking_sentence(results, ranking["arm"], ranking["labels"]), *verdict(results)[:1]]))
    print(f"{time.monotonic() - began:.0f} s; open {page}")


@command(
    "FOLDER [--out OUT] [--catalog TABLE] [--minutes M] [--labels '[N]'] [settings]",
    ("path", Path, "folder of cutouts, one file of many, or a store"),
    CATALOG,
    ("--minutes", float, "time budget for everything, in minutes", 20.0),
    ("--out", Path | None, "folder to write, default zwicky-FOLDER; resumes if interrupted"),
    IngestConfig,
    settings=BenchmarkConfig,
)
def start(args: Namespace) -> None:
    """Go from a folder of cutouts to a page and a ranking, within a time budget."""
    from zwicky.start import start

    def configure(settings: dict[str, Any]) -> BenchmarkConfig:
        settings = recipes.merge(recipes.read("start"), settings)
        return settings_of(BenchmarkConfig, parse(COMMANDS["start"], "start", settings, args.given))

    is_given = any(given.startswith("--labels") for given in args.given)
    learn = max(args.labels) if is_given and 0 not in args.labels else 0
    began, options = time.monotonic(), settings_of(IngestConfig, args)
    page = start(args.path, args.out, args.minutes, configure, catalog=args.catalog, options=options, learn=learn)
    print(f"{time.monotonic() - began:.0f} s; open {page}")


def _write_page(run: Path, data: Path | None, out: Path | None = None) -> None:
    from zwicky.evaluation.results import BenchmarkResult
    from zwicky.report.page import write_report
    from zwicky.simulate.stream import data_exists, open_data

    name = str(data or BenchmarkResult(run).data.get("store", ""))
    found = data is not None or data_exists(name)  # a store that is named must open; one of the run may be gone
    print(f"report: {write_report(run, open_data(name).cutouts if found else None, out)}")
