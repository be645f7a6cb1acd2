"""Region correspondence: the share of regions that a network matches to the right place.

Two views of an object are cut with known rotations, reflections, shifts and zooms. Each region of the first is matched
to the region of the second whose feature is most similar (cosine), as in EsViT (arXiv:2106.09785). The match is right
if that region holds the point of the sky at the first one's centre, known from `Views.to_source`. A region whose centre
lies outside the second view is not counted, nor is one without valid pixels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.views import Augment, ViewsNeeded
from zwicky.backbones.base import Backbone
from zwicky.data.cutouts import Cutouts
from zwicky.errors import UserError
from zwicky.evaluation.bootstrap import Bootstrap, Cell
from zwicky.evaluation.metrics import weighted_share
from zwicky.rng import seed_torch
from zwicky.training.network import Network, eval_mode

SCALE = (0.5, 1.0)  # share of the window's area a view shows, for all networks, whatever their pretraining used
MARGINS = {"exact": 0, "near": 1}  # regions by which a match may be off, along either axis
CONTROLS = ("_untrained", "_position", "_chance")
BATCH = 128
REPLICATES = 1000
PICTURES = 3  # objects whose views are kept for the page
PAIR_COLUMNS = ("network", "method", "other_network", "other_method", "measure", "difference", "low", "high", "objects")


class ViewPair(NamedTuple):
    """Two views of each of B objects, T regions a view."""

    crops: tuple[Tensor, Tensor]  # [B, bands, s, s] each
    partner: Tensor  # [B, T], the region of the second view with the centre of each region of the first, −1 if none
    informative: Tensor  # [B, T] bool, regions of the first view that stand out of its sky


class Correspondence(NamedTuple):
    """The measurement of one network: its numbers for `correspondence.csv`, and what `correspondence.npz` keeps.

    That is, of all N objects: objects (their ids), groups and the numbers of regions counted, exact, near, those with
    the suffixes of CONTROLS, and the same after `informative_`. Of the first few, S: ids, crops [S, 2, bands, s, s]
    uint8, match and partner [S, T] int32, informative [S, T] bool and, if the backbone has any, attention
    [S, 2, h, w] float32, the mean over heads.
    """

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]


def correspondence(
    network: Network,
    cutouts: Cutouts,
    rows: np.ndarray,
    views: ViewsConfig,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Correspondence:
    """Measure a network, and an untrained one of its architecture, on two views of each object in `rows`.

    Objects of one of `groups` [N], e.g. images of one source, are resampled together; without, each on its own.
    Both views have window, rotation, reflection and shift of `views`, whose zoom and photometry are not used. `seed` is
    that of views, untrained weights and bootstrap.
    """
    untrained = untrained_like(network.backbone, seed)
    grid, circular = network.backbone.grid(network.backbone.image_size), network.backbone.circular
    counts: dict[str, list[Tensor]] = {}
    pictures: dict[str, np.ndarray] = {}
    for pair in view_pairs(network, cutouts, rows, views, seed):
        matches = {"": match_regions(network.backbone, pair.crops), "_untrained": match_regions(untrained, pair.crops)}
        matches["_position"] = torch.arange(pair.partner.shape[1], device=pair.partner.device).expand_as(pair.partner)
        pictures = pictures or _pictures(network.backbone, pair, matches[""])
        for subset, counted in (("", pair.partner >= 0), ("informative_", pair.informative & (pair.partner >= 0))):
            hits = {"counted": counted}
            for measure, margin in MARGINS.items():
                for name, match in matches.items():
                    hits[measure + name] = counted & within(match, pair.partner, grid, margin, circular)
                hits[f"{measure}_chance"] = counted * chance(pair.partner, grid, margin, circular)
            for name, values in hits.items():
                counts.setdefault(subset + name, []).append(values.sum(1).cpu())
    arrays = {name: torch.cat(parts).numpy() for name, parts in counts.items()}
    ids = np.array([str(identifier) for identifier in cutouts.ids[rows]])
    groups = ids if groups is None else groups

    row: dict[str, Any] = {"objects": len(rows), "regions": f"{grid[0]}×{grid[1]}"}
    for subset in ("", "informative_"):
        total = arrays[f"{subset}counted"]
        names = [subset + measure + control for measure in MARGINS for control in ("", *CONTROLS)]
        cells = {name: [Cell(ids, groups, total, arrays[name])] for name in names}
        shares = Bootstrap(cells, REPLICATES, seed).apply(weighted_share)
        row[f"{subset}counted"] = int(total.sum())
        for name in (subset + measure for measure in MARGINS):
            interval = shares.interval(name)
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {name + control: shares.interval(name + control).value for control in CONTROLS}
    return Correspondence(row, arrays | pictures | {"objects": ids, "groups": groups, "ids": ids[:PICTURES]})


def correspondence_pairs(
    rows: Sequence[dict[str, Any]], arrays: Sequence[dict[str, np.ndarray]], replicates: int, seed: int
) -> pd.DataFrame:
    """Compare pretrained networks that share the grid, and the method or the architecture.

    `rows` and `arrays` are those of the `Correspondence` of each pretraining. Returns `correspondence_pairs.csv`:
    paired differences, with intervals over pretrainings and objects.
    """
    cells: dict[str, dict[str, list[Cell]]] = {measure: {} for measure in MARGINS}
    networks: dict[str, dict[str, Any]] = {}
    for row, counts in zip(rows, arrays, strict=True):
        name = f"{row['network']} {row['method']}"
        networks[name] = row
        repeat = row["split"].split("f")[0]  # folds of a repeat, r0f0, r0f1, …, are resampled together
        draw, unit = (row["split"], row["seed"]), (repeat, row["seed"])
        for measure in MARGINS:
            tested, hits = (counts["objects"], counts["groups"]), (counts["counted"], counts[measure])
            cells[measure].setdefault(name, []).append(Cell(*tested, *hits, draw, unit, row["seed"]))
    shares = {measure: Bootstrap(cells[measure], replicates, seed).apply(weighted_share) for measure in MARGINS}
    table = []
    for one, other in combinations(networks, 2):
        first, second = networks[one], networks[other]
        related = first["network"] == second["network"] or first["method"] == second["method"]
        if not related or first["regions"] != second["regions"]:
            continue
        for measure in MARGINS:
            gap = shares[measure].difference(one, other)
            objects = len({identifier for cell in cells[measure][one] for identifier in cell.ids})
            names = (first["network"], first["method"], second["network"], second["method"])
            table.append((*names, measure, gap.value, gap.low, gap.high, objects))
    return pd.DataFrame(table, columns=PAIR_COLUMNS)


def view_pairs(
    network: Network, cutouts: Cutouts, rows: np.ndarray, views: ViewsConfig, seed: int
) -> Iterator[ViewPair]:
    """Yield batches of pairs of views, a function of rows, views and seed, whatever the weights of the network."""
    views = replace(views, crop=network.views.crop, image_size=network.views.image_size, global_scale=SCALE)
    views = replace(views, brightness=0.0, contrast=0.0, blur=0.0, noise=0.0, reddening=0.0, band_dropout=0.0)
    augment = Augment(views, network.normalisation, cutouts.size, cutouts.bands, ViewsNeeded(2))
    device = next(network.backbone.parameters()).device
    for step, start in enumerate(range(0, len(rows), BATCH)):
        batch = rows[start : start + BATCH]
        raw = torch.from_numpy(np.ascontiguousarray(cutouts.images[batch])).to(device)
        made = augment(raw, torch.from_numpy(batch), seed=seed, step=step)
        first, second = made.crops
        backbone, size = network.backbone, first.shape[-1]
        partner = partners(made.to_source[0], made.to_source[1], backbone, size)
        pairs = zip(made.crops, made.valid, strict=True)
        valid, other_valid = (backbone.valid_patches(*pair).flatten(1) for pair in pairs)
        invalid = ~valid | ~other_valid.gather(1, partner.clamp(min=0))
        shown = informative(backbone.canvas(first), backbone.grid(size))
        yield ViewPair((first, second), partner.masked_fill(invalid, -1), shown)


def partners(to_source: Tensor, other_to_source: Tensor, backbone: Backbone, size: int) -> Tensor:
    """Return [B, T] int64: the region of the second view with the centre of each region of the first, −1 if none.

    The maps of both views, [B, 2, 3], are those of `Views`; `size` is that of a crop in pixels.
    """
    centres = backbone.patch_centres(size).flatten(0, 1).to(to_source.device)
    first, second = to_source.double(), other_to_source.double()
    sky = centres @ first[:, :, :2].transpose(1, 2) + first[:, None, :, 2]  # [B, T, 2]
    pixel = torch.linalg.solve(second[:, :, :2], (sky - second[:, None, :, 2]).transpose(1, 2)).transpose(1, 2)
    return backbone.patch_at(pixel, size)


@torch.inference_mode()
def match_regions(backbone: Backbone, crops: tuple[Tensor, Tensor]) -> Tensor:
    """Return [B, T] int64: for each region of the first crops the most similar region of the second."""
    with eval_mode(backbone):
        first, second = (F.normalize(backbone(crop).patch_tokens.flatten(1, 2).float(), dim=-1) for crop in crops)
    return (first @ second.transpose(1, 2)).argmax(-1)


def within(match: Tensor, partner: Tensor, grid: tuple[int, int], margin: int, circular: bool = False) -> Tensor:
    """Return [B, T] bool: whether each match lies at most `margin` regions from the partner along either axis."""
    rows = (match // grid[1] - partner // grid[1]).abs()
    columns = (match % grid[1] - partner % grid[1]).abs()
    columns = torch.minimum(columns, grid[1] - columns) if circular else columns
    return torch.maximum(rows, columns) <= margin


def chance(partner: Tensor, grid: tuple[int, int], margin: int, circular: bool = False) -> Tensor:
    """Return [B, T]: the probability that a random match lies at most `margin` regions from the partner."""
    regions = torch.arange(grid[0] * grid[1], device=partner.device)
    return (within(regions[:, None], regions, grid, margin, circular).sum(0) / len(regions))[partner]


def informative(crops: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return [B, T] bool: regions with more than the median of the mean squared deviation from the crop's sky.

    The sky is the median of each band, so both flux and variance count, and half the regions are informative.
    """
    sky = crops.flatten(2).median(-1).values[:, :, None, None]
    power = F.adaptive_avg_pool2d((crops - sky).square().mean(1, keepdim=True), grid).flatten(1)
    return power > power.median(1, keepdim=True).values


def untrained_like(backbone: Backbone, seed: int) -> Backbone:
    """Return the same architecture with random weights; leaves the random generators as they were."""
    with torch.random.fork_rng():
        seed_torch(seed)
        fresh = backbones.create(**backbone.config)
    return fresh.to(next(backbone.parameters()).device)


def _pictures(backbone: Backbone, pair: ViewPair, match: Tensor) -> dict[str, np.ndarray]:
    """What the page draws of the first few objects, as plain arrays."""
    crops = torch.stack([crop[:PICTURES] for crop in pair.crops], 1)  # [S, 2, bands, s, s]
    ends = crops.flatten(1).quantile(crops.new_tensor([0.01, 0.997]), dim=1)[..., None, None, None, None]
    stretched = (255 * (crops - ends[0]) / (ends[1] - ends[0]).clamp(min=1e-6)).clamp(0, 255).round()
    arrays = {
        "crops": stretched.to(torch.uint8),
        "match": match[:PICTURES].int(),
        "partner": pair.partner[:PICTURES].int(),
        "informative": pair.informative[:PICTURES],
    }
    with contextlib.suppress(UserError), eval_mode(backbone), torch.inference_mode():  # a convolutional one has none
        arrays["attention"] = backbone.attention(crops.flatten(0, 1)).float().mean(1).unflatten(0, (-1, 2))
    return {name: value.cpu().numpy() for name, value in arrays.items()}
