"""`zwicky start`: from a folder of cutouts to a page, within a time budget."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.backbones import BackboneConfig
from zwicky.data.catalog import is_catalog_name
from zwicky.data.cutouts import Cutouts
from zwicky.data.image_format import IngestConfig
from zwicky.data.ingest import ingest
from zwicky.data.labels import Labels
from zwicky.data.source import files_digest, scan_folder
from zwicky.data.splits import DEFAULT, Split
from zwicky.data.store import store_digest
from zwicky.errors import UserError
from zwicky.evaluation.arms import make_arms
from zwicky.evaluation.benchmark import benchmark, benchmark_fits, select_for_finetuning
from zwicky.evaluation.cells import CellRunner
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.explore import components, explore
from zwicky.evaluation.label_draws import make_label_draws
from zwicky.io import file_digest, is_store, read_json, write_array, write_json, write_table
from zwicky.report.explore import write_explore_page
from zwicky.report.page import write_report
from zwicky.simulate.stream import Data, open_data
from zwicky.survey.ensemble import Training
from zwicky.training.budget import Fits, budget_text, spend, timed
from zwicky.training.config import PretrainConfig
from zwicky.training.linear_probe import LinearProbe
from zwicky.training.pretrain import pretrain
from zwicky.training.run import to_plain
from zwicky.training.settings import FEW, Facts, as_settings, choose
from zwicky.training.task import Task

FEW_OF_A_CLASS = 5
LEAST_MAPPED = 3
OF_LABELS = ("weights", "fit steps", "split", "test share", "label draws", "labels")  # settings that need labels


def start(
    source: Path,
    out: Path | None,
    minutes: float,
    configure: Callable[[dict[str, Any]], BenchmarkConfig],
    *,
    catalog: Path | None = None,
    options: IngestConfig | None = None,
    learn: int = 0,
) -> Path:
    """Ingest, pretrain, fine-tune, evaluate and rank what has no label; return the page.

    Everything is written into `out`; the same call goes on where an interrupted one ended.

    Args:
        source: a folder of cutouts, or a store.
        out: the directory to write; None is `zwicky-NAME` here, after the folder.
        minutes: time budget; a resumed run keeps its numbers of steps.
        configure: completes settings that follow from the data to those of a benchmark.
        catalog: table of files, labels and positions.
        options: what the files do not say.
        learn: number of labels to learn from; 0 is all that are not tested.

    Raises:
        UserError: `out` was started with other data, or they cannot be read.
    """
    out = out or Path(f"zwicky-{source.resolve().stem}")
    began, run = time.monotonic(), out / "run"
    asked = configure({})
    if asked.targets:
        raise UserError("targets: start learns classes; numbers are learned by `zwicky benchmark start --targets …`")
    if is_store(source) and (catalog is not None or (options or IngestConfig()) != IngestConfig()):
        raise UserError(f"{source} is a store: leave out the catalogue and the options of ingest, or name its folder")
    store = source if is_store(source) else out / "store"
    _check_data(out, source, catalog, options or IngestConfig())
    if store != source and not store.exists():
        print(ingest(source, store, catalog, options).text(), file=sys.stderr)
    data = open_data(store)
    tested, given = can_be_tested(data.labels), usable_split(data, asked.design.split)
    facts = Facts.of(data.cutouts, data.labels, given, learn, minutes)
    table = choose(replace(facts, own_network=asked.backbones != {"polar": BackboneConfig("polar_vit")}))
    for choice in table if tested else [row for row in table if row.name not in OF_LABELS]:
        print(f"  {choice.name}: {choice.value} ({choice.reason})", file=sys.stderr)
    config = configure({"title": f"First look at {source.resolve().name}"} | as_settings(table))
    if given is None and config.design.split == DEFAULT:
        config.design.split = None
    if not tested:
        return map_cutouts(out, data.cutouts, data.labels, config, minutes, time.monotonic() - began)
    if not config.keep_networks:
        raise UserError("keep_networks: start ranks by the networks of its fits; leave it out")
    draw = make_label_draws(config, data.cutouts, data.labels, data.given_split(config.design.split))[0]
    if not len(draw.subsets[max(draw.fit_counts)][1]):
        advice = "set finetune.select and scratch.select, such as 0.2, or learn from more --labels"
        raise UserError(f"no label is left to choose what ranks; {advice}")
    other, images = time.monotonic() - began, 2 * len(data.cutouts)
    wanted = config.scratch.train.max_steps
    spend(minutes, config, run, partial(benchmark_fits, config, data), other, images, longest=1.0)
    config.size_note = short_of_steps(minutes, config.scratch.train.max_steps, wanted) or config.size_note
    benchmark(config, store, run)
    rank_unlabelled(run, config, data)
    return write_report(run, data.cutouts, out / "report.html")


def _check_data(out: Path, source: Path, catalog: Path | None, options: IngestConfig) -> None:
    """Write `start.json`, what the store is made from, or check that what `out` holds was made from the same."""
    record = to_plain(options) | {"data": _data_digest(out, source), "catalog": ""}
    record.pop("workers")
    if catalog is not None and catalog.is_file():
        record["catalog"] = file_digest(catalog)
    path = out / "start.json"
    if not any((out / name).exists() for name in ("store", "run")):
        write_json(path, record)
        return
    started = read_json(path) if path.exists() else {}
    if different := [name for name, value in record.items() if started.get(name) != value]:
        raise UserError(f"{out} was started with other {', '.join(different)}; choose another --out")


def _data_digest(out: Path, source: Path) -> str:
    """Return a hash of the store, or of the images and tables that ingest finds; "" if there are none."""
    if is_store(source) or not source.exists():
        return store_digest(source) if source.exists() else ""
    files, others = scan_folder(source)
    tables = [name for name, reason in others if reason == "not an image" and is_catalog_name(name)]
    folder = source if source.is_dir() else source.parent
    names = [name for name in [*files, *tables] if not (folder / name).resolve().is_relative_to(out.resolve())]
    return files_digest(folder, names) + "".join(file_digest(folder / name) for name in names if name in set(tables))


def short_of_steps(minutes: float, bought: int, wanted: int) -> str:
    """Warn where the budget bought less than half the steps that networks are fitted for; "" elsewhere."""
    if bought >= wanted / 2:
        return ""
    return (
        f"{minutes:g} min bought {bought} of the {wanted} steps that a network on these labels takes. None of the "
        "networks here is fitted well, and a difference between two of them says little: repeat with "
        f"--minutes {math.ceil(minutes * wanted / bought)} in another --out."
    )


def can_be_tested(labels: Labels) -> bool:
    """Return whether there are labels enough to learn from some and test on others."""
    counts = Counter(labels.values.values())
    return len(labels.values) >= FEW and len(counts) > 1 and min(counts.values()) >= FEW_OF_A_CLASS


def usable_split(data: Data, name: str | None) -> Split | None:
    """Return the store's own split of this name where it has enough of each class to learn from and to test."""
    if (split := data.given_split(name)) is None:
        return None
    counts = [Counter(data.labels.of(split.ids(role))) for role in ("train", "test")]
    enough = all(min(count[name] for name in data.labels.classes) >= FEW_OF_A_CLASS for count in counts)
    return split if data.labels.classes and enough else None


def rank_unlabelled(run: Path, config: BenchmarkConfig, data: Data) -> dict[str, Any]:
    """Write `ranked.csv`: the objects whose labels were neither used nor tested, by the probability of the last class.

    The arm is the one with the lowest loss on the selection labels, of the first draw at the most labels; probes and
    baselines are fitted without them for that, and with them to rank. No test object chooses it. `distance` is that of
    frozen features to the labelled objects, see `survey.ensemble.Training`. Returns the content of `ranking.json`,
    which names the arm.
    """
    if (run / "ranking.json").exists():
        return read_json(run / "ranking.json")
    cutouts, labels = data.cutouts, data.labels
    task = Task.classification(cutouts, labels)
    draws = make_label_draws(config, cutouts, labels, data.given_split(config.design.split))
    draw, runner = draws[0], CellRunner(config, cutouts, task, run, quiet=True)
    count = max(draw.fit_counts)
    fit, select = draw.rows(cutouts, count)
    used = np.concatenate([fit, select])
    free = np.setdiff1d(np.arange(len(cutouts)), np.concatenate([used, draw.test_rows(cutouts)]))
    arms = [arm for arm in select_for_finetuning(runner, make_arms(config), draws) if arm.tta]
    truth = task.truth[select]
    losses = [-np.log(runner.apply(arm, draw, count, fit, select)[np.arange(len(truth)), truth] + 1e-9) for arm in arms]
    arm = arms[int(np.argmin([loss.mean() for loss in losses]))]
    ranked = _identity(cutouts, free)
    ranked["probability"] = runner.apply(arm, draw, count, used, free)[:, -1] if len(free) else np.empty(0)
    if len(free) and (pretrained := [arm for arm in arms if arm.kind == "ssl"]):
        network = runner.pretrained(pretrained[0], draw)
        labelled = Training.of(network.features(cutouts.take(used).images))
        ranked["distance"] = labelled.distance(network.features(cutouts.take(free).images)).round(3)
    known = labels.of(ranked["id"].to_numpy(object))
    if pd.notna(known).any():
        ranked["label"] = known
    ranked = ranked.sort_values("probability", ascending=False, kind="stable")
    write_table(run / "ranked.csv", ranked.round({"probability": 6}))
    ranking = {"arm": arm.name, "title": arm.title, "labels": count}
    write_json(run / "ranking.json", ranking)
    return ranking


def map_cutouts(
    out: Path, cutouts: Cutouts, labels: Labels, config: BenchmarkConfig, minutes: float, other: float
) -> Path:
    """Pretrain on all cutouts and show what the features know: what `start` does without labels to test on.

    Writes `map.csv` (id, file, ra, dec, x, y, cluster, oddity), `features.npy`, and `ranked.csv` where the labels
    there are can order the cutouts.
    """
    name, options = next(iter(config.methods.items()))
    if options.weights:
        raise UserError(
            f"methods.{name}.weights: with too few labels to test, start pretrains on the cutouts; leave it out"
        )
    if len(cutouts) < LEAST_MAPPED:
        raise UserError(f"a map takes {LEAST_MAPPED} cutouts or more, and there are {len(cutouts)}; add some")
    backbone = next(iter(config.backbones.values()))
    settings = PretrainConfig(options.method, backbone, options.views, config.normalisation, options.train)
    rows, run = np.arange(len(cutouts)), out / "run"
    trial = timed(lambda folder: pretrain(settings, cutouts, rows, folder, quiet=True))
    spend(minutes, settings, run, lambda _: [Fits(settings.train, len(rows), [(1, trial)])], other, 2 * len(rows))
    network = pretrain(settings, cutouts, rows, run, title=name)
    features = network.features(cutouts.images)
    write_array(out / "features.npy", features.astype(np.float16))
    x = components(features)
    table = pd.concat([_identity(cutouts, rows), explore(x)], axis=1)
    write_table(out / "map.csv", table)
    sentences = [_few_sentence(labels), "What can be said: which cutouts are alike, and which are unlike all others."]
    known = labels.of(cutouts.ids)
    if len(labels.classes) > 1:
        task = Task.classification(cutouts, labels)
        score = LinearProbe.fit(features[task.known], task.truth[task.known], task).predict(features)[:, -1]
        table["score"] = np.where(pd.isna(known), score, np.nan)
        write_table(out / "ranked.csv", table.dropna(subset="score").sort_values("score", ascending=False))
        sentences += [f"The {len(labels.values)} labels order the others by a linear probe, to look at first."]
    facts = {"Objects": len(cutouts), "Size": " × ".join(map(str, cutouts.size)), "Bands": ", ".join(cutouts.bands)}
    facts |= {"Time budget": budget_text(to_plain(settings)), "Features": "features.npy", "Network": "run"}
    return write_explore_page(out / "report.html", cutouts, x, table, sentences, facts)


def _few_sentence(labels: Labels) -> str:
    """Say why nothing can be tested."""
    if not labels.values:
        return "No cutout has a label: how well a network finds lenses cannot be said."
    counts = ", ".join(f"{name} {count}" for name, count in Counter(labels.values.values()).items())
    return (
        f"{counts}: too few labels to learn from some and test on others, which takes {FEW} labels and "
        f"{FEW_OF_A_CLASS} of each class; how well a network finds {labels.classes[-1]} cannot be said."
    )


def _identity(cutouts: Cutouts, rows: np.ndarray) -> pd.DataFrame:
    """The id, file and position of these objects."""
    table = cutouts.table.iloc[rows].reset_index(drop=True)
    return table.assign(file=table.get("file", table["id"])).reindex(columns=["id", "file", "ra", "dec"])
