"""What each verb does: it calls the rooms, whose modules load only now."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import fields
from pathlib import Path

from jsonargparse import Namespace

from zwicky import recipes
from zwicky.cli import arguments, parsing
from zwicky.cli.parsing import Command
from zwicky.data.config import IngestConfig
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.training.config import FinetuneConfig, PretrainConfig
from zwicky.training.launch import rank


def _simulate(given: Namespace) -> None:
    from zwicky.data.store import check_writable
    from zwicky.data.writers import write_folder
    from zwicky.simulate.api import simulate_store

    check_writable(given.out)
    store = given.out if given.format == "store" else given.out.with_name(f".{given.out.name}.store")
    if store != given.out and store.exists():  # a kill left it; whose it is cannot be told
        shutil.rmtree(store)
    simulate_store(given.population, given.n, given.seed, store, quiet=False, device=given.device)
    if store != given.out:
        write_folder(store, given.out, given.format)
        shutil.rmtree(store)
    print(f"{given.n} simulated cutouts in {given.out}")


def _ingest(given: Namespace) -> None:
    from zwicky.data.ingest import ingest

    settings = IngestConfig(**{field.name: given[field.name] for field in fields(IngestConfig)})
    print(ingest(given.path, given.out, given.catalog, settings).text())


def _audit(given: Namespace) -> None:
    from zwicky.data.audit import audit, audit_text
    from zwicky.training.data import open_data

    data = open_data(given.store, given.memory_gb)
    print(audit_text(audit(data.cutouts, data.labels)))


def _pretrain(given: Namespace) -> None:
    from zwicky.training.data import open_data
    from zwicky.training.pretrain import pretrain

    config = parsing.settings_of(PretrainConfig, given)
    data = open_data(given.data, given.memory_gb)
    ids = data.split(config.split).ids("train", "unlabelled")
    pretrain(config, data.cutouts, data.cutouts.rows_of(ids), given.out, labels=data.labels.of(ids))
    if rank() == 0:
        following = f"zwicky finetune {given.out} --data {given.data} --labels 300 --out RUN"
        print(f"pretrained on {len(ids)} cutouts; next: {following}")


def _finetune(given: Namespace) -> None:
    from zwicky.training.data import open_data
    from zwicky.training.finetune import finetune
    from zwicky.training.task import columns_of, parse_targets

    config = parsing.settings_of(FinetuneConfig, given)
    data = open_data(given.data, given.memory_gb)
    split = data.split(config.split, columns_of(parse_targets(config.targets)))
    start = None if _names_recipe(str(given.run)) else given.run
    finetune(config, start, data.cutouts, data.labels, split, given.out, from_scratch=given.from_scratch)
    if rank() == 0:
        print(f"fine-tuned; next: zwicky evaluate {given.out} --data {given.data}")


def _names_recipe(word: str) -> bool:
    """Whether the first word of `finetune` is a recipe: a run of that name comes first."""
    named = word in recipes.names() or word.endswith((".yaml", ".yml"))
    return named and not (Path(word) / "run.json").exists()


def _evaluate(given: Namespace) -> None:
    from zwicky.evaluation.evaluate import evaluate, evaluation_text
    from zwicky.training.data import open_data

    data = open_data(given.data, given.memory_gb)
    print(evaluation_text(evaluate(given.run, data.cutouts, data.labels, data.split(given.split))))


def _benchmark(given: Namespace) -> None:
    from zwicky.evaluation.benchmark import benchmark

    benchmark(parsing.settings_of(BenchmarkConfig, given), given.data, given.out, memory_gb=given.memory_gb)
    _write_page(given.out, given.data)


def _export(given: Namespace) -> None:
    from zwicky.training.export import export

    print("written:", *export(given.run, given.out, given.format))


def _verify(given: Namespace) -> None:
    from zwicky.evaluation.equivariance import ELEMENTS, verify
    from zwicky.training.data import open_data

    found = verify(given.run, open_data(given.data, given.memory_gb).cutouts, given.n, given.seed)
    for position, name in enumerate(ELEMENTS):
        answers = f"  answers {found.answers[position]:.1e}" if found.answers else ""
        print(f"{name:24s} summary {found.summary[position]:.1e}{answers}")
    print(found.text())


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
    config = parsing.parse(COMMANDS["benchmark"], "benchmark", settings, ["demo", "--data", "x", "--out", "x"])
    store, run = given.out / f"store-{given.size}", given.out / f"run-{given.size}"
    if not store.exists():
        print(f"simulating {simulation['n']} lenses and look-alikes", file=sys.stderr, flush=True)
        simulate_store(simulation["population"], simulation["n"], simulation["seed"], store)
    benchmark(parsing.settings_of(BenchmarkConfig, config), store, run)
    page = _write_page(run, store)
    found = verdict(gather(run))
    print("\n".join([found.headline, *found.details][:3]))
    print(f"{time.monotonic() - began:.0f} s; open {page}")


def _write_page(run: Path, data: Path | None, out: Path | None = None) -> Path:
    from zwicky.evaluation.results import BenchmarkResult
    from zwicky.report import write_report
    from zwicky.training.data import is_there, open_data

    name = str(data or BenchmarkResult(run).data.get("store", ""))
    cutouts = open_data(name, memory_gb=0).cutouts if is_there(name) else None
    page = write_report(run, cutouts, out)
    print(f"report: {page}")
    return page


COMMANDS = {
    "simulate": Command(
        "Make a store of simulated lenses and look-alikes.",
        "POPULATION --out STORE [--n N] [--seed S] [--format store|deeplense|fits|hdf5] | POPULATION --print_config",
        arguments.simulate,
        _simulate,
    ),
    "ingest": Command(
        "Read a folder of cutouts into a store.",
        "PATH --out STORE [--catalog CSV] [options]",
        arguments.ingest,
        _ingest,
    ),
    "audit": Command("Say what is in a store and what is suspicious about it.", "STORE", arguments.audit, _audit),
    "pretrain": Command(
        "Learn from cutouts without labels.",
        "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
        arguments.of_recipe,
        _pretrain,
        PretrainConfig,
        takes_recipe=lambda word: True,
    ),
    "finetune": Command(
        "Teach a pretrained network with some labels.",
        "RUN|RECIPE --data STORE --out RUN [--labels N] [settings]",
        arguments.finetune,
        _finetune,
        FinetuneConfig,
        takes_recipe=_names_recipe,
    ),
    "evaluate": Command(
        "Test a network on a store's test objects.", "RUN --data STORE [--split NAME]", arguments.evaluate, _evaluate
    ),
    "benchmark": Command(
        "Compare pretraining with the same network from scratch and with baselines.",
        "RECIPE --data STORE --out RUN [--size SIZE] [settings]",
        arguments.of_recipe,
        _benchmark,
        BenchmarkConfig,
        takes_recipe=lambda word: True,
    ),
    "export": Command(
        "Write a network for other programs: timm or ONNX.",
        "RUN --out FOLDER [--format safetensors|onnx]",
        arguments.export,
        _export,
    ),
    "verify": Command(
        "Measure whether a network says the same of turned and mirrored cutouts.",
        "RUN --data STORE [--n N] [--seed S]",
        arguments.verify,
        _verify,
    ),
    "report": Command(
        "Write the page of a benchmark again.", "RUN [--data STORE] [--out PAGE]", arguments.report, _report
    ),
    "demo": Command(
        "Do all of it on simulated lenses made on the spot.",
        "[--out FOLDER] [--size desk|smoke]",
        arguments.demo,
        _demo,
    ),
}
