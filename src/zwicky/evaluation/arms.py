"""The arms of a benchmark: what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zwicky.backbones.config import BackboneConfig
from zwicky.errors import UserError
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.learners import Bench, Learner, baseline, finetuned, from_scratch, probed
from zwicky.training.pretrain import resolve_views
from zwicky.views.config import ViewsConfig

BASELINE_TITLES = {
    "pca_logistic": "PCA + logistic regression",
    "pca_boosting": "PCA + boosted trees",
    "radial_colour": "radial colours + logistic regression",
}


@dataclass(frozen=True)
class Arm:
    """One line of the figure. title: for people; the rest as in `results.RESULT_COLUMNS`."""

    name: str
    title: str
    kind: str
    backbone: str  # the network's short name in the recipe
    protocol: str
    learn: Learner


def arms(bench: Bench) -> list[Arm]:
    """All arms of a benchmark, self-supervised ones first."""
    config, found = bench.config, []
    window = _window(config.label_views, bench)
    for method, options in config.methods.items():
        if _window(options.views, bench) != window:
            raise UserError(
                f"methods.{method}.views shows the networks {_window(options.views, bench)} (crop, image_size) but "
                f"label_views {window}; give both the same, or networks from scratch would see other images"
            )
    for network, backbone in config.backbones.items():
        for method in config.methods:
            start = f"{method.upper()} pretraining, {network}"
            found.append(
                Arm(
                    f"{method}-{network}-finetune",
                    f"{start}, fine-tuned",
                    "ssl",
                    network,
                    "finetune",
                    finetuned(bench, network, method),
                )
            )
            for probe in config.probes:
                found.append(
                    Arm(
                        f"{method}-{network}-{probe}",
                        f"{start}, frozen, {probe} probe",
                        "ssl",
                        network,
                        probe,
                        probed(bench, network, method, probe),
                    )
                )
        found.append(
            Arm(
                f"{network}-supervised",
                f"{network} from scratch",
                "supervised",
                network,
                "scratch",
                from_scratch(bench, backbone, config.scratch),
            )
        )
    if config.convnet is not None:
        convnet = BackboneConfig("resnet18")
        found.append(
            Arm(
                "resnet18-supervised",
                "ResNet-18 from scratch",
                "baseline",
                "resnet18",
                "scratch",
                from_scratch(bench, convnet, config.convnet),
            )
        )
    for name in config.baselines:
        if name not in BASELINES:
            raise UserError(f"baselines: no baseline is named {name!r}; choose of {', '.join(BASELINES)}")
        found.append(
            Arm(
                name.replace("_", "-"),
                BASELINE_TITLES.get(name, name),
                "baseline",
                "",
                "baseline",
                baseline(bench, name),
            )
        )
    return found


def _window(views: ViewsConfig, bench: Bench) -> tuple[int | None, int | None]:
    resolved = resolve_views(views, bench.cutouts.size)
    return resolved.crop, resolved.image_size


def pairs(everyone: Sequence[Arm]) -> list[tuple[str, str]]:
    """Which arms are compared: each way of using a pretrained network with the same network from scratch, and with
    each baseline."""
    baselines = [arm.name for arm in everyone if arm.kind == "baseline"]
    return [
        (arm.name, reference)
        for arm in everyone
        if arm.kind == "ssl"
        for reference in [f"{arm.backbone}-supervised", *baselines]
    ]
