"""`zwicky benchmark`: every arm × number of labels × draw; an interrupted benchmark resumes cell by cell."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zwicky.backbones import BackboneConfig
from zwicky.data.audit import audit
from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import ROLES
from zwicky.evaluation.arms import Arm, check_recipe, compared_arms, make_arms
from zwicky.evaluation.baselines import PROBES, linear_probe
from zwicky.evaluation.cells import CellRunner
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.correspondence import correspondence, correspondence_pairs
from zwicky.evaluation.label_draws import LabelDraw, make_label_draws, write_label_draws
from zwicky.evaluation.metrics import scores
from zwicky.evaluation.results import BenchmarkResult, summarise
from zwicky.io import WEIGHTS, read_json, remove, replacing, write_json, write_table
from zwicky.parallel import map_parts
from zwicky.rng import numpy_rng
from zwicky.simulate.stream import SIMULATION, Data, open_data
from zwicky.training.budget import Fits, fits_of
from zwicky.training.config import FitConfig
from zwicky.training.distributed import device
from zwicky.training.pretrain import check_pretraining
from zwicky.training.run import Run, fingerprint
from zwicky.training.task import Task

Cell = tuple[Arm, LabelDraw, int]  # trained on so many labels
_open_data = lru_cache(1)(open_data)


def benchmark(
    config: BenchmarkConfig, store: Path, out: Path, *, quiet: bool = False, workers: int = 1, ray: str = ""
) -> BenchmarkResult:
    """Run a benchmark of a store or of `simulate:POPULATION:N:SEED`, or resume it in the directory `out`.

    First the pretrainings and then the cells run on `workers` processes or on a Ray cluster, see `map_parts`, with the
    results of one process of as many threads. `evaluation.results` lists what is written. UserError if recipe, data
    and directory do not fit together.
    """
    _open_data.cache_clear()
    data = _open_data(source := store if str(store).startswith(SIMULATION) else Path(store).absolute())
    cutouts = data.cutouts
    check_recipe(config, cutouts.size)
    task = Task.of(cutouts, data.labels, config.targets)
    labels = task.strata(cutouts, data.labels)
    truth = task.truth if task.is_regression else labels.of(cutouts.ids)
    weights = {f"backbones.{name}.pretrained": backbone.source for name, backbone in config.backbones.items()}
    weights |= {f"methods.{n}.weights": BackboneConfig(pretrained=m.weights).source for n, m in config.methods.items()}
    run = Run(out, "benchmark", config, config.seed, fingerprint(cutouts, np.arange(len(cutouts)), truth), weights)
    if run.finished and (out / "summary.csv").exists():
        return BenchmarkResult(out)
    if run.is_renewed:
        _discard(out)
    _check_settings(config, cutouts, task)
    draws = make_label_draws(config, cutouts, labels, data.given_split(config.design.split))
    runner, arms = CellRunner(config, cutouts, task, out), make_arms(config)
    write_label_draws(out, draws)
    write_json(out / "data.json", dataset_card(store, config, cutouts, labels, task, draws))
    if not (out / "audit.json").exists():
        # A shortcut among unlabelled objects, which only pretrain, does no harm.
        roles = draws[0].split.roles
        used = {i: name for i, name in data.labels.values.items() if roles.get(i) != "unlabelled"}
        write_json(out / "audit.json", audit(cutouts, replace(data.labels, values=used)))

    job = (config, source, out.absolute(), quiet or workers != 1 or bool(ray))
    run_parts = partial(map_parts, workers=workers, ray=ray, gpus=float(device().type == "cuda"))
    pretrainings: dict[Path, list[tuple[Arm, LabelDraw]]] = {}
    for draw in draws:
        for arm in (arm for arm in arms if arm.kind == "ssl"):
            pretrainings.setdefault(runner.pretrain_folder(arm, draw), []).append((arm, draw))
    for _ in run_parts(partial(_pretrain, *job), [*pretrainings.values()]):
        pass
    arms = select_for_finetuning(runner, arms, draws)
    cells = [
        (arm, draw, count)
        for draw in draws
        for count in sorted(draw.subsets)
        for arm in arms
        if not arm.trains_network or count in draw.fit_counts
    ]
    groups: dict[tuple, list[Cell]] = {}  # the cells of one network, of which some need others
    for arm, draw, count in cells:
        kind = arm.teacher.kind if arm.protocol == "self_training" else arm.kind
        groups.setdefault((draw.index, count, kind, arm.method, arm.backbone), []).append((arm, draw, count))
    rows = {}
    for done in run_parts(partial(_run_cells, *job), [*groups.values()]):
        for arm, draw_index, count, row in done:
            rows[arms.index(arm), draw_index, count] = row
            if not quiet:
                values = ", ".join(f"{n} {row[n]:.4f}" for n in ("accuracy", "auc", "r2", "mae") if row.get(n))
                cell = f"{arm.title}, {count} labels, draw {draw_index}"
                line = f"[{len(rows)}/{len(cells)}] {cell}: {values}, {row['seconds']:.0f} s"
                print(line, file=sys.stderr, flush=True)
        write_table(out / "results.csv", pd.DataFrame([rows[key] for key in sorted(rows)], dtype=object))
        run.save_seconds()
    if config.correspondence and config.methods:
        write_correspondence(runner, draws, [arm for arm in arms if arm.kind == "ssl"])
    pairs = compared_arms(arms, config.compare_with)
    summary, comparisons = summarise(BenchmarkResult(out), pairs, config.replicates, config.seed)
    write_table(out / "comparisons.csv", comparisons)
    write_table(out / "summary.csv", summary)
    if not run.finished:
        run.finish(cells=len(cells))
    return BenchmarkResult(out)


def _discard(out: Path) -> None:
    """Remove what other settings or data left in a directory where nothing was trained, but finished pretrainings."""
    weights = [path.parent for path in out.glob(f"pretrain/*/{WEIGHTS}") if not (path.parent / "run.json").exists()]
    for path in [*map(out.joinpath, ("audit.json", "chosen.json", "splits")), *out.glob("pretrain/*/*.npy"), *weights]:
        remove(path)


def _check_settings(config: BenchmarkConfig, cutouts: Cutouts, task: Task) -> None:
    """Raise UserError before anything is trained if some network cannot be trained as the recipe says."""
    config.normalisation.validate()
    config.label_views.validate(cutouts.size, cutouts.bands, targets=task.targets, section="label_views")
    for name, options in config.methods.items():
        section = f"methods.{name}.views"
        options.views.validate(cutouts.size, cutouts.bands, section=section)
        for network in (options.networks or config.backbones) if options.weights is None else ():
            check_pretraining(options.method, config.backbones[network], options.views, cutouts, section)


def _runner(config: BenchmarkConfig, source: Path, out: Path, quiet: bool) -> CellRunner:
    """Open the data, once a process, and return what runs the cells."""
    data = _open_data(source)
    return CellRunner(config, data.cutouts, Task.of(data.cutouts, data.labels, config.targets), out, quiet)


def _pretrain(
    config: BenchmarkConfig, source: Path, out: Path, quiet: bool, uses: Sequence[tuple[Arm, LabelDraw]]
) -> None:
    """Pretrain one network and, where probes use them, compute its features."""
    runner = _runner(config, source, out, quiet)
    runner.pretrained(*uses[0])
    for arm, draw in uses:
        if arm.protocol in PROBES:
            runner.features(arm, draw)


def _run_cells(
    config: BenchmarkConfig, source: Path, out: Path, quiet: bool, cells: Sequence[Cell]
) -> list[tuple[Arm, int, int, dict[str, Any]]]:
    """Run cells in order, and return the arm, draw, number of labels and row of each."""
    runner = _runner(config, source, out, quiet)
    return [(arm, draw.index, count, runner.run(arm, draw, count)) for arm, draw, count in cells]


def benchmark_fits(config: BenchmarkConfig, data: Data, folder: Path) -> list[Fits]:
    """Return all fits of a benchmark, whose trials write into a folder, for `training.budget.spend`."""
    cutouts, task = data.cutouts, Task.of(data.cutouts, data.labels, config.targets)
    given, arms = data.given_split(config.design.split), make_arms(config)
    draws = make_label_draws(config, cutouts, task.strata(cutouts, data.labels), given)
    runner, first, most = CellRunner(config, cutouts, task, folder, quiet=True), draws[0], max(draws[0].fit_counts)

    def pretraining(arm: Arm, _: Path) -> float:
        runner.pretrained(arm, first)
        return read_json(runner.pretrain_folder(arm, first) / "run.json")["step_seconds"]

    def fitting(arm: Arm, fit: FitConfig, path: Path) -> float:
        return runner.fit(arm, fit, first, most, path)[1]["step_seconds"]

    result = []
    networks = [arm for arm in arms if arm.trains_network and arm.tta and arm.protocol != "self_training"]
    for name, options in config.methods.items():
        if options.weights:
            continue
        used = {arm.backbone: arm for arm in arms if arm.kind == "ssl" and arm.method == name}.values()
        folders = {arm: {runner.pretrain_folder(arm, draw) for draw in draws} for arm in used}
        runs = [(len(folders[arm]), partial(pretraining, arm)) for arm in used]
        result.append(Fits(options.train, len(first.pretrain_rows(cutouts)), runs))
    for kind, fit in (("ssl", config.finetune), ("supervised", config.scratch), ("baseline", config.convnet)):
        if fit is not None and (used_by := [arm for arm in networks if arm.kind == kind]):
            count = len(draws) * len(set(first.fit_counts))
            rounds = {arm: fit.self_training * (arm.backbone in config.self_training) for arm in used_by}
            trials = [(count, rounds[arm], partial(fitting, arm, fit)) for arm in used_by]
            result += fits_of(fit, len(first.rows(cutouts, most)[0]), len(first.pretrain_rows(cutouts)), trials)
    return result


def select_for_finetuning(runner: CellRunner, arms: Sequence[Arm], draws: Sequence[LabelDraw]) -> list[Arm]:
    """Leave out the fine-tuned arms beyond the `finetune_best` best pretrained networks, without any test object.

    The score of a pretrained network is the AUC (R² of numbers) of a linear probe on its frozen features, fitted to
    the training labels of a draw and measured on its selection labels, at the largest number of labels; the mean over
    draws. Scores are kept in `chosen.json`.
    """
    networks = {f"{a.method}-{a.backbone}": replace(a, protocol="linear") for a in arms if a.kind == "ssl"}
    n_best, path = runner.config.finetune_best, runner.folder / "chosen.json"
    if not n_best or n_best >= len(networks):
        return list(arms)
    if not path.exists():
        write_json(path, {"score": {n: _selection_score(runner, arm, draws) for n, arm in networks.items()}})
    score = read_json(path)["score"]
    best = sorted(score, key=lambda name: -math.inf if score[name] is None else score[name], reverse=True)[:n_best]
    return [a for a in arms if a.kind != "ssl" or not a.trains_network or f"{a.method}-{a.backbone}" in best]


def _selection_score(runner: CellRunner, arm: Arm, draws: Sequence[LabelDraw]) -> float:
    task, values = runner.task, []
    for draw in draws:
        features = runner.features(arm, draw)
        fit, select = draw.rows(runner.cutouts, max(draw.subsets))
        predicted = linear_probe(features[fit], task.truth[fit], features[select], task)
        values.append(scores(task.truth[select], predicted, task.columns)["r2" if task.is_regression else "auc"])
    return float(np.mean(values))


def write_correspondence(runner: CellRunner, draws: Sequence[LabelDraw], arms: Sequence[Arm]) -> None:
    """Measure region correspondence of each pretraining once, on test objects that nothing is chosen by.

    Writes `correspondence.csv` and `correspondence_pairs.csv`, and into the folder of each pretraining its
    `correspondence.json` and `.npz`; what is there already is read back.
    """
    config, cutouts = runner.config, runner.cutouts
    rows, counts = [], []
    for arm in {(arm.backbone, arm.method): arm for arm in arms}.values():
        for folder, draw in {runner.pretrain_folder(arm, draw): draw for draw in draws}.items():
            if not (folder / "correspondence.json").exists():
                test = numpy_rng(config.seed).permutation(draw.test_rows(cutouts))[: config.correspondence]
                network = runner.pretrained(arm, draw)
                groups = draw.split.groups_of(cutouts.ids[test]).astype(str)
                measured = correspondence(network, cutouts, test, config.label_views, config.seed, groups)
                with replacing(folder / "correspondence.npz") as temporary, temporary.open("wb") as stream:
                    np.savez_compressed(stream, allow_pickle=False, **measured.arrays)
                write_json(folder / "correspondence.json", measured.row)
            row = {"network": arm.backbone, "method": arm.method, "run": folder.name, "split": draw.split.name}
            rows.append(row | {"seed": runner.pretrain_seed(draw), **read_json(folder / "correspondence.json")})
            counts.append(dict(np.load(folder / "correspondence.npz", allow_pickle=False)))
    write_table(runner.folder / "correspondence.csv", pd.DataFrame(rows))
    pairs = correspondence_pairs(rows, counts, config.replicates, config.seed)
    write_table(runner.folder / "correspondence_pairs.csv", pairs)


def dataset_card(
    store: Path, config: BenchmarkConfig, cutouts: Cutouts, labels: Labels, task: Task, draws: Sequence[LabelDraw]
) -> dict[str, Any]:
    """Describe the data of a benchmark, `data.json`; settings are in `config.yaml`.

    Roles and counts are those of the first draw; other folds are alike.
    """
    split = draws[0].split
    simulated, surveys = set(cutouts.column("simulated")), sorted({s for s in cutouts.column("survey") if s})
    return {
        "store": str(store),
        "name": Path(store).resolve().name,
        "objects": len(cutouts),
        "bands": cutouts.bands,
        "size": cutouts.size,
        "pixel_scale": cutouts.pixel_scale,
        "simulated": simulated.pop() if len(simulated) == 1 else None,
        "survey": ", ".join(surveys) or None,
        "classes": task.classes,
        "positive": task.classes[-1] if task.classes else None,
        "columns": task.columns,
        "class_counts": Counter(labels.values.values()),
        "unlabelled": len(cutouts) - len(labels.values),
        "label_source": labels.source,
        "roles": {role: Counter(labels.values.get(i, "unlabelled") for i in split.ids(role)) for role in ROLES},
        "pretraining_images": len(draws[0].pretrain_rows(cutouts)),
        "augmentation": f"{config.label_views.text()}; the same for every network, and the mean over eight turns and "
        "mirrors at test time",
    }
