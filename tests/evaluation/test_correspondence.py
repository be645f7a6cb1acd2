"""Region correspondence against networks whose answer is known, and against the geometry written out in loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.geometry import N_UNIFORMS, Geometry
from zwicky.augment.normalise import Normalisation
from zwicky.backbones import BackboneConfig
from zwicky.backbones.base import Backbone, Features
from zwicky.data.cutouts import make_cutouts
from zwicky.data.labels import Labels, write_labels
from zwicky.data.splits import read_split
from zwicky.data.store import StoreWriter
from zwicky.evaluation import correspondence as room
from zwicky.evaluation import regions
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.config import BenchmarkConfig, SelfSupervision
from zwicky.evaluation.correspondence import chance, correspondence, informative, pairs, partners, share, within
from zwicky.evaluation.results import read_table
from zwicky.methods import MethodConfig
from zwicky.training.config import FitConfig, TrainConfig
from zwicky.training.network import Network

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

    def layer_groups(self):
        return [["unused"]]


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


def measured(code, sky):
    return correspondence(network(code), sky, np.arange(OBJECTS), VIEWS, seed=3)


def test_a_network_that_knows_the_place_is_right(sky):
    """The nearest cell holds the point; all that is left is what bilinear sampling rounds off."""
    row = measured(sky_code, sky).row
    assert row["counted"] > 300
    assert row["exact"] > 0.995
    assert row["near"] == row["informative_near"] == 1
    assert row["exact_low"] <= row["exact"] <= row["exact_high"]
    assert row["regions"] == f"{SIDE}×{SIDE}"


def test_a_random_network_is_at_chance(sky):
    found = measured(random_code, sky)
    for measure in ("exact", "near", "informative_exact", "informative_near"):
        share, luck = found.row[measure], found.row[f"{measure}_chance"]
        counted = found.row["informative_counted" if measure.startswith("i") else "counted"]
        assert abs(share - luck) < 4 * math.sqrt(luck * (1 - luck) / counted)
    assert found.row["exact_chance"] == pytest.approx(1 / SIDE**2)
    assert 4 / SIDE**2 < found.row["near_chance"] < 9 / SIDE**2


def test_a_network_that_knows_the_index_alone_is_at_the_position_control(sky):
    row = measured(position_code, sky).row
    for measure in ("exact", "near", "informative_exact", "informative_near"):
        assert row[measure] == row[f"{measure}_position"]
    assert row["exact"] < 0.3  # any-angle rotation: the index tells little


def test_without_rotation_mirror_and_zoom_the_position_is_enough(sky, monkeypatch):
    monkeypatch.setattr(room, "SCALE", (1.0, 1.0))
    still = ViewsConfig(crop=CROP, image_size=CROP, rotation="none", flip=False, shift=0.0)
    row = correspondence(network(position_code), sky, np.arange(OBJECTS), still).row
    assert row["exact"] == row["exact_position"] == 1
    assert row["counted"] == OBJECTS * SIDE**2


def test_the_untrained_network_and_the_generators(sky):
    """The control is a function of the seed, and drawing it moves no other random number."""
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    rows = [measured(code, sky).row for code in (sky_code, random_code)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert rows[0]["exact_untrained"] == rows[1]["exact_untrained"]
    assert rows[0]["exact_untrained"] not in (rows[0]["exact"], rows[1]["exact"])


def test_every_network_meets_the_same_pairs(sky):
    made = [next(pairs(network(code), sky, np.arange(8), VIEWS, 3)) for code in (sky_code, random_code)]
    assert torch.equal(made[0].partner, made[1].partner)
    assert all(torch.equal(a, b) for a, b in zip(made[0].crops, made[1].crops, strict=True))


def literal_partner(here, there, grid, size):
    """One region at a time: centre → source → second view, by Cramer's rule; the cell whose square holds it."""
    height, width = size / grid[0], size / grid[1]
    found = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            x, y = (column + 0.5) * width - 0.5, (row + 0.5) * height - 0.5
            sx = here[0][0] * x + here[0][1] * y + here[0][2]
            sy = here[1][0] * x + here[1][1] * y + here[1][2]
            (a, b, e), (c, d, f) = there
            determinant = a * d - b * c
            u = (d * (sx - e) - b * (sy - f)) / determinant
            v = (a * (sy - f) - c * (sx - e)) / determinant
            place = -1
            for r in range(grid[0]):
                for q in range(grid[1]):
                    if q * width <= u + 0.5 < (q + 1) * width and r * height <= v + 0.5 < (r + 1) * height:
                        place = r * grid[1] + q
            found.append(place)
    return found


@pytest.mark.parametrize(("grid", "size"), [((4, 4), 32), ((6, 6), 48), ((3, 3), 40), ((2, 2), 32)])
def test_partners_are_those_of_the_loop(grid, size):
    geometry = Geometry((70, 70), 48, size, (0.5, 1.0), "any", True, 3.0)
    maps = geometry.draw(torch.rand(2, 12, N_UNIFORMS, generator=torch.Generator().manual_seed(grid[0])))
    found = partners(maps[0], maps[1], grid, size)
    expected = [literal_partner(maps[0, i].tolist(), maps[1, i].tolist(), grid, size) for i in range(12)]
    assert found.tolist() == expected
    assert (found == -1).any()
    assert (found >= 0).any()


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (4, 4), (3, 5)])
@pytest.mark.parametrize("reach", [0, 1])
def test_chance_is_the_mean_over_all_matches(grid, reach):
    count = grid[0] * grid[1]
    partner = torch.arange(count)[None]
    hits = torch.stack([within(torch.full_like(partner, place), partner, grid, reach) for place in range(count)])
    assert torch.allclose(chance(partner, grid, reach), hits.double().mean(0).float())
    for place in range(count):
        for other in range(count):
            apart = max(abs(place // grid[1] - other // grid[1]), abs(place % grid[1] - other % grid[1]))
            assert bool(hits[place, 0, other]) == (apart <= reach)


def test_regions_without_valid_pixels_do_not_count(sky):
    holed = make_cutouts(
        np.where(np.arange(SOURCE) < SOURCE // 2, np.nan, sky.images).astype(np.float32), sky.bands, sky.ids
    )
    whole, half = (measured_rows(store)["counted"] for store in (sky, holed))
    assert 0.2 * whole < half < 0.6 * whole
    empty = make_cutouts(np.full_like(sky.images, np.nan), sky.bands, sky.ids)
    row = measured_rows(empty)
    assert row["counted"] == 0
    assert all(math.isnan(row[name]) for name in ("exact", "exact_low", "near_chance", "informative_near_untrained"))


def measured_rows(store):
    return correspondence(network(sky_code), store, np.arange(OBJECTS), VIEWS, seed=3).row


def test_informative_regions_are_those_that_stand_out():
    crops = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + 5
    crops[:, :, 8:16, 16:32] += 3  # flux
    crops[:, :, 24:32, 0:16:2] -= 3  # variance
    found = informative(crops, (4, 4)).unflatten(1, (4, 4))
    assert found[:, 1, 2:].all()
    assert found[:, 3, :2].all()
    assert (found.sum((1, 2)) == 8).all()


def test_interval_covers_what_objects_scatter():
    """Objects, not regions, are resampled: where regions of an object agree the interval is that of the objects."""
    rng = np.random.default_rng(0)
    held = []
    for trial in range(60):
        lucky = rng.random(80) < 0.4
        value, low, high = share(20 * lucky, np.full(80, 20), trial)
        assert value == pytest.approx(lucky.mean())
        held.append(low <= 0.4 <= high)
    assert np.mean(held) > 0.85
    assert high - low == pytest.approx(3.92 * math.sqrt(0.24 / 80), rel=0.25)


def test_arrays_for_the_page_are_plain_and_small(sky):
    found = measured(sky_code, sky)
    arrays, count = found.arrays, room.PICTURES
    assert arrays["crops"].shape == (count, 2, 2, CROP, CROP)
    assert arrays["crops"].dtype == np.uint8
    assert arrays["match"].shape == arrays["partner"].shape == arrays["informative"].shape == (count, SIDE**2)
    assert list(arrays["ids"]) == list(sky.ids[:count])
    assert "attention" not in arrays  # the stub has none
    assert all(array.dtype.kind in "iufbU" for array in arrays.values())
    assert arrays["exact"].sum() / arrays["counted"].sum() == found.row["exact"]
    right = (arrays["match"] == arrays["partner"])[arrays["partner"] >= 0]
    assert right.mean() > 0.99


def test_a_vit_brings_its_attention(sky):
    torch.manual_seed(0)
    vit = backbones.create("vit_tiny", bands=2, image_size=CROP, patch_size=8, width=24, depth=1, heads=2).train()
    seen = Network(vit, Normalisation(("x", "y"), (30, 30), (10, 10), "linear"), VIEWS, ("x", "y"))
    arrays = correspondence(seen, sky, np.arange(10), VIEWS).arrays
    assert arrays["attention"].shape == (room.PICTURES, 2, SIDE, SIDE)
    assert np.allclose(arrays["attention"].sum((2, 3)), 1, atol=1e-5)
    assert vit.training
    assert len(arrays["counted"]) == 10


def write_store(path):
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (60, 2, 24, 24)).astype(np.float32)
    cutouts = make_cutouts(images, ("g", "r"), [f"o{row:02d}" for row in range(60)])
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        writer.append(cutouts.images, cutouts.table)
    write_labels(path, Labels({i: "lens" if row % 2 else "nonlens" for row, i in enumerate(cutouts.ids)}, "made"))
    return path


@pytest.fixture(scope="module")
def bench_config():
    train = TrainConfig(max_steps=2, batch_size=8, precision="float32", evaluations=1)
    views = ViewsConfig(crop=16, local_crops=1, local_size=8)
    options = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
    small = {"patch_size": 4, "width": 24, "depth": 1, "heads": 2}
    return BenchmarkConfig(
        labels=[20],
        draws=3,
        pretrain_seeds=2,
        backbones={"vit": BackboneConfig("vit_tiny", small)},
        methods={
            name: SelfSupervision(MethodConfig("dino", options), views, replace(train, lr=lr))
            for name, lr in (("slow", 1e-4), ("fast", 1e-2))
        },
        probes=["knn"],
        label_views=ViewsConfig(crop=16, global_scale=(1.0, 1.0), local_crops=0),
        finetune=FitConfig(train=train),
        scratch=FitConfig(train=train),
        baselines=[],
        replicates=10,
        correspondence=9,
    )


def test_a_benchmark_measures_each_pretraining_once(bench_config, tmp_path, monkeypatch):
    store, out = write_store(tmp_path / "store"), tmp_path / "run"
    benchmark(bench_config, store, out, quiet=True)
    rows = read_table(out / "correspondence.csv").to_dict("records")
    assert [(row["method"], row["network"], row["split"], row["seed"]) for row in rows] == [
        (method, "vit", "holdout", seed) for method in ("slow", "fast") for seed in (0, 1)
    ]
    assert all(row["objects"] == 9 and row["regions"] == "4×4" for row in rows)
    test = set(read_split(out / "splits" / "holdout.csv").ids("test"))
    arrays = {}
    for row in rows:
        arrays[row["method"], row["seed"]] = kept = dict(np.load(out / "pretrain" / row["run"] / "correspondence.npz"))
        assert set(kept["ids"]) <= test
        assert kept["attention"].shape[1:] == (2, 4, 4)
        assert row["exact"] == pytest.approx(kept["exact"].sum() / kept["counted"].sum())
    (exact, near) = read_table(out / "correspondence_pairs.csv").to_dict("records")
    assert (exact["method"], exact["other_method"], exact["measure"], near["measure"]) == (
        "slow",
        "fast",
        "exact",
        "near",
    )
    hits = {name: sum(arrays[name, seed]["exact"].sum() for seed in (0, 1)) for name in ("slow", "fast")}
    counted = sum(arrays["slow", seed]["counted"].sum() for seed in (0, 1))
    assert exact["difference"] == pytest.approx((hits["slow"] - hits["fast"]) / counted)
    assert exact["low"] <= exact["difference"] <= exact["high"]

    written = [(out / name).read_bytes() for name in ("correspondence.csv", "correspondence_pairs.csv")]
    lost = out / "pretrain" / rows[2]["run"] / "correspondence.json"
    lost.unlink()
    (out / "summary.csv").unlink()
    asked = []
    monkeypatch.setattr(regions, "correspondence", lambda *given: asked.append(given) or correspondence(*given))
    benchmark(bench_config, store, out, quiet=True)
    assert len(asked) == 1
    assert [(out / name).read_bytes() for name in ("correspondence.csv", "correspondence_pairs.csv")] == written


def test_a_benchmark_that_does_not_ask_for_it_has_none(bench_config, tmp_path):
    config = replace(bench_config, correspondence=0, draws=1, methods={"slow": bench_config.methods["slow"]})
    benchmark(config, write_store(tmp_path / "store"), tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run").rglob("correspondence*"))
