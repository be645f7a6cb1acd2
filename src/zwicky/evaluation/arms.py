"""The arms of a benchmark: ways of training that are compared with each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from zwicky.errors import UserError
from zwicky.evaluation.baselines import BASELINES
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.training.self_training import check_self_training

METHODS = "DINO iBOT EsViT SimSiam BYOL SimMIM BEiT MAE LeJEPA".split()
PROBE_TITLES = {"linear": "linear probe", "knn": "knn probe", "blocks": "linear probe of all blocks"}
CONVNET = "resnet18"


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    method: str  # short name of the pretraining in the recipe, or of the baseline; empty for a network from scratch
    backbone: str  # short name of the network in the recipe; empty for a baseline on pixels
    protocol: Literal["finetune", "self_training", "linear", "knn", "blocks", "scratch", "baseline"]
    kind: Literal["ssl", "semi", "supervised", "baseline"]  # semi: self-trained, without any pretraining
    title: str
    tta: bool = True  # whether it is tested with test-time augmentation, the mean over the eight views of D4

    @property
    def name(self) -> str:
        """Short unique name, e.g. `dino-vit-finetune`."""
        if self.protocol == "baseline":
            return self.method.replace("_", "-")
        protocol = {"scratch": "supervised", "self_training": "self-training"}.get(self.protocol, self.protocol)
        return "-".join(filter(None, [self.method, self.backbone, protocol, "" if self.tta else "no-tta"]))

    @property
    def trains_network(self) -> bool:
        """Whether a network is trained on the labels, rather than a classifier on top of its features."""
        return self.protocol in ("finetune", "self_training", "scratch")

    @property
    def is_finetuned(self) -> bool:
        """Whether it is a pretrained network fine-tuned on the labels, tested with test-time augmentation."""
        return self.kind == "ssl" and self.protocol == "finetune" and self.tta

    @property
    def features(self) -> str:
        """The method of `Network` that computes the frozen features of a probe."""
        return "block_features" if self.protocol == "blocks" else "features"

    @property
    def teacher(self) -> "Arm":
        """The arm whose networks label the images that a self-trained arm learns from."""
        if self.kind == "ssl":
            return replace(self, protocol="finetune", tta=True)
        return replace(self, protocol="scratch", kind="supervised", tta=True)


def make_arms(config: BenchmarkConfig) -> list[Arm]:
    """Return all arms of a benchmark, self-supervised ones first."""
    arms = []
    for network, backbone in config.backbones.items():
        for method, options in config.methods.items():
            if options.networks and network not in options.networks:
                continue
            title = next((title for title in METHODS if title.lower() == options.method.name), options.method.name)
            title += f"{'' if method == options.method.name else f' ({method})'} pretraining"
            title = f"{f'{options.weights} weights' if options.weights else title}, {network}"
            arms.append(Arm(method, network, "finetune", "ssl", f"{title}, fine-tuned"))
            if network in config.self_training:
                arms.append(Arm(method, network, "self_training", "ssl", f"{title}, fine-tuned, self-trained"))
            arms += [
                Arm(method, network, probe, "ssl", f"{title}, frozen, {PROBE_TITLES[probe]}") for probe in config.probes
            ]
        source = "its weights" if backbone.pretrained else "scratch"
        arms.append(Arm("", network, "scratch", "supervised", f"{network} from {source}"))
        if network in config.self_training:
            arms.append(Arm("", network, "self_training", "semi", f"{network} from {source}, self-trained"))
    if config.without_tta:
        single = {a: replace(a, tta=False, title=f"{a.title}, without TTA") for a in arms if a.trains_network}
        arms = [one for arm in arms for one in (arm, single.get(arm)) if one is not None]
    if config.convnet is not None:
        arms.append(Arm("", CONVNET, "scratch", "baseline", "ResNet-18 from scratch"))
    model = "ridge" if config.targets else "logistic"
    titles = {
        "pca_linear": f"PCA + {model} regression",
        "pca_boosting": "PCA + boosted trees",
        "radial_colour": f"radial colours + {model} regression",
        "modes": f"radial × azimuthal modes + {model} regression",
    }
    return arms + [Arm(name, "", "baseline", "baseline", titles[name]) for name in config.baselines]


def compared_arms(arms: Sequence[Arm], compare_with: str = "") -> list[tuple[str, str]]:
    """Return the pairs (arm, reference) to compare.

    Each use of a pretrained network and of images without labels with the same network from scratch, and with each
    baseline; each self-trained network with its teacher and, where both were self-trained, with the one from scratch;
    and every arm with the arm of the network `compare_with` that was trained in the same way.
    """
    baselines = [arm.name for arm in arms if arm.kind == "baseline"]
    pairs = []
    for arm in (arm for arm in arms if arm.kind in ("ssl", "semi")):
        is_student = arm.protocol == "self_training"
        kinds = ("supervised", "semi") if is_student and arm.kind == "ssl" else ("supervised",)
        scratch = [a.name for a in arms if a.kind in kinds and (a.backbone, a.tta) == (arm.backbone, arm.tta)]
        teacher = [replace(arm.teacher, tta=arm.tta).name] if is_student else []
        pairs += [(arm.name, reference) for reference in dict.fromkeys([*scratch, *teacher, *baselines])]
    networks = [arm for arm in arms if arm.kind != "baseline"]
    for arm in networks:
        same = [a.name for a in networks if a == replace(arm, backbone=compare_with, title=a.title)]
        pairs += [(arm.name, reference) for reference in same if arm.backbone != compare_with]
    return pairs


def check_recipe(config: BenchmarkConfig, size: tuple[int, int]) -> None:
    """Raise UserError unless the parts of a recipe fit together, for images of `size` (H, W)."""
    window = config.label_views.window(size)
    for method, options in config.methods.items():
        if options.views.window(size) != window:
            raise UserError(
                f"methods.{method}.views shows the networks {options.views.window(size)} (crop, image_size) but "
                f"label_views {window}; give both the same, or networks from scratch would see other images"
            )
    networks = {f"methods.{method}.networks": options.networks for method, options in config.methods.items()}
    networks["self_training"] = config.self_training
    networks["compare_with"] = [config.compare_with] if config.compare_with else []
    for setting, names in networks.items():
        for name in set(names) - set(config.backbones):
            raise UserError(f"{setting}: no network is called {name!r}; choose of {', '.join(config.backbones)}")
    for name, backbone in config.backbones.items():
        if config.correspondence and (centre := backbone.options.get("centre", "frame")) != "frame":
            raise UserError(
                f"correspondence: the patches of {name} lie about the {centre} of each image, so that regions of two "
                "views cannot be matched; set correspondence 0 or the network's centre frame"
            )
    if config.finetune_best and not config.finetune.select:
        raise UserError("finetune_best chooses by the labels for selection; set finetune.select, such as 0.2")
    for name, fit in {"scratch": config.scratch, "convnet": config.convnet}.items():
        if fit is not None and (fit.select, fit.select_most) != (config.finetune.select, config.finetune.select_most):
            raise UserError(f"{name}.select and select_most differ from those of finetune; all arms share their labels")
    for fit in (config.finetune, config.scratch) if config.self_training else ():
        check_self_training(fit, bool(config.targets))
    if not set(config.fit_labels) <= set(config.labels):
        raise UserError(f"fit_labels: {config.fit_labels} are not all among labels {config.labels}; add them there")
    for name in set(config.baselines) - set(BASELINES):
        raise UserError(f"baselines: no baseline is named {name!r}; choose of {', '.join(BASELINES)}")
    arms = [arm.name for arm in make_arms(config)]
    if twice := sorted({name for name in arms if arms.count(name) > 1}):
        raise UserError(f"two arms would both be called {twice[0]!r}; give a method or backbone another short name")
