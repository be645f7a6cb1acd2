"""How much does a network's answer change when a cutout is turned or mirrored? Measured, and said in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zwicky import d4
from zwicky.augment.augment import eval_views
from zwicky.augment.views import transform_targets
from zwicky.d4 import ELEMENTS
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.io import write_csv
from zwicky.rng import numpy_rng
from zwicky.training.network import Network, load_network

EXACT = 1e-4  # float32 rounding of a deep network stays well below, any real dependence is far above


@dataclass(frozen=True)
class Equivariance:
    """Per element of D4, in the order of `ELEMENTS`, what the network makes of turned cutouts against the same upright.

    summary: largest difference of an entry over the standard deviation of the entries. distance: mean distance between
    the summaries of a cutout and of the same turned, over the mean distance between two cutouts. answers: as `summary`,
    of probabilities, or of regressed values turned back; empty without a head. changed: share of cutouts that change
    class. after_cropping: `summary` where only the window the network sees was turned, not the whole cutout.
    """

    summary: list[float]
    distance: list[float]
    after_cropping: list[float]
    answers: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    count: int = 0

    def text(self) -> str:
        """What it means."""
        worst, middle = max(self.summary), float(np.mean(self.distance[1:]))
        if worst < EXACT:
            said = (
                f"Exact: turned or mirrored, each of {self.count} cutouts gets the same summary to rounding "
                f"(largest difference {worst:.1e} of the spread, float32)."
            )
        elif max(self.after_cropping) < EXACT:
            said = (
                "The network is exact, its window is not: cutout and window differ by an odd number of pixels, so the "
                "window stands half a pixel off the centre, and a turned cutout shows it other pixels (summaries move "
                f"by {middle:.0%} of the distance between two). Take a views.crop that differs by an even number."
            )
        else:
            said = (
                f"Not invariant: turning or mirroring a cutout moves its summary by {middle:.0%} of the distance "
                f"between two cutouts (largest difference of an entry {worst:.2g} of the spread). zwicky evaluates the "
                "eight views and takes the mean, which makes the answer invariant at eight times the cost; d4_vit and "
                "d4_swin are so by construction."
            )
        if self.changed:
            most = max(self.changed)
            said += f" Class probabilities change by at most {max(self.answers):.1e}; "
            said += "no cutout changes class." if not most else f"up to {most:.1%} of the cutouts change class."
        elif self.answers:
            said += f" Predictions turn with the cutout up to {max(self.answers):.1e} of their spread."
        return said


def equivariance_error(network: Network, images: np.ndarray, batch_size: int = 64) -> Equivariance:
    """Measure on raw images [N, bands, H, W], square, N ≥ 2: float32, one view at a time."""
    if len(images) < 2 or images.shape[2] != images.shape[3]:
        raise UserError(
            f"verify: needs two square cutouts or more, not {len(images)} of {images.shape[3]} × {images.shape[2]} px; "
            "take another store"
        )
    raw = [np.ascontiguousarray(turned.numpy()) for turned in d4.apply(torch.from_numpy(np.ascontiguousarray(images)))]
    found = [_run(network, turned, batch_size) for turned in raw]
    cropped = [_run(network, images, batch_size, turn)[0] for turn in range(8)]
    summary, answers = [each[0] for each in found], [each[1] for each in found]
    upright = summary[0]
    apart = (upright[:, None] - upright[None]).norm(dim=2).sum() / (len(upright) * (len(upright) - 1))
    distance = [float((turned - upright).norm(dim=1).mean() / apart) for turned in summary]
    measured: list[float] = []
    changed: list[float] = []
    known = answers[0]
    if known is not None:
        for turn, seen in enumerate(answers):
            assert seen is not None
            expected = known
            if network.targets:
                to_source = d4.to_source(turn).expand(len(known), 2, 3)
                expected = transform_targets(known, network.targets, to_source)
            apart_by = float((seen - expected).abs().max())
            measured.append(apart_by / float(known.double().std(0).max()) if network.targets else apart_by)
            if network.classes:
                changed.append(float((seen.argmax(1) != known.argmax(1)).float().mean()))
    return Equivariance(_worst(summary), distance, _worst(cropped), measured, changed, len(images))


def verify(run: Path, cutouts: Cutouts, count: int = 64, seed: int = 0) -> Equivariance:
    """`zwicky verify RUN --data STORE`: measure on `count` cutouts drawn from a store; writes equivariance.csv."""
    if seed < 0:
        raise UserError(f"verify: the seed is {seed}; choose 0 or more")
    network = load_network(run)
    network.check(cutouts)
    rows = numpy_rng(seed).permutation(len(cutouts.images))[:count]
    found = equivariance_error(network, cutouts.images[np.sort(rows)])
    columns = ("summary", "distance", "after_cropping", "answers", "changed")
    write_csv(
        run / "equivariance.csv",
        [
            {"element": name, **{column: values[i] for column in columns if (values := getattr(found, column))}}
            for i, name in enumerate(ELEMENTS)
        ],
    )
    return found


def _worst(summaries: list[Tensor]) -> list[float]:
    upright = summaries[0]
    return [float((turned - upright).abs().max() / upright.std()) for turned in summaries]


@torch.inference_mode()
def _run(network: Network, images: np.ndarray, batch_size: int, turn: int = 0) -> tuple[Tensor, Tensor | None]:
    """(summaries [N, D], probabilities or predictions [N, columns] or None) in float32, `turn` applied to the crops."""
    where = next(network.backbone.parameters()).device
    backbone, head = network.backbone.eval(), None if network.head is None else network.head.eval()
    summaries, answers = [], []
    for start in range(0, len(images), batch_size):
        crops, _ = eval_views(
            torch.from_numpy(images[start : start + batch_size]).to(where), network.views, network.normalisation
        )
        crops = d4.apply(crops)[turn]
        summaries.append(backbone(crops, patch_tokens=False).pooled.float().cpu())
        if head is not None:
            outputs = backbone.predict(head, crops).float().cpu()
            if network.targets:
                outputs = network.scaler.inverse(outputs)
            else:
                outputs = (outputs / network.temperature).softmax(1)
            answers.append(outputs)
    return torch.cat(summaries), torch.cat(answers) if answers else None
