"""`zwicky start`: a page and a ranking from a folder; a map without labels; it goes on after a kill."""

import base64
import io
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from zwicky import cli, provenance
from zwicky import start as start_module
from zwicky.data.cutouts import make_cutouts
from zwicky.data.image_format import IngestConfig
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, read_split
from zwicky.data.store import open_store
from zwicky.errors import UserError
from zwicky.evaluation.cells import CellRunner
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.explore import central, components, explore, neighbours
from zwicky.report import figures
from zwicky.report.explore import write_explore_page
from zwicky.simulate.stream import Data

from .conftest import galaxies, write_galaxies

SMALL = ["--backbones.polar.options", "{width: 16, depth: 1, heads: 2, radii: 8, angles: 32, stem: [8, 8, 8]}"]
SMALL += ["--replicates=20", "--baselines=[radial_colour]", "--minutes=0.02"]


def start(folder, *more):
    """Run `zwicky start` on the cutouts and the catalogue in a folder; return its output."""
    paths = [str(folder / name) for name in ("cutouts", "catalog.csv", "out")]
    cli.run(["start", paths[0], "--catalog", paths[1], "--out", paths[2], *SMALL, *more])
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    write_galaxies(folder / "cutouts", 40, size=20)
    return start(folder)


@pytest.mark.slow
def test_the_unlabelled_are_ranked_by_probability(out):
    ranked = pd.read_csv(out / "run" / "ranked.csv")
    assert list(ranked) == ["id", "file", "ra", "dec", "probability", "distance"]
    assert set(ranked["id"]) == {f"{number:03d}.npy" for number in range(40, 60)}
    assert ranked["probability"].is_monotonic_decreasing
    assert ranked["probability"].between(0, 1).all()
    assert (ranked["ra"] - 10 == ranked["id"].str[:3].astype(int)).all()


@pytest.mark.slow
def test_no_test_object_is_learned_from_or_ranked(out):
    tested = set(read_split(out / "run" / "splits" / "holdout.csv").ids("test"))
    folders = [*(out / "run" / "cells").glob("*"), *(out / "run" / "pretrain").glob("*")]
    runs, cutouts = [folder for folder in folders if (folder / "network.json").exists()], open_store(out / "store")
    assert len(runs) == 3  # pretraining, fine-tuned, from scratch
    for run in runs:
        trained = provenance.find_leaked(cutouts, np.arange(len(cutouts)), provenance.read(run))
        assert tested.isdisjoint(cutouts.ids[trained])
        assert trained.any()
    assert tested.isdisjoint(pd.read_csv(out / "run" / "ranked.csv")["id"])


@pytest.mark.slow
def test_the_page_shows_verdict_ranking_and_budget(out):
    page = (out / "report.html").read_text()
    assert page.count("<h2>Ranked objects</h2>") == 1
    assert "Highest probability of lens, of 20 new objects" in page
    config = yaml.safe_load((out / "run" / "config.yaml").read_text())
    assert config["label_views"]["crop"] == 20
    assert f"finetune.train {config['finetune']['train']['max_steps']}" in page
    assert "0.02 min bought 10 of the 200 steps" in page


@pytest.mark.slow
def test_the_same_command_goes_on(out):
    """What a kill may leave out is made again; what is there stays."""
    before = (out / "run" / "ranked.csv").read_bytes()
    config = (out / "run" / "config.yaml").read_bytes()
    for name in ("run/ranking.json", "run/ranked.csv", "run/summary.csv", "report.html"):
        (out / name).unlink()
    start(out.parent)
    assert (out / "run" / "ranked.csv").read_bytes() == before
    assert (out / "run" / "config.yaml").read_bytes() == config
    assert (out / "report.html").exists()


@pytest.mark.parametrize("labelled", [pytest.param(0, marks=pytest.mark.slow), 8])
def test_a_map_where_nothing_can_be_tested(tmp_path, monkeypatch, labelled):
    write_galaxies(tmp_path / "cutouts", labelled, count=40, size=20)
    monkeypatch.chdir(tmp_path)
    cli.run(["start", "cutouts", "--catalog", "catalog.csv", "--methods.simmim.views.crop=16", *SMALL])
    out = tmp_path / "zwicky-cutouts"
    table = pd.read_csv(out / "map.csv")
    assert len(table) == 40
    assert {"id", "file", "ra", "dec", "x", "y", "cluster", "oddity"} <= set(table)
    assert len(np.load(out / "features.npy")) == 40
    assert yaml.safe_load((out / "run" / "config.yaml").read_text())["views"]["crop"] == 16
    page = (out / "report.html").read_text()
    assert "cannot be said" in page
    assert ("lens 4" in page) == bool(labelled)
    assert (out / "ranked.csv").exists() == bool(labelled)
    if labelled:
        ranked = pd.read_csv(out / "ranked.csv")
        assert set(ranked["id"]) == {f"{number:03d}.npy" for number in range(8, 40)}
        assert ranked["score"].is_monotonic_decreasing
        assert "The first 32<" in page
        assert ": nan" not in page


@pytest.mark.parametrize(
    ("count", "labelled", "more", "message"),
    [
        (2, 0, [], "3 cutouts or more"),
        (40, 0, ["--methods.simmim.weights=zwicky-rings"], "methods.simmim.weights"),
        (40, 40, ["--targets=[theta_E]"], "benchmark start --targets"),
        (40, 40, ["--finetune.select=0", "--scratch.select=0"], "no label is left"),
        (40, 40, ["--keep_networks=false"], "keep_networks"),
        (40, 40, ["--design.split=mine"], "no split 'mine'"),
    ],
)
def test_what_start_cannot_do_is_said_before_any_training(count, labelled, more, message, tmp_path):
    write_galaxies(tmp_path / "cutouts", labelled, count=count, size=20)
    with pytest.raises(UserError, match=message):
        start(tmp_path, *more)
    assert not (tmp_path / "out" / "run").exists()
    assert (tmp_path / "out").exists() != ("targets" in str(more)), "targets are refused before anything is written"


def test_what_ranks_is_chosen_by_the_labels_for_selection_and_fitted_to_all(tmp_path, monkeypatch):
    """Of three arms the second is right most surely; no test object is seen or ranked."""
    cutouts = make_cutouts(galaxies(60), ("g", "r"), [f"{row:02d}" for row in range(60)])
    labels = Labels({name: ("nonlens", "lens")[int(name) % 2] for name in cutouts.ids[:50]})
    config, applied = BenchmarkConfig(methods={}, labels=[20], draws=1, baselines=["pca_linear", "modes"]), {}

    def apply(self, arm, draw, count, rows, query):
        applied.setdefault(arm.name, []).append((set(rows), set(query)))
        sure = {"vit-supervised": 0.6, "pca-linear": 0.9, "modes": 0.7}[arm.name] - query / 1000
        return np.where(query % 2, [1 - sure, sure], [sure, 1 - sure]).T

    monkeypatch.setattr(CellRunner, "apply", apply)
    data = Data(cutouts, labels, None)
    assert start_module.rank_unlabelled(tmp_path, config, data)["arm"] == "pca-linear"
    draw = start_module.make_label_draws(config, cutouts, labels)[0]
    fit, select, test = *map(set, draw.rows(cutouts, 20)), set(draw.test_rows(cutouts))
    free = set(range(60)) - fit - select - test
    assert applied.pop("pca-linear") == [(fit, select), (fit | select, free)]
    assert [*applied.values()] == [[(fit, select)]] * 2
    table = pd.read_csv(tmp_path / "ranked.csv", dtype={"id": str})
    assert set(map(int, table["id"])) == free
    assert table["probability"].is_monotonic_decreasing


def test_how_many_labels_can_be_tested():
    def labels(lenses, others):
        return Labels({f"o{k}": "lens" if k < lenses else "nonlens" for k in range(lenses + others)})

    for lenses, others, enough in ((5, 15, True), (5, 14, False), (4, 40, False), (40, 0, False)):
        assert start_module.can_be_tested(labels(lenses, others)) == enough
    named = labels(10, 20)
    for lenses, usable in ((5, True), (4, False), (6, False)):  # of ten, to test
        split = Split("holdout", {f"o{k}": "test" if k < lenses or k > 19 else "train" for k in range(30)})
        data = SimpleNamespace(labels=named, given_split=lambda name, split=split: split)
        assert (start_module.usable_split(data, "holdout") is split) == usable


@pytest.mark.slow
def test_the_ranking_is_by_an_arm_that_was_trained(tmp_path):
    write_galaxies(tmp_path / "cutouts", 40, size=20)
    two = "{method: {name: mae}, views: {crop: 20, local_crops: 0}, train: {max_steps: 2}}"
    out = start(tmp_path, f"--methods.mae={two}", "--finetune_best=1")
    finetuned = {path.name for path in (out / "run" / "cells").glob("*-finetune-*")}
    assert len(finetuned) == 1
    assert len(pd.read_csv(out / "run" / "ranked.csv")) == 20


def test_a_store_takes_no_catalogue_and_no_options_of_ingest(tmp_path):
    write_galaxies(tmp_path / "cutouts", 40, size=20)
    store, catalog = str(tmp_path / "store"), str(tmp_path / "catalog.csv")
    cli.run(["ingest", str(tmp_path / "cutouts"), "--catalog", catalog, "--out", store])
    for option in (["--catalog", catalog], ["--pixel_scale=0.5"]):
        with pytest.raises(UserError, match="is a store"):
            cli.run(["start", store, "--out", str(tmp_path / "out"), *option, *SMALL])


@pytest.mark.parametrize(("labels", "learn"), [("[20]", 20), ("[20, 0]", 0)])
def test_the_most_labels_set_the_steps(tmp_path, monkeypatch, labels, learn):
    def stop(*_, **options):
        assert options["learn"] == learn
        raise UserError("stopped")

    monkeypatch.setattr(start_module, "start", stop)
    with pytest.raises(UserError, match="stopped"):
        cli.run(["start", str(tmp_path), f"--labels={labels}"])


def test_the_store_of_other_data_is_not_taken(tmp_path):
    """Another folder, catalogue, option or file is refused; a copy of the same data elsewhere goes on."""

    class Ingested(Exception):
        pass

    def configure(settings):
        if settings:
            raise Ingested
        return BenchmarkConfig()

    def begin(folder, catalog="catalog.csv", **options):
        cutouts, options = tmp_path / folder / "cutouts", IngestConfig(**options)
        options = {"catalog": tmp_path / folder / catalog, "options": options}
        with pytest.raises(Ingested):
            start_module.start(cutouts, cutouts / "zwicky", 1, configure, **options)

    def refused(name, *arguments, **options):
        with pytest.raises(UserError, match=f"started with other {name}; choose another --out"):
            begin(*arguments, **options)

    write_galaxies(tmp_path / "a" / "cutouts", 20, count=20, size=20)
    begin("a")
    begin("a", workers=1)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    begin("copy")
    refused("label_column", "a", label_column="label")
    refused("size", "a", size=8)
    table = tmp_path / "a" / "catalog.csv"
    table.write_text(table.read_text().replace("nonlens", "others "))
    refused("catalog", "a")
    image = tmp_path / "copy" / "cutouts" / "003.npy"
    before = image.read_bytes()
    image.write_bytes(before[:-20] + bytes(20))
    refused("data", "copy")
    image.write_bytes(before)
    begin("copy")
    (tmp_path / "copy" / "cutouts" / "labels.csv").write_text("file,label\n003.npy,lens\n")
    refused("data", "copy")
    with pytest.raises(UserError, match="does not exist"):
        start_module.start(tmp_path / "none", tmp_path / "b", 1, configure)


def test_clusters_oddities_and_neighbours_of_known_groups(monkeypatch):
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [60, 40, 20])
    features = rng.normal(0, 20, (3, 12))[group] + rng.normal(size=(120, 12))
    features[7] += 60
    x = components(features)
    table = explore(x)
    assert table["oddity"].idxmax() == 7
    assert table["oddity"].median() == pytest.approx(1)
    assert (np.diff(np.bincount(table["cluster"])) <= 0).all()  # the largest first
    distance, near = neighbours(x, np.array([0, 70, 110]))
    assert (np.diff(distance) >= 0).all()
    assert (group[near] == group[[0, 70, 110]][:, None]).all()
    assert not (near == np.array([0, 70, 110])[:, None]).any()
    assert len(set(group[central(x, group)])) == 3
    monkeypatch.setattr("zwicky.evaluation.explore.REFERENCES", 11)
    distance, near = neighbours(x, np.arange(120))
    references = np.unique(near)
    assert len(references) == 11
    away = np.linalg.norm(x[:, None] - x[references], axis=2)
    away[references, np.arange(11)] = np.inf
    np.testing.assert_allclose(distance, np.sort(away)[:, :10])
    np.testing.assert_allclose(distance, np.linalg.norm(x[:, None] - x[near], axis=2))


def test_the_page_of_a_map_by_hand(tmp_path):
    count, x = 30, np.arange(30)[:, None] ** 1.1
    grey = np.arange(count, dtype=np.uint8)[:, None, None, None] * 8 + np.zeros((1, 1, 9, 9), np.uint8)
    cutouts = make_cutouts(grey, ("g",), [f"o{row}" for row in range(count)])
    table = pd.DataFrame({"id": cutouts.ids, "x": np.nan, "y": np.nan, "cluster": np.arange(count) // 16})
    table["oddity"] = np.random.default_rng(0).permutation(count) / 10
    table.loc[[10, 15, 20, 25], ["x", "y"]] = [[0, 0], [1, 0], [0, 1], [0.025, 1 / 28]]
    page = write_explore_page(tmp_path / "page.html", cutouts, x, table, [], {}).read_text()
    sheets = [re.findall(r'alt="o(\d+), : (.*)"', sheet) for sheet in page.split('<div class="sheet">')[1:]]
    oddest = table.nlargest(24, "oddity")
    assert sheets.pop(0) == [(str(row), f"{oddity:.3f}") for row, oddity in oddest["oddity"].items()]
    for number, sheet in enumerate(sheets):
        rows = np.flatnonzero(table["cluster"] == number)
        centre = rows[abs(x[rows] - x[rows].mean()).argmin()]
        assert [int(name) for name, _ in sheet] == np.argsort(abs(x - x[centre])[:, 0])[:8].tolist()
    assert len(sheets) == 2
    picture = Image.open(io.BytesIO(base64.b64decode(re.search('data:image/webp;base64,([^"]*)', page)[1])))
    tiles = np.asarray(picture)[figures.TILE // 2 :: figures.TILE, figures.TILE // 2 :: figures.TILE].astype(int)
    assert np.argwhere(tiles[..., 3]).tolist() == [[0, 0], [0, 19], [13, 0]]
    assert abs(tiles[[0, 0, 13], [0, 19, 0], 0] - [200, 120, 160]).max() < 8  # of two in one tile the central one
