"""Region correspondence: the share of regions that a network matches to the right place.

Two views of an object are cut with known rotations, mirrors, shifts and zooms. Each region of the first is matched to
the region of the second whose feature is most similar (cosine), as in EsViT (Li et al. 2022). It is right where that
region holds the point of the sky at the first one's centre, which `Views.to_source` tells. A region whose centre the
second view does not show counts for nothing, nor does one without valid pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zwicky import backbones
from zwicky.augment.augment import Augment
from zwicky.augment.config import ViewsConfig
from zwicky.backbones.base import Backbone
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.rng import numpy_rng, seed_torch
from zwicky.training.network import Network

SCALE = (0.5, 1.0)  # share of the window's area a view shows: the same for all networks, whatever their pretraining saw
REACHES = {"exact": 0, "near": 1}  # cells by which a match may be off, along either axis
BATCH = 128
REPLICATES = 1000
PICTURES = 3  # objects whose views are kept for the page
VALID = 0.5  # share of valid pixels a region needs


@dataclass(frozen=True)
class Pair:
    """Two views of each of B objects, T regions a view.

    crops: two [B, bands, s, s]. partner: [B, T] the region of the second view that holds the centre of each region of
    the first, −1 where none does. informative: [B, T] bool, regions of the first view that stand out of its sky.
    """

    crops: tuple[Tensor, Tensor]
    partner: Tensor
    informative: Tensor


@dataclass(frozen=True)
class Correspondence:
    """row: numbers of one network for `correspondence.csv`. arrays: what `correspondence.npz` keeps.

    exact, near, exact_untrained, near_untrained, counted and the same after `informative_`: [N] regions an object.
    Of the first few objects: ids, crops [S, 2, bands, s, s] uint8, match and partner [S, T] int32, informative [S, T]
    bool, and attention [S, 2, h, w] float32, the mean over heads, where the backbone has any.
    """

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]


def correspondence(
    network: Network, cutouts: Cutouts, rows: np.ndarray, views: ViewsConfig, seed: int = 0
) -> Correspondence:
    """Measure a network, and an untrained one of its architecture, on two views of each of `rows`.

    views: window, rotation, mirror and shift of both views; its zoom and photometric changes are not used.
    """
    nets = {"": network.backbone, "_untrained": untrained(network.backbone, seed)}
    grid = network.backbone.grid(network.backbone.image_size)
    counts: dict[str, list[np.ndarray]] = {}
    chances: dict[str, list[np.ndarray]] = {}
    pictures: dict[str, np.ndarray] = {}
    for pair in pairs(network, cutouts, rows, views, seed):
        matches = {name: match(net, pair.crops) for name, net in nets.items()}
        matches["_position"] = torch.arange(pair.partner.shape[1], device=pair.partner.device).expand_as(pair.partner)
        for kind, wanted in (("", pair.partner >= 0), ("informative_", pair.informative & (pair.partner >= 0))):
            _add(counts, f"{kind}counted", wanted)
            for measure, reach in REACHES.items():
                for name, found in matches.items():
                    _add(counts, f"{kind}{measure}{name}", wanted & within(found, pair.partner, grid, reach))
                _add(chances, f"{kind}{measure}", wanted * chance(pair.partner, grid, reach))
        if not pictures:
            pictures = _pictures(network.backbone, pair, matches[""], grid)
    arrays = {name: np.concatenate(parts) for name, parts in counts.items()}
    row: dict[str, Any] = {"objects": len(rows), "regions": f"{grid[0]}×{grid[1]}"}
    for kind in ("", "informative_"):
        counted = arrays[f"{kind}counted"]
        row[f"{kind}counted"] = int(counted.sum())
        for measure in REACHES:
            name = kind + measure
            row[name], row[f"{name}_low"], row[f"{name}_high"] = share(arrays[name], counted, seed)
            for control in ("_untrained", "_position"):
                row[name + control] = share(arrays[name + control], counted, seed)[0]
            row[f"{name}_chance"] = share(np.concatenate(chances[name]), counted, seed)[0]
    ids = np.array([str(identifier) for identifier in cutouts.ids[rows[:PICTURES]]])
    return Correspondence(row, arrays | pictures | {"ids": ids})


def _add(store: dict[str, list[np.ndarray]], name: str, values: Tensor) -> None:
    """Keep the sum over the regions of each object."""
    store.setdefault(name, []).append(values.sum(1).cpu().numpy())


def pairs(network: Network, cutouts: Cutouts, rows: np.ndarray, views: ViewsConfig, seed: int) -> Iterator[Pair]:
    """Pairs of views of `rows`, some at a time; a function of rows, views and seed, whatever the network learnt."""
    geometry = replace(
        views,
        crop=network.views.crop,
        image_size=network.views.image_size,
        global_scale=SCALE,
        brightness=0.0,
        contrast=0.0,
        blur=0.0,
        noise=0.0,
        reddening=0.0,
        band_dropout=0.0,
    )
    augment = Augment(geometry, network.normalisation, cutouts.size, cutouts.bands, n_global=2)
    device = next(network.backbone.parameters()).device
    for step, start in enumerate(range(0, len(rows), BATCH)):
        some = rows[start : start + BATCH]
        raw = torch.from_numpy(np.ascontiguousarray(cutouts.images[some])).to(device)
        made = augment(raw, torch.from_numpy(some), seed=seed, step=step)
        first, second = made.crops
        grid = network.backbone.grid(first.shape[-1])
        partner = partners(made.to_source[0], made.to_source[1], grid, first.shape[-1])
        usable, usable_there = (cells(valid.float().mean(1), grid) >= VALID for valid in made.valid)
        lost = ~usable | ~usable_there.gather(1, partner.clamp(min=0))
        yield Pair((first, second), partner.masked_fill(lost, -1), informative(first, grid))


def partners(to_source: Tensor, to_source_there: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """[B, T] int64: the region of the second view that holds the centre of each region of the first, −1 where none.

    to_source, to_source_there: [B, 2, 3] as in `Views`. grid: (h, w) regions of a crop of `size` pixels.
    """
    device = to_source.device
    cell = torch.tensor([size / grid[1], size / grid[0]], dtype=torch.float64, device=device)  # width, height in pixels
    y, x = torch.meshgrid(*(torch.arange(count, device=device) for count in grid), indexing="ij")
    centers = (torch.stack([x.flatten(), y.flatten()], 1) + 0.5) * cell - 0.5  # pixel centres stand at whole numbers
    here, there = to_source.double(), to_source_there.double()
    sky = centers @ here[:, :, :2].transpose(1, 2) + here[:, None, :, 2]  # [B, T, 2]
    seen = torch.linalg.solve(there[:, :, :2], (sky - there[:, None, :, 2]).transpose(1, 2)).transpose(1, 2)
    place = torch.floor((seen + 0.5) / cell)
    inside = (place >= 0) & (place < torch.tensor([grid[1], grid[0]], device=device))
    index = place[..., 1] * grid[1] + place[..., 0]
    return torch.where(inside.all(-1), index, -1.0).long()


@torch.inference_mode()
def match(backbone: Backbone, crops: tuple[Tensor, Tensor]) -> Tensor:
    """[B, T] int64: for each region of the first crops the region of the second with the most similar feature."""
    training = backbone.training
    backbone.eval()
    here, there = (F.normalize(backbone(crop).patch_tokens.flatten(1, 2).float(), dim=-1) for crop in crops)
    backbone.train(training)
    return (here @ there.transpose(1, 2)).argmax(-1)


def within(found: Tensor, partner: Tensor, grid: tuple[int, int], reach: int) -> Tensor:
    """[B, T] bool: whether each match lies at most `reach` cells from the partner along either axis."""
    rows = (found // grid[1] - partner // grid[1]).abs()
    columns = (found % grid[1] - partner % grid[1]).abs()
    return torch.maximum(rows, columns) <= reach


def chance(partner: Tensor, grid: tuple[int, int], reach: int) -> Tensor:
    """[B, T]: the probability that a match drawn at random lies at most `reach` cells from the partner."""

    def near(place: Tensor, count: int) -> Tensor:
        return (place + reach).clamp(max=count - 1) - (place - reach).clamp(min=0) + 1

    return near(partner // grid[1], grid[0]) * near(partner % grid[1], grid[1]) / (grid[0] * grid[1])


def informative(crops: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, T] bool: regions with more than the crop's median of the mean squared deviation from its sky.

    The sky is the median of each band; so flux and variance both tell, and half the regions are informative.
    """
    sky = crops.flatten(2).median(-1).values[:, :, None, None]
    power = cells((crops - sky).square().mean(1), grid)
    return power > power.median(1, keepdim=True).values


def cells(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean of values [B, s, s] in each region, [B, T]."""
    return F.adaptive_avg_pool2d(values[:, None], grid).flatten(1)


def share(hits: np.ndarray, counted: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Σ hits / Σ counted over objects, with its 95 % bootstrap interval over them; NaN where nothing counts."""
    if not counted.sum():
        return float("nan"), float("nan"), float("nan")
    objects = len(hits)
    weights = numpy_rng(seed).multinomial(objects, np.full(objects, 1 / objects), size=REPLICATES)
    total = weights @ counted
    low, high = np.quantile((weights @ hits)[total > 0] / total[total > 0], [0.025, 0.975])
    return float(hits.sum() / counted.sum()), float(low), float(high)


def untrained(backbone: Backbone, seed: int) -> Backbone:
    """The same architecture with random weights; leaves the generators as they were."""
    with torch.random.fork_rng():
        seed_torch(seed)
        fresh = backbones.create(**backbone.config)
    return fresh.to(next(backbone.parameters()).device)


def _pictures(backbone: Backbone, pair: Pair, found: Tensor, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the page draws of the first few objects, as plain arrays."""
    crops = torch.stack([crop[:PICTURES] for crop in pair.crops], 1)  # [S, 2, bands, s, s]
    ends = crops.flatten(1).quantile(crops.new_tensor([0.01, 0.997]), dim=1)[..., None, None, None, None]
    shown = (255 * (crops - ends[0]) / (ends[1] - ends[0]).clamp(min=1e-6)).clamp(0, 255).round()
    arrays = {
        "crops": shown.to(torch.uint8),
        "match": found[:PICTURES].int(),
        "partner": pair.partner[:PICTURES].int(),
        "informative": pair.informative[:PICTURES],
    }
    training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            maps = backbone.attention(crops.flatten(0, 1)).float().mean(1)
        arrays["attention"] = maps.unflatten(0, (-1, 2))
    except UserError:  # a convolutional network
        pass
    backbone.train(training)
    return {name: value.cpu().numpy() for name, value in arrays.items()}
