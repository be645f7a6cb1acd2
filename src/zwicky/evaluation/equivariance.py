"""Equivariance error: how much the output of a network changes when a cutout is rotated or mirrored."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zwicky import d4
from zwicky.augment.views import transform_targets
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.io import write_table
from zwicky.rng import numpy_rng
from zwicky.training.network import Network, load_network

EXACT = 1e-4  # float32 rounding of a deep network is well below, any real dependence far above


def equivariance_error(network: Network, images: np.ndarray) -> pd.DataFrame:
    """Measure the equivariance error on raw square images [N, bands, S, S], N ≥ 2, one view at a time.

    Returns:
        One row per element of D4: element; features, the largest change of a feature in standard deviations; distance,
        the mean distance of a cutout's features from those of the transformed cutout, over that of two cutouts;
        after_cropping, as features where only the window the network sees is transformed. With a head: outputs, the
        largest change of a probability, or of a regressed value (transformed back) in standard deviations; for classes
        also changed, the share of cutouts that change class.
    """
    side = images.shape[3]
    if len(images) < 2 or images.shape[2] != side:
        raise UserError(
            f"verify: needs two square cutouts or more, not {len(images)} of {side} × {images.shape[2]} px; "
            "take another store"
        )
    raw = _elements(images)
    features = [network.features(element, turns=False) for element in raw]
    crop = network.views.crop or side
    window = slice((side - crop) // 2, (side - crop) // 2 + crop)
    cropped = [network.features(element, turns=False) for element in _elements(images[:, :, window, window])]
    between = np.linalg.norm(features[0][:, None] - features[0], axis=2).sum() / (len(images) * (len(images) - 1))
    table = pd.DataFrame({"element": d4.ELEMENTS})
    table["features"] = _largest_change(features)
    table["distance"] = [float(np.linalg.norm(f - features[0], axis=1).mean() / between) for f in features]
    table["after_cropping"] = _largest_change(cropped)
    if network.classes:
        outputs = [network.probabilities(element, turns=False) for element in raw]
        table["outputs"] = [float(np.abs(output - outputs[0]).max()) for output in outputs]
        table["changed"] = [float(np.mean(output.argmax(1) != outputs[0].argmax(1))) for output in outputs]
    elif network.targets:
        outputs = [network.outputs(element, turns=False) for element in raw]
        upright = torch.from_numpy(outputs[0])
        maps = [d4.to_source(g).expand(len(images), 2, 3) for g in range(d4.ORDER)]
        expected = [transform_targets(upright, network.targets, to_source).numpy() for to_source in maps]
        changes = [np.abs(output - wanted).max() for output, wanted in zip(outputs, expected, strict=True)]
        table["outputs"] = np.array(changes) / outputs[0].astype(np.float64).std(axis=0, ddof=1).max()
    return table


def verify(run: Path, cutouts: Cutouts, count: int = 64, seed: int = 0, out: Path | None = None) -> pd.DataFrame:
    """Measure on `count` random cutouts; write equivariance.csv into `out`, by default the run (`zwicky verify`)."""
    if seed < 0:
        raise UserError(f"verify: the seed is {seed}; choose 0 or more")
    network = load_network(run)
    network.check(cutouts)
    rows = numpy_rng(seed).permutation(len(cutouts.images))[:count]
    table = equivariance_error(network, cutouts.images[np.sort(rows)])
    write_table((out or run) / "equivariance.csv", table)
    return table


def equivariance_text(table: pd.DataFrame) -> str:
    """Explain the table of `equivariance_error` in a few sentences."""
    largest, typical = table["features"].max(), table["distance"][1:].mean()
    if largest < EXACT:
        text = f"Exactly invariant up to float32 rounding (largest change {largest:.1e} standard deviations)."
    elif table["after_cropping"].max() < EXACT:
        text = (
            "The network is exactly invariant, its window is not: cutout and window differ by an odd number of pixels, "
            "so the window is half a pixel off the centre and a transformed cutout shows it other pixels (features "
            f"change by {typical:.0%} of the distance between two cutouts). Choose a views.crop that differs by an "
            "even number."
        )
    else:
        text = (
            f"Not invariant: features change by {typical:.0%} of the distance between two cutouts (largest change "
            f"{largest:.2g} standard deviations). zwicky averages over the eight views at test time, which makes the "
            "output invariant at eight times the cost; d4_vit and d4_swin are invariant by construction."
        )
    if "changed" in table:
        share = table["changed"].max()
        classes = f"up to {share:.1%} of the cutouts change class" if share else "no cutout changes class"
        text += f" Class probabilities change by at most {table['outputs'].max():.1e}; {classes}."
    elif "outputs" in table:
        text += f" Predictions are equivariant up to {table['outputs'].max():.1e} standard deviations."
    return text


def _elements(images: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(element) for element in d4.apply(torch.from_numpy(images.astype(np.float32)))]


def _largest_change(features: list[np.ndarray]) -> list[float]:
    return [float(np.abs(f - features[0]).max() / features[0].std()) for f in features]
