"""The arms of a benchmark: what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.errors import UserError
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.learners import Bench, Learner, baseline, finetuned, from_scratch, one_view, probed

BASELINE_TITLES = {
    "pca_logistic": "PCA + logistic regression",
    "pca_boosting": "PCA + boosted trees",
    "radial_colour": "radial colours + logistic regression",
}
METHOD_TITLES = {
    "dino": "DINO",
    "ibot": "iBOT",
    "esvit": "EsViT",
    "simsiam": "SimSiam",
    "byol": "BYOL",
    "simmim": "SimMIM",
    "beit": "BEiT",
    "mae": "MAE",
    "lejepa": "LeJEPA",
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
    method: str = ""  # the method's short name in the recipe
    fitted: bool = False  # whether a network learns from the labels, rather than something on top of its features


def arms(bench: Bench) -> list[Arm]:
    """All arms of a benchmark, self-supervised ones first."""
    config, found = bench.config, []
    _check(bench)
    for network, backbone in config.backbones.items():
        for method, options in config.methods.items():
            if options.networks and network not in options.networks:
                continue
            start = f"{_title(method, options.method.name)} pretraining, {network}"
            name = f"{method}-{network}"
            learn = finetuned(bench, network, method)
            found += _fits(
                bench, Arm(f"{name}-finetune", f"{start}, fine-tuned", "ssl", network, "finetune", learn, method, True)
            )
            for probe in config.probes:
                title = f"{start}, frozen, {probe} probe"
                learn = probed(bench, network, method, probe)
                found.append(Arm(f"{name}-{probe}", title, "ssl", network, probe, learn, method))
        learn = from_scratch(bench, backbone, config.scratch)
        title = f"{network} from {'its weights' if backbone.pretrained else 'scratch'}"
        found += _fits(bench, Arm(f"{network}-supervised", title, "supervised", network, "scratch", learn, fitted=True))
    if config.convnet is not None:
        learn = from_scratch(bench, BackboneConfig("resnet18"), config.convnet)
        title = "ResNet-18 from scratch"
        found.append(Arm("resnet18-supervised", title, "baseline", "resnet18", "scratch", learn, fitted=True))
    for name in config.baselines:
        title = BASELINE_TITLES.get(name, name)
        found.append(Arm(name.replace("_", "-"), title, "baseline", "", "baseline", baseline(bench, name)))
    return found


def _fits(bench: Bench, arm: Arm) -> list[Arm]:
    """The arm, and beside it the same fits tested on upright images alone, where that is asked for."""
    if not bench.config.one_view:
        return [arm]
    name, title, protocol = f"{arm.name}-one-view", f"{arm.title}, one view", f"{arm.protocol}, one view"
    return [arm, replace(arm, name=name, title=title, protocol=protocol, learn=one_view(bench, arm.name))]


def _title(method: str, kind: str) -> str:
    known = METHOD_TITLES.get(kind, kind)
    return known if method == kind else f"{known} ({method})"


def _check(bench: Bench) -> None:
    """Refuse a recipe whose parts do not fit together."""
    config = bench.config
    window = _window(config.label_views, bench)
    for method, options in config.methods.items():
        if _window(options.views, bench) != window:
            raise UserError(
                f"methods.{method}.views shows the networks {_window(options.views, bench)} (crop, image_size) but "
                f"label_views {window}; give both the same, or networks from scratch would see other images"
            )
        for network in options.networks:
            if network not in config.backbones:
                raise UserError(
                    f"methods.{method}.networks: no network is called {network!r}; "
                    f"choose of {', '.join(config.backbones)}"
                )
    if config.compare_with and config.compare_with not in config.backbones:
        raise UserError(
            f"compare_with: no network is called {config.compare_with!r}; choose of {', '.join(config.backbones)}"
        )
    if not set(config.fit_labels) <= set(config.labels):
        raise UserError(f"fit_labels: {config.fit_labels} are not all among labels {config.labels}; add them there")
    for name in config.baselines:
        if name not in BASELINES:
            raise UserError(f"baselines: no baseline is named {name!r}; choose of {', '.join(BASELINES)}")


def _window(views: ViewsConfig, bench: Bench) -> tuple[int | None, int | None]:
    resolved = views.resolved(bench.cutouts.size)
    return resolved.crop, resolved.image_size


def pairs(everyone: Sequence[Arm], compare_with: str = "") -> list[tuple[str, str]]:
    """Which arms are compared.

    Each way of using a pretrained network with the same network from scratch, and with each baseline; and every arm
    with the arm of the network `compare_with` that learnt in the same way.
    """
    references = [arm.name for arm in everyone if arm.kind == "baseline"]
    names = {arm.name for arm in everyone}
    found = []
    for arm in everyone:
        if arm.kind == "ssl":
            scratch = f"{arm.backbone}-supervised" + ("-one-view" if "one view" in arm.protocol else "")
            found += [(arm.name, reference) for reference in [scratch, *references] if reference in names]
    for arm in everyone:
        if compare_with and arm.backbone and arm.backbone != compare_with and arm.kind != "baseline":
            found += [
                (arm.name, other.name)
                for other in everyone
                if other.backbone == compare_with and (other.method, other.protocol) == (arm.method, arm.protocol)
            ]
    return found
