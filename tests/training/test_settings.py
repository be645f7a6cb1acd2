"""Settings from the data: every combination builds, takes a step and fits in memory; crops fit any image."""

import itertools

import numpy as np
import pytest
import torch

from zwicky import backbones, cli, methods, recipes
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Augment
from zwicky.backbones import BackboneConfig
from zwicky.cli.parsing import parse, settings_of
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.training.loop import make_optimizer
from zwicky.training.settings import Facts, as_settings, choose, fit_views, largest_crop

SIZES, BANDS, OBJECTS, LABELS = (32, 64, 101, 150), range(1, 7), (100, 10**4, 10**6), (10, 100, 1000, 10**4)
GRID = [case for case in itertools.product(SIZES, BANDS, OBJECTS, LABELS) if case[3] <= case[2]]
MEMORY = 8e9


def choices(size=64, bands=1, objects=10**5, labels=500, **more):
    return {choice.name: choice for choice in choose(Facts((size, size), bands, None, objects, labels, **more))}


def recipe(*case):
    settings = recipes.merge(recipes.read("start"), as_settings([*choices(*case).values()]))
    given = parse(cli.COMMANDS["benchmark"], "benchmark", settings, ["start", "--data", "x", "--out", "y"])
    return settings_of(BenchmarkConfig, given)


def check_steps(size, bands, config, batches, count=8):
    """Take a step of pretraining and of a fit; what backward keeps of a batch, and the weights, fit in memory."""
    images, names = np.random.default_rng(0).normal(size=(count, bands, size, size)).astype(np.float32), [*"123456"]
    normalisation = Normalisation.fit(images, names[:bands])
    network, simmim = config.backbones["polar"], config.methods["simmim"]
    for name, views, train, options, batch in (
        ("simmim", simmim.views, simmim.train, simmim.method.options, batches[0]),
        ("supervised", config.label_views, config.scratch.train, {"classes": 2}, batches[1]),
    ):
        side = views.resolved((size, size)).image_size
        backbone = backbones.create(network.name, bands=bands, image_size=side, **network.options)
        method = methods.create(name, backbone, **options)
        augment = Augment(views, normalisation, (size, size), names[:bands], method.needs)
        targets = torch.arange(count) % 2 if method.needs.targets else None
        drawn = augment(torch.from_numpy(images), torch.arange(count), seed=0, step=0, targets=targets)
        optimizer, kept = make_optimizer(method, train), [images.nbytes]
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.nbytes) or x, lambda x: x):
            loss = method(drawn)["loss"]
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
        weights = 5 * sum(p.nbytes for p in method.parameters())  # and gradients, AdamW's two moments, their average
        assert sum(kept) * batch / count + weights < MEMORY


@pytest.mark.parametrize(("size", "bands", "objects", "labels"), [(32, 1, 100, 10), (64, 3, 10**4, 100)])
def test_a_few_combinations_take_a_step(size, bands, objects, labels):
    check_steps(size, bands, recipe(size, bands, objects, labels), (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_combination_takes_a_step_and_fits_in_memory(size):
    """Combinations that give the same network are run once, at the largest batches."""
    networks = {}
    for _, bands, objects, labels in (case for case in GRID if case[0] == size):
        config = recipe(size, bands, objects, labels)
        batches = config.methods["simmim"].train.batch_size, config.scratch.train.batch_size
        key = bands, repr(config.backbones), repr(config.label_views), repr(config.methods["simmim"].views)
        networks[key] = config, max(batches, networks.get(key, (None, (0, 0)))[1])
    for (bands, *_), (config, batches) in networks.items():
        check_steps(size, bands, config, batches)


def test_the_table_is_sane_everywhere():
    for size, bands, objects, labels in GRID:
        table = choices(size, bands, objects, labels)
        assert all(choice.reason for choice in table.values())
        crop = table["crop"].value
        assert crop <= size
        assert (size - crop) % 2 == 0
        assert crop == size or crop * 2**0.5 <= size
        assert table["radii"].value <= max(8, crop / 2)
        learn = (1 - table["test share"].value) * labels
        assert all(count <= learn for count in table["labels"].value)
        assert 200 <= table["fit steps"].value <= 4000
        assert 300 <= table["pretraining steps"].value <= 20_000


def test_the_weights_that_ship_are_taken_where_they_fit():
    assert "rings" not in recipe(64, 1, 100, 100).methods  # a window of fewer radii
    assert "weights" not in choices(size=150, own_network=True)
    config = recipe(150, 3, 10**4, 100)
    rings, network = config.methods["rings"], config.backbones["polar"]
    assert rings.views.crop == config.label_views.crop
    side = rings.views.resolved((150, 150)).image_size
    pretrained = BackboneConfig(pretrained=rings.weights).source
    loaded, random = (
        backbones.create(network.name, bands=3, image_size=side, pretrained=source, **network.options)
        for source in (pretrained, None)
    )
    same = [torch.equal(*pair) for pair in zip(loaded.parameters(), random.parameters(), strict=True)]
    assert np.mean(same) < 0.2


def test_a_split_of_the_data_replaces_the_drawn_one(make_blobs):
    table = choices(given=400)
    assert (table["split"].value, table["labels"].value) == ("holdout", [100, 0])
    assert "test share" not in table
    cutouts, labels = make_blobs(30)
    given = Split("holdout", dict(zip(cutouts.ids, ["train"] * 20 + ["test"] * 10, strict=True)))
    some = Labels(dict(list(labels.values.items())[:12]))
    assert Facts.of(cutouts, some, given).given == 12  # with labels to learn from


def test_the_table_follows_data_and_time():
    for objects, batch in ((99_999, 64), (100_000, 128)):
        assert choices(objects=objects)["pretraining batch"].value == batch
    for minutes, draws in ((29, 1), (30, 3)):
        assert choices(minutes=minutes)["label draws"].value == draws
    for labels, share in ((299, 0.4), (300, 0.25), (1000, 0.2)):
        assert recipe(64, 1, 10**5, labels).design.fractions == pytest.approx((1 - share, 0, share))
    steps = [choices(labels=labels)["fit steps"].value for labels in LABELS]  # more labels, no fewer steps
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("size", "scale", "crop"),
    [(41, None, 41), (45, None, 45), (64, None, 44), (64, 0.187, 44), (150, None, 106), (300, 0.1, 120)],
)
def test_the_window_is_centred_and_covers_the_lens(size, scale, crop):
    assert largest_crop((size, size + 8), scale)[0] == crop


@pytest.mark.parametrize("side", [32, 41, 45, 64])
@pytest.mark.parametrize("name", recipes.names())
def test_the_views_of_every_recipe_fit_small_images(name, side):
    settings = recipes.read(name)
    given = [settings.get("views"), settings.get("label_views")]
    given += [method["views"] for method in settings.get("methods", {}).values()]
    for options in filter(None, given):
        views, note = fit_views(ViewsConfig(**options), (side, side))
        views.validate((side, side), ("g",), views.local_crops)
        assert bool(note) == ((options.get("crop") or 0) > side)
        if note:
            assert views.image_size == options.get("image_size", options["crop"])


@pytest.mark.parametrize("recipe_name", ["dino", "esvit"])
def test_shipped_recipes_train_on_images_smaller_than_their_crop(recipe_name, tmp_path, store_of_blobs):
    paths = [f"--data={store_of_blobs(24, size=31)}", f"--out={tmp_path / 'run'}"]
    fast = ["--train.max_steps=1", "--train.batch_size=8", "--train.precision=float32", "--views.local_crops=1"]
    with pytest.warns(UserWarning, match="crop 32 px does not fit images of 31 × 31 px; taking 31 px"):
        cli.run(["pretrain", recipe_name, "--size=smoke", *paths, *fast])
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "precision: float32" in config
    assert "crop: 31" in config
