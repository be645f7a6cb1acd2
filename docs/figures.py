"""Draw what the losses compare, each after a short training on simulated lenses.

`python docs/figures.py [NAME ...] [--out FOLDER]` writes docs/images/loss-NAME.png, by default of all names.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Polygon
from scipy.stats import norm
from torch import Tensor

import zwicky
from zwicky import backbones, methods
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment, Views
from zwicky.backbones.heads import unpatchify
from zwicky.evaluation.correspondence import informative, match_regions, partners
from zwicky.methods import losses
from zwicky.methods.base import Method
from zwicky.methods.lejepa import sigreg
from zwicky.methods.masked import normalise_patches, patchify
from zwicky.methods.siamese import project

SMOKE = "ZWICKY_SMOKE" in os.environ
COUNT, STEPS, BATCH = (80, 2, 32) if SMOKE else (600, 120, 32)
PROTOTYPES = 32
HEAD = {"prototypes": PROTOTYPES, "hidden": 128, "bottleneck": 64, "batch_norm": True, "momentum": 0.99}
SQUARE = ("hybrid_vit", {"patch_size": 4, "stem": (32, 64), "width": 96})
CROPS = ViewsConfig(crop=32, local_crops=2, local_size=16, blur=0.0, noise=0.0)
WHOLE = ViewsConfig(crop=32, global_scale=(1.0, 1.0), local_crops=0, brightness=0.0, contrast=0.0, blur=0.0, noise=0.0)


class Trainer:
    """Simulated lenses and look-alikes, and short trainings on them."""

    def __init__(self) -> None:
        self.cutouts, _ = zwicky.simulate_population("demo-lenses", COUNT, seed=4)
        self.normalisation = Normalisation.fit(self.cutouts.images, self.cutouts.bands)
        radius, magnitude = self.cutouts.numbers(["theta_E", "arc_mag_g"]).T
        bright = np.argsort(np.where(radius > 1.4, magnitude, np.inf))  # wide rings, the brightest first
        self.rows = np.r_[bright[:1], np.setdiff1d(np.arange(COUNT), bright[:1])]

    def views(self, method: Method, config: ViewsConfig, rows: np.ndarray, step: int) -> Views:
        """Cut the views that the method needs."""
        augment = Augment(config, self.normalisation, self.cutouts.size, self.cutouts.bands, method.needs)
        return augment(torch.from_numpy(self.cutouts.images[rows]), torch.from_numpy(rows), seed=1, step=step)

    @torch.enable_grad()
    def train(self, name: str, config: ViewsConfig, steps: int = STEPS, network: tuple = SQUARE, **given) -> Method:
        """Train a method for a few hundred steps."""
        torch.manual_seed(0)
        backbone = backbones.create(network[0], bands=3, image_size=32, **network[1])
        method = methods.create(name, backbone, **given)
        if method.needs.preview:
            method.prepare(self.views(method, config, self.rows[: method.needs.preview], 0))
        parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, max(steps, 1))
        rng = np.random.default_rng(0)
        for step in range(steps):
            views = self.views(method, config, rng.choice(self.rows, BATCH, replace=False), step)
            optimiser.zero_grad()
            method(views)["loss"].backward()
            method.before_step()
            torch.nn.utils.clip_grad_norm_(parameters, 3.0)
            optimiser.step()
            schedule.step()
            method.after_step((step + 1) / steps)
        return method.eval()


def show(axis: Axes, image: Tensor, title: str, like: Tensor | None = None, mask: Tensor | None = None) -> None:
    """Draw an image [bands, h, w] on the scale of `like`; cells of `mask` [h', w'] are grey."""
    low, high = (image if like is None else like).quantile(torch.tensor([0.02, 0.995])).tolist()
    picture = ((image.flip(0) - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy().copy()
    if mask is not None:
        cell = picture.shape[0] // mask.shape[0], picture.shape[1] // mask.shape[1]
        picture[mask.numpy().repeat(cell[0], 0).repeat(cell[1], 1)] = 0.55
    axis.imshow(picture, origin="lower")
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])


def bars(axis: Axes, values: Tensor, title: str, colour: str, limit: float | None = None) -> None:
    """Draw a distribution over the prototypes."""
    axis.bar(np.arange(len(values)), values.numpy(), 1.0, color=colour)
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], ylim=limit and (0, limit))
    axis.set_xlabel("prototypes", fontsize=8)
    axis.tick_params(labelsize=7)


@torch.no_grad()
def dino(trainer: Trainer) -> Figure:
    """Crops, and the distributions that the loss compares."""
    method = trainer.train("dino", CROPS, **HEAD)
    views = trainer.views(method, CROPS, trainer.rows[:BATCH], 3)
    t = method.teacher["head"](method.teacher["backbone"](views.crops[0]).pooled)
    s = method.student["head"](method.student["backbone"](views.crops[2]).pooled)
    p, temperature = method.center(t, method.teacher_temperature), method.student_temperature
    order = p[0].argsort(descending=True)

    figure, axes = plt.subplots(2, 4, figsize=(7.2, 4.1), dpi=120, layout="constrained")
    source = trainer.normalisation(torch.from_numpy(trainer.cutouts.images[trainer.rows[:1]]))[0][0]
    show(axes[0, 0], source, "image, crops outlined")
    for number, (crop, place) in enumerate(zip(views.crops, views.to_source, strict=True)):
        side, colour = crop.shape[-1] - 0.5, f"C{number + (number > 1)}"
        corners = torch.tensor([[-0.5, -0.5, 1], [side, -0.5, 1], [side, side, 1], [-0.5, side, 1]])
        axes[0, 0].add_patch(Polygon((corners @ place[0].T).numpy(), fill=False, color=colour, linewidth=1.5))
        if number < 3:
            show(axes[0, 1 + number], crop[0], ("a global crop", "the other global crop", "a local crop")[number])
            plt.setp(axes[0, 1 + number].spines.values(), color=colour, linewidth=2.5)
    raw = (t[0, order] / temperature).softmax(0)
    bars(axes[1, 0], t[0, order], "logits t, centre c (line)", "C0")
    axes[1, 0].step(np.arange(PROTOTYPES), method.center.value[order], where="mid", color="black", linewidth=1)
    bars(axes[1, 1], raw, r"softmax(t / $\tau_s$)", "C0", 1)
    bars(axes[1, 2], p[0, order], r"p = softmax((t − c) / $\tau_t$)", "C0", 1)
    entropy = losses.cross_entropy(s[:1], p[:1], temperature).item()
    bars(axes[1, 3], (s[0, order] / temperature).softmax(0), f"student, local: H = {entropy:.2f}", "C3", 1)
    return figure


@torch.no_grad()
def ibot(trainer: Trainer) -> Figure:
    """The masked crop, and the distributions of its masked patches."""
    method = trainer.train("ibot", CROPS, **HEAD)
    views, step = trainer.views(method, CROPS, trainer.rows[:BATCH], 0), 0
    while views.masks[0][0].sum() < 20:
        step += 1
        views = trainer.views(method, CROPS, trainer.rows[:BATCH], step)
    crop, mask = views.crops[0], views.masks[0]
    t = method.teacher["head"](method.teacher["backbone"](crop).patch_tokens.flatten(0, 2))
    s = method.student["head"](method.student["backbone"](crop, mask=mask).patch_tokens.flatten(0, 2))
    hidden = mask.flatten().nonzero()[: int(mask[0].sum()), 0]
    p = method.region_center(t[hidden], method.teacher_temperature)
    order, rows = p.mean(0).argsort(descending=True), p.argmax(1).argsort()
    figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.2), dpi=120, layout="constrained")
    show(axes[0], crop[0], "the teacher sees")
    show(axes[1], crop[0], "the student sees", mask=mask[0])
    entropy = losses.cross_entropy(s[hidden], p, method.student_temperature).mean()
    students = (s[hidden] / method.student_temperature).softmax(1)
    for axis, values, title in zip(axes[2:], (p, students), ("teacher", f"student, H = {entropy:.2f}"), strict=True):
        axis.imshow(values[rows][:, order], aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set_title(title, fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel("prototypes", fontsize=8)
    axes[2].set_ylabel("masked patches", fontsize=8)
    return figure


@torch.no_grad()
def esvit(trainer: Trainer) -> Figure:
    """Regions of one view and the most similar ones of the other."""
    method = trainer.train("esvit", CROPS, region_weight=0.1, **HEAD)
    views = trainer.views(method, CROPS, trainer.rows[:BATCH], 5)
    backbone, (first, second) = method.backbone, views.crops[:2]
    match = match_regions(backbone, (first, second))[0]
    partner = partners(views.to_source[0], views.to_source[1], backbone, 32)[0]
    grid = backbone.grid(32)
    stand_out = informative(first, grid)[0] & (partner >= 0)
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.6), dpi=120, layout="constrained")
    for axis, crop, title in zip(axes, (first, second), ("student's view", "teacher's view"), strict=False):
        show(axis, crop[0], title)
        axis.set(xticks=np.arange(0, 32, 4) - 0.5, yticks=np.arange(0, 32, 4) - 0.5)
        axis.tick_params(length=0, labelbottom=False, labelleft=False)
        axis.grid(color="white", linewidth=0.3)
    centres = backbone.patch_centres(32).flatten(0, 1).numpy()
    for region in stand_out.nonzero()[::3, 0].tolist():
        right = match[region] == partner[region]
        look = {"color": "lime" if right else "red", "linestyle": "-" if right else "--", "linewidth": 0.9}
        ends = {"xyA": centres[region], "xyB": centres[match[region]], "coordsA": "data", "coordsB": "data"}
        figure.add_artist(ConnectionPatch(axesA=axes[0], axesB=axes[1], **ends, **look))
    features = [F.normalize(backbone(crop[:1]).patch_tokens.flatten(1, 2)[0], dim=-1) for crop in (first, second)]
    region = int(stand_out.nonzero()[len(stand_out.nonzero()) // 2, 0])
    picture = axes[2].imshow((features[0][region] @ features[1].T).unflatten(0, grid), origin="lower", cmap="viridis")
    axes[0].plot(*centres[region], "wo", markersize=7, markerfacecolor="none", markeredgewidth=1.5)
    for index, marker, name in ((match[region], "*", "j*"), (partner[region], "o", "same place")):
        place = int(index) % grid[1], int(index) // grid[1]
        axes[2].plot(*place, marker, color="red", markerfacecolor="none", markersize=11, label=name, linestyle="")
    axes[2].legend(fontsize=7, loc="upper right")
    axes[2].set_title("cosine with the circled region", fontsize=8)
    axes[2].set(xticks=[], yticks=[])
    figure.colorbar(picture, ax=axes[2], shrink=0.8).ax.tick_params(labelsize=7)
    return figure


@torch.no_grad()
def siamese(trainer: Trainer) -> Figure:
    """Two views, a prediction and its target, and how well they fit before and after training."""
    config = replace(CROPS, local_crops=0)
    figure, axes = plt.subplots(2, 4, figsize=(7.2, 3.9), dpi=120, layout="constrained", width_ratios=(1, 1, 1.5, 1.5))
    for row, name, labels, options in (
        (axes[0], "simsiam", ("h(f(view 1)), gradient", "f(view 2), stop-gradient"), {"width": 128, "bottleneck": 32}),
        (axes[1], "byol", ("q(z), gradient", "z' of the teacher"), {"width": 128, "hidden": 256, "momentum": 0.99}),
    ):
        for steps, look in ((0, {"histtype": "step", "linestyle": "--"}), (STEPS, {"alpha": 0.6})):
            method = trainer.train(name, config, steps, **options)
            views = trainer.views(method, config, trainer.rows[:BATCH], 2)
            if name == "simsiam":
                student = target = project(method.encoder, method.projector, views)
            else:
                student, target = (project(*each.values(), views) for each in (method.student, method.teacher))
            p, z = F.normalize(method.predictor(student[0]), dim=1), F.normalize(target[1], dim=1)
            cosine, same = p @ z.T, torch.eye(BATCH, dtype=torch.bool)
            for each, colour, whose in ((cosine[same], "C2", "same image"), (cosine[~same], "C3", "other image")):
                label = f"{'trained' if steps else 'untrained'}, {whose}"
                row[3].hist(each, np.linspace(-1, 1, 41), density=True, color=colour, label=label, **look)
        show(row[0], views.crops[0][0], f"{name}: view 1")
        show(row[1], views.crops[1][0], "view 2")
        row[2].plot(p[0, :40], color="C0", label=labels[0])
        row[2].plot(z[0, :40], color="black", label=labels[1], linewidth=0.8)
        row[2].set_title(f"unit vectors, cosine {cosine[0, 0]:.2f}", fontsize=8)
        row[2].set_xlabel("first 40 dimensions", fontsize=8)
        row[3].set_title("cosine of prediction and target", fontsize=8)
        row[3].set(yticks=[])
        for axis in row[2:]:
            axis.legend(fontsize=6)
            axis.tick_params(labelsize=7)
    return figure


@torch.no_grad()
def lejepa(trainer: Trainer) -> Figure:
    """Embeddings before and after training: in a plane, along a direction, and their characteristic function."""
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.4), dpi=120, layout="constrained")
    t = torch.linspace(0, 3, 31)
    for row, steps in zip(axes, (0, STEPS), strict=True):
        method = trainer.train("lejepa", CROPS, steps, hidden=256)
        views = trainer.views(method, CROPS, trainer.rows[:512], 1)
        z = method.projector(method.encoder(views.crops[0]).pooled)
        directions = F.normalize(torch.randn(z.shape[1], 256, generator=torch.Generator().manual_seed(0)), dim=0)
        along = z @ directions[:, 0]
        row[0].plot(*z[:, :2].T, ".", markersize=3)
        for radius in (1, 2):
            row[0].add_patch(plt.Circle((0, 0), radius, fill=False, color="black", linestyle=":"))
        row[0].set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
        row[0].set_xlabel("$z_1$", fontsize=8)
        row[0].set_ylabel("$z_2$", fontsize=8)
        row[1].hist(along, np.linspace(-4, 4, 41), density=True, alpha=0.6)
        x = np.linspace(-4, 4, 200)
        row[1].plot(x, norm.pdf(x), color="black", linewidth=1)
        row[1].set_xlabel("a · z along one direction a", fontsize=8)
        angles = along[:, None] * t
        row[2].plot(t, angles.cos().mean(0), label="E cos(t a·z)")
        row[2].plot(t, angles.sin().mean(0), label="E sin(t a·z)")
        row[2].plot(t, torch.exp(-(t**2) / 2), color="black", linewidth=1, label="of a normal: exp(−t²/2), 0")
        row[2].axhline(0, color="black", linewidth=1)
        row[2].set_xlabel("t", fontsize=8)
        row[2].legend(fontsize=6.5)
        mean = sigreg(z[None], directions).item() / len(z)
        row[0].set_title(f"{'after training' if steps else 'untrained'}: SIGReg / N = {mean:.3f}", fontsize=8)
        for axis in row:
            axis.tick_params(labelsize=7)
    return figure


def joined(patches: Tensor, cell: tuple[int, int]) -> Tensor:
    """Return the first image [3, H, W] of patches [B, h, w, pixels] of this size."""
    return unpatchify(patches.unflatten(3, (3, *cell)))[0]


@torch.no_grad()
def masked(trainer: Trainer) -> Figure:
    """What is hidden, predicted and true for SimMIM on squares and on polar cells, MAE and BEiT."""
    figure, axes = plt.subplots(4, 4, figsize=(7.2, 7.6), dpi=120, layout="constrained")
    patches = ("vit_tiny", {"patch_size": 4, "width": 96, "depth": 4, "heads": 2, "pool": "mean"})
    rows = (
        ("SimMIM: sees", "fills in", "truth x", "|y − x|"),
        ("SimMIM, polar: sees", "the same by angle, radius", "fills in", "truth x"),
        ("MAE: encodes", "fills in, normalised", "target x̄", "|y − x̄|"),
        ("BEiT: sees", "fills in tokens", "tokens of the truth", "wrong tokens"),
    )
    networks = (("simmim", SQUARE), ("simmim", ("polar_vit", {})), ("mae", patches), ("beit", SQUARE))
    for row, titles, (name, network) in zip(axes, rows, networks, strict=True):
        method = trainer.train(name, WHOLE, 2 * STEPS, network, **({"tokens": 64} if name == "beit" else {}))
        views = trainer.views(method, WHOLE, trainer.rows[:BATCH], 2)
        mask, (x, valid), crop, encoder = views.masks[0], method.patches(views), views.crops[0], method.encoder
        canvas = encoder.canvas(crop)
        cell = canvas.shape[2] // mask.shape[1], canvas.shape[3] // mask.shape[2]
        hidden = mask[..., None]
        if name == "simmim":
            y = patchify(method.decoder(encoder(crop, mask=mask)), method.grid)
        elif name == "mae":
            visible = (~mask).flatten(1).nonzero()[:, 1].unflatten(0, (len(x), -1))
            y, x = (
                method.decoder(encoder.visible(crop, visible), visible),
                normalise_patches(x, valid, method.sky_variance),
            )
        else:
            tokens, predicted = method.tokenizer(x), method.head(encoder(crop, mask=mask).patch_tokens).argmax(-1)
            back = torch.linalg.pinv(method.tokenizer.whiten)
            x, y = (method.tokenizer.mean + method.tokenizer.centroids[each] @ back for each in (tokens, predicted))
        pictures = [joined(torch.where(hidden, y, x), cell), joined(x, cell)]
        if network[0] == "polar_vit":
            pixels = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy"), -1)
            region = encoder.patch_at(pixels.double(), 32)
            show(row[0], crop[0], titles[0], mask=mask[0].flatten()[region.clamp(min=0)] & (region >= 0))
            show(row[1], canvas[0], titles[1], mask=mask[0])
        else:
            show(row[0], crop[0], titles[0], mask=mask[0])
            error = (joined(y - x, cell).abs() * joined(hidden.expand_as(x), cell)).mean(0)
            row[3].imshow((error > 0.01).float() if name == "beit" else error, origin="lower", cmap="magma", vmin=0)
            row[3].set_title(titles[3], fontsize=8)
            row[3].set(xticks=[], yticks=[])
        first = 2 if network[0] == "polar_vit" else 1
        for axis, picture, title in zip(row[first:], pictures, titles[first:], strict=False):
            show(axis, picture, title, like=pictures[1])
        for axis in row[1:] if network[0] == "polar_vit" else ():
            axis.set_aspect("auto")
    return figure


FIGURES = {each.__name__: each for each in (dino, ibot, esvit, siamese, lejepa, masked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(FIGURES), metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images", help="folder (docs/images)")
    given, trainer = parser.parse_args(), Trainer()
    for name in given.names:
        FIGURES[name](trainer).savefig(given.out / f"loss-{name}.png")


if __name__ == "__main__":
    main()
