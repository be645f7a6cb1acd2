"""Region correspondence against networks with a known answer, and against the geometry written as loops."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import N_UNIFORMS, Geometry
from zwicky.augment.normalise import Normalisation
from zwicky.backbones.base import Backbone, Features
from zwicky.data.cutouts import make_cutouts
from zwicky.data.splits import read_split
from zwicky.evaluation import correspondence as module
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.config import DesignConfig
from zwicky.evaluation.correspondence import (
    chance,
    correspondence,
    correspondence_pairs,
    informative,
    partners,
    within,
)
from zwicky.training.network import Network

from .conftest import small_config

OBJECTS, SOURCE, CROP, SIDE = 40, 60, 40, 5
VIEWS = ViewsConfig(crop=CROP, image_size=CROP, rotation="any", shift=2.0)


class Stub(Backbone):
    """Region features that `code` makes of the mean pixel of each region [B, h, w, bands]."""

    def __init__(self, code):
        super().__init__()
        self.code, self.dim, self.unused = code, 1, nn.Parameter(torch.zeros(1))
        self.config = {"name": "vit_tiny", "bands": 2, "image_size": CROP, "depth": 1, "patch_size": CROP // SIDE}

    def forward(self, images, mask=None, patch_tokens=True):
        maps = nn.functional.adaptive_avg_pool2d(images, SIDE).permute(0, 2, 3, 1)
        return Features(maps.mean((1, 2)), self.code(maps))

    def grid(self, size):
        return SIDE, SIDE


def sky_code(maps):
    """A smooth unique code of the position that the pixels hold: cosines fall steadily with distance."""
    angles = maps.double() * (2 * math.pi / 200)
    return torch.cat([angles.cos(), angles.sin()], -1)


def random_code(maps):
    return torch.randn(*maps.shape[:3], 16, generator=torch.Generator().manual_seed(int(maps.abs().sum() * 1e3)))


def position_code(maps):
    return torch.eye(SIDE**2).unflatten(0, (SIDE, SIDE)).expand(len(maps), -1, -1, -1)


@pytest.fixture(scope="module")
def sky():
    """Images that hold the position of each pixel, x in one band and y in the other, the same for all objects."""
    y, x = np.mgrid[:SOURCE, :SOURCE].astype(np.float32)
    images = np.repeat(np.stack([x, y])[None], OBJECTS, 0)
    return make_cutouts(images, ("x", "y"), [f"o{row}" for row in range(OBJECTS)])


def network(code):
    return Network(Stub(code), Normalisation(("x", "y"), (0, 0), (1, 1), "linear"), VIEWS, ("x", "y"))


def measured(code, sky, views=VIEWS, **options):
    return correspondence(network(code), sky, np.arange(OBJECTS), views, seed=3, **options)


def test_known_networks(sky):
    """One that knows the sky is right, a random one at chance, one that knows the index at the position control."""
    right, random, position = (measured(code, sky).row for code in (sky_code, random_code, position_code))
    assert right["counted"] > 300
    assert right["exact"] > 0.995  # all that is left is what bilinear sampling rounds off
    assert right["near"] == right["informative_near"] == 1
    assert right["exact_low"] <= right["exact"] <= right["exact_high"]
    assert right["regions"] == f"{SIDE}×{SIDE}"
    assert random["exact_chance"] == pytest.approx(1 / SIDE**2)
    assert 4 / SIDE**2 < random["near_chance"] < 9 / SIDE**2
    for measure in ("exact", "near", "informative_exact", "informative_near"):
        luck, counted = random[f"{measure}_chance"], random["informative_counted" if "_" in measure else "counted"]
        assert abs(random[measure] - luck) < 4 * math.sqrt(luck * (1 - luck) / counted)
        assert position[measure] == position[f"{measure}_position"]
    assert position["exact"] < 0.3  # any-angle rotation: the index says little
    assert right["exact_untrained"] == random["exact_untrained"]  # a function of the seed
    assert right["exact_untrained"] not in (right["exact"], random["exact"])
    other = replace(VIEWS, global_scale=(0.1, 0.2), brightness=1.0, noise=1.0)  # of which only the window is used
    assert measured(sky_code, sky, other).row == right


def test_objects_of_a_group_are_resampled_together(sky):
    """In groups of a quarter of the objects the intervals are wider, of the same numbers."""
    quarters = np.array([f"g{row % 4}" for row in range(OBJECTS)])
    alone, grouped = (measured(random_code, sky, groups=groups).row for groups in (None, quarters))
    assert alone["near"] == grouped["near"]
    assert alone["near_high"] != grouped["near_high"]


def test_pairs_share_the_grid_and_the_method_or_the_network_and_repeats_are_resampled_whole():
    rows, arrays = [], []
    ids = np.array([f"o{number}" for number in range(6)])
    networks = [("A", "dino", "4×4"), ("A", "mae", "4×4"), ("B", "dino", "4×4"), ("B", "mae", "8×8")]
    for (name, method, grid), repeat, fold in product(networks, range(3), range(2)):
        rows.append({"network": name, "method": method, "regions": grid, "split": f"r{repeat}f{fold}", "seed": 0})
        hits = np.full(6, (2 + 4 * fold) * (method == "dino") * (name == "A"))  # the same in each repeat
        arrays.append({"objects": ids, "groups": ids, "counted": np.full(6, 10), "exact": hits, "near": hits})
    table = correspondence_pairs(rows, arrays, 100, 0)
    pairs = table[["network", "method", "other_network", "other_method"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["A", "dino", "A", "mae"], ["A", "dino", "B", "dino"]]
    np.testing.assert_allclose(table[["difference", "low", "high"]], 0.4)


def literal_partner(first, second, grid, size):
    """One region at a time: centre → source → second view, by Cramer's rule; the cell whose square holds it."""
    height, width = size / grid[0], size / grid[1]
    result = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            x, y = (column + 0.5) * width - 0.5, (row + 0.5) * height - 0.5
            sx = first[0][0] * x + first[0][1] * y + first[0][2]
            sy = first[1][0] * x + first[1][1] * y + first[1][2]
            (a, b, e), (c, d, f) = second
            u = (d * (sx - e) - b * (sy - f)) / (a * d - b * c) + 0.5
            v = (a * (sy - f) - c * (sx - e)) / (a * d - b * c) + 0.5
            inside = 0 <= u < size and 0 <= v < size
            result.append(int(v // height) * grid[1] + int(u // width) if inside else -1)
    return result


@pytest.mark.parametrize(("grid", "size"), [((4, 4), 32), ((6, 6), 48), ((3, 3), 40), ((2, 2), 32)])
def test_partners_are_those_of_the_loop(grid, size):
    geometry = Geometry((70, 70), 48, size, (0.5, 1.0), "any", True, 3.0)
    maps = geometry.draw(torch.rand(2, 12, N_UNIFORMS, generator=torch.Generator().manual_seed(grid[0])))
    stub = Stub(sky_code)
    stub.grid = lambda _: grid
    found = partners(maps[0], maps[1], stub, size)
    assert found.tolist() == [literal_partner(maps[0, i].tolist(), maps[1, i].tolist(), grid, size) for i in range(12)]
    assert (found == -1).any()
    assert (found >= 0).any()


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("margin", [0, 1])
@pytest.mark.parametrize("circular", [False, True])
def test_chance_is_the_mean_over_all_matches(grid, margin, circular):
    partner = torch.arange(grid[0] * grid[1])[None]
    hits = torch.stack(
        [within(torch.full_like(partner, match), partner, grid, margin, circular) for match in partner[0]]
    )
    assert torch.allclose(chance(partner, grid, margin, circular), hits.double().mean(0).float())
    for match in partner[0].tolist():
        for other in partner[0].tolist():
            columns = abs(match % grid[1] - other % grid[1])
            columns = min(columns, grid[1] - columns) if circular else columns
            apart = max(abs(match // grid[1] - other // grid[1]), columns)
            assert bool(hits[match, 0, other]) == (apart <= margin)


def test_regions_without_valid_pixels_are_not_counted(sky):
    left = np.where(np.arange(SOURCE) < SOURCE // 2, np.nan, sky.images).astype(np.float32)
    whole, half, empty = (
        measured(sky_code, make_cutouts(images, sky.bands, sky.ids)).row
        for images in (sky.images, left, np.full_like(sky.images, np.nan))
    )
    assert 0.2 * whole["counted"] < half["counted"] < 0.6 * whole["counted"]
    assert empty["counted"] == 0
    (pair,) = module.view_pairs(network(sky_code), make_cutouts(left, sky.bands, sky.ids), np.arange(OBJECTS), VIEWS, 3)
    pool = nn.functional.adaptive_avg_pool2d
    shown = [pool((crop[:, :1] != 0).float(), SIDE).flatten(1) >= 0.5 for crop in pair.crops]
    counted = pair.partner >= 0
    assert shown[0][counted].all()
    assert shown[1].gather(1, pair.partner.clamp(min=0))[counted].all()
    assert all(math.isnan(empty[name]) for name in ("exact", "exact_low", "near_chance", "informative_near_untrained"))


def test_informative_regions_are_those_that_stand_out():
    crops = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + 5
    crops[:, :, 8:16, 16:32] += 3  # flux
    crops[:, :, 24:32, 0:16:2] -= 3  # variance
    found = informative(crops, (4, 4)).unflatten(1, (4, 4))
    assert found[:, 1, 2:].all()
    assert found[:, 3, :2].all()
    assert (found.sum((1, 2)) == 8).all()


def test_arrays_for_the_page_are_plain_and_small(sky):
    arrays = measured(sky_code, sky).arrays
    assert arrays["crops"].shape == (module.PICTURES, 2, 2, CROP, CROP)
    assert arrays["crops"].dtype == np.uint8
    assert arrays["match"].shape == arrays["partner"].shape == arrays["informative"].shape == (module.PICTURES, SIDE**2)
    assert list(arrays["ids"]) == list(sky.ids[: module.PICTURES])
    assert "attention" not in arrays  # the stub has none
    assert all(array.dtype.kind in "iufbU" for array in arrays.values())
    torch.manual_seed(0)
    vit = backbones.create("vit_tiny", bands=2, image_size=CROP, patch_size=8, width=24, depth=1, heads=2).train()
    scale = Normalisation(("x", "y"), (30, 30), (10, 10), "linear")
    arrays = correspondence(Network(vit, scale, VIEWS, ("x", "y")), sky, np.arange(10), VIEWS).arrays
    assert arrays["attention"].shape == (module.PICTURES, 2, SIDE, SIDE)
    assert np.allclose(arrays["attention"].sum((2, 3)), 1, atol=1e-5)
    assert vit.training


def test_a_benchmark_measures_each_pretraining_once(store, tmp_path):
    base = small_config().methods["dino"]
    methods = {name: replace(base, train=replace(base.train, lr=lr)) for name, lr in (("slow", 1e-4), ("fast", 1e-2))}
    config = small_config(labels=[20], draws=3, pretrain_seeds=2, methods=methods, probes=["knn"], baselines=[])
    config, out = replace(config, correspondence=9, replicates=100), tmp_path / "run"
    config.design = DesignConfig(fractions=(0.7, 0.0, 0.3), group="object")
    benchmark(config, store, out, quiet=True)
    table = pd.read_csv(out / "correspondence.csv")
    assert table[["method", "network", "split", "seed"]].to_numpy().tolist() == [
        [method, "vit", "holdout", seed] for method in ("slow", "fast") for seed in (0, 1)
    ]
    assert set(table["objects"]) == {9}
    split = read_split(next((out / "splits").iterdir()))
    test = set(split.ids("test"))
    shares = {}
    for row in table.to_dict("records"):
        arrays = dict(np.load(out / "pretrain" / row["run"] / "correspondence.npz"))
        assert set(arrays["objects"]) <= test
        assert list(arrays["groups"]) == list(split.groups_of(arrays["objects"]))
        shares[row["method"], row["seed"]] = arrays["exact"].sum() / arrays["counted"].sum()
        assert row["exact"] == pytest.approx(shares[row["method"], row["seed"]])
    pairs = pd.read_csv(out / "correspondence_pairs.csv")
    named = pairs[["method", "other_method", "measure"]].to_numpy().tolist()
    assert named == [["slow", "fast", measure] for measure in ("exact", "near")]
    mean = {name: (shares[name, 0] + shares[name, 1]) / 2 for name in methods}
    assert pairs["difference"][0] == pytest.approx(mean["slow"] - mean["fast"])
    assert (pairs["low"] <= pairs["difference"]).all()
    assert (pairs["difference"] <= pairs["high"]).all()

    written = [(out / name).read_bytes() for name in ("correspondence.csv", "correspondence_pairs.csv")]
    (out / "pretrain" / table["run"][2] / "correspondence.json").unlink()
    (out / "summary.csv").unlink()
    kept = (out / "pretrain" / table["run"][0] / "correspondence.json").stat().st_mtime_ns
    benchmark(config, store, out, quiet=True)
    assert (out / "pretrain" / table["run"][0] / "correspondence.json").stat().st_mtime_ns == kept
    assert [(out / name).read_bytes() for name in ("correspondence.csv", "correspondence_pairs.csv")] == written
