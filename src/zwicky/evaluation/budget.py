"""The time budget of a benchmark: what it trains, and how long a step of each fit takes."""

from collections.abc import Callable
from pathlib import Path

from zwicky.data.cutouts import Cutouts
from zwicky.data.labels import Labels
from zwicky.evaluation.arms import Arm, make_arms
from zwicky.evaluation.cells import CellRunner
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.label_draws import make_label_draws
from zwicky.training.budget import Fits, spend, timed
from zwicky.training.config import FitConfig
from zwicky.training.task import Task


def spend_on_benchmark(
    minutes: float,
    config: BenchmarkConfig,
    cutouts: Cutouts,
    labels: Labels,
    out: Path,
    other: float = 0.0,
    images: int = 0,
) -> None:
    """Set the steps of all fits of a benchmark so that it takes `minutes`; see `training.budget.spend`."""
    task = Task.regression(cutouts, config.targets) if config.targets else Task.classification(cutouts, labels)
    if task.is_regression:
        labels = Labels(dict.fromkeys(cutouts.ids[task.known], "known"))

    def fits(folder: Path) -> list[Fits]:
        draws, arms = make_label_draws(config, cutouts, labels), make_arms(config)
        runner, first, most = CellRunner(config, cutouts, task, folder, quiet=True), draws[0], max(draws[0].fit_counts)

        def pretraining(arm: Arm) -> Callable[[Path], float]:
            folder = runner.pretrain_folder(arm, first)
            return lambda _: timed(lambda _: runner.pretrained(arm, first))(folder)

        def fitting(arm: Arm, fit: FitConfig) -> Callable[[Path], float]:
            return lambda path: runner.fit(arm, fit, first, most, path)[1]["step_seconds"]

        result = []
        networks = [arm for arm in arms if arm.trains_network and arm.tta]
        for name, options in config.methods.items():
            used = {arm.backbone: arm for arm in arms if arm.kind == "ssl" and arm.method == name}
            runs = [(len({runner.pretrain_folder(arm, d) for d in draws}), pretraining(arm)) for arm in used.values()]
            result.append(Fits(options.train, len(first.pretrain_rows(cutouts)), runs))
        for kind, fit in (("ssl", config.finetune), ("supervised", config.scratch), ("baseline", config.convnet)):
            if fit is not None and (used_by := [arm for arm in networks if arm.kind == kind]):
                trials = [(len(draws) * len(set(first.fit_counts)), fitting(arm, fit)) for arm in used_by]
                result.append(Fits(fit.train, len(first.rows(cutouts, most)[0]), trials))
        return result

    spend(minutes, config, out, fits, other, images)
