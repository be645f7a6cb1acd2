"""Whole populations: determinism, the table and its truth, light and magnitudes, pairs, warnings and mistakes."""

import json

import numpy as np
import pytest
import torch

from zwicky import cli
from zwicky.data.cutouts import STANDARD_COLUMNS
from zwicky.errors import UserError
from zwicky.simulate import population_names, simulation
from zwicky.simulate.draw import BLOCK, draw_block
from zwicky.simulate.instruments import nanomaggies
from zwicky.simulate.population import read_population
from zwicky.simulate.render import render_block
from zwicky.simulate.simulation import Simulation, simulate_population, simulate_store

SOURCE = {"source_dx", "source_dy", "source_R", "source_n", "source_e1", "source_e2", "arc_redness"}
SOURCE |= {"magnification", *(f"{light}_mag_{band}" for light in ("arc", "source") for band in "gri")}
SOURCE |= {f"{layer}_snr" for layer in ("arc", "lens", "red", "blue")}  # depends on all light together


@pytest.fixture
def small(write_population):
    """A function that writes a population with few pixels."""
    return lambda name, **changes: write_population({"base": name, "size": 24, "supersampling": 1} | changes)


@pytest.mark.parametrize("name", population_names())
def test_an_image_depends_only_on_population_seed_and_number(name, small):
    (few, few_labels), (more, more_labels) = (simulate_population(small(name), n, seed=5) for n in (3, BLOCK + 1))
    assert np.array_equal(few.images, more.images[:3])
    for column in few.table:
        assert few.table[column].astype(str).equals(more.table[column][:3].astype(str)), column
    assert few_labels.values.items() <= more_labels.values.items()
    assert len({image.tobytes() for image in more.images}) == BLOCK + 1
    other, _ = simulate_population(small(name), 3, seed=6)
    assert not (other.images == few.images).all((1, 2, 3)).any()


@pytest.mark.parametrize("name", population_names())
def test_truth_is_present_where_the_class_has_it(name, small):
    population = read_population(small(name))
    cutouts, labels = simulate_population(small(name), BLOCK, seed=2)
    classes = cutouts.column("object_class")
    assert {labels.values[one] for one in cutouts.ids} <= {one.label for one in population.classes.values()}
    assert set(cutouts.truth) == {"object_class", *cutouts.metadata["columns"]}
    assert set(cutouts.truth) == set(cutouts.table) - set(STANDARD_COLUMNS)
    assert np.isfinite(cutouts.images).all()
    for column in population.common:
        assert np.isfinite(cutouts.column(column)).all(), column
    for column in {column for one in population.classes.values() for column in one.parameters} - set(population.common):
        owners = [key for key, one in population.classes.items() if column in one.parameters]
        assert np.array_equal(np.isfinite(cutouts.column(column)), np.isin(classes, owners)), column
    if name.startswith("deeplense"):
        n_subhalos = np.array([len(values) for values in cutouts.column("subhalo_x")])
        assert np.array_equal(n_subhalos > 0, classes == "cdm")
        assert np.array_equal(np.isfinite(cutouts.column("log10_axion_mass")), classes == "axion")


def test_the_table_obeys_the_contract():
    cutouts, labels = simulate_population("demo-lenses", 3 * BLOCK + 5, seed=3)
    assert cutouts.images.dtype == np.float32
    assert cutouts.images.shape == (len(cutouts), 3, 48, 48)
    assert cutouts.ids[5] == "demo-lenses-s3-000005"
    assert cutouts.pixel_scale == 0.187
    assert cutouts.column("simulated").all()
    for name in STANDARD_COLUMNS:
        assert cutouts.table[name].isna().sum() == (len(cutouts) if name in ("ra", "dec") else 0), name
    assert labels.classes == ("nonlens", "lens")
    assert set(labels.values) == set(cutouts.ids)
    lens = cutouts.column("object_class") == "lens"
    assert 0.35 < lens.mean() < 0.65
    assert cutouts.column("magnification")[lens].min() > 1.6
    assert np.array_equal(cutouts.column("theta_E")[lens], cutouts.column("radius")[lens])


def test_the_light_in_an_image_is_that_of_its_magnitudes():
    population = read_population("demo-lenses")
    drawn = draw_block(population, 5, 0)
    layers, _ = render_block(population, drawn)
    for layer, name in enumerate(population.light):
        for index, band in enumerate("gri"):
            fraction = layers[:, layer, index].sum((1, 2)) / nanomaggies(drawn.values[f"{name}_mag_{band}"])
            assert fraction.max() < 1 + 1e-5  # what is missing lies in the margin
            assert fraction.min() > 0.8
            assert np.median(fraction) > 0.95


def test_the_images_of_a_pair_share_the_lens_and_differ_in_the_source(small):
    cutouts, _ = simulate_population(small("lensiam-pairs"), 131, seed=4)
    assert cutouts.column("pair_id").tolist() == [cutouts.ids[row - row % 2] for row in range(131)]
    for name in set(cutouts.truth) - {"object_class", "pair_id"}:
        first, second = cutouts.column(name)[:130].reshape(-1, 2).T
        assert (first != second).all() if name in SOURCE else np.array_equal(first, second), name
    assert len(set(cutouts.column("theta_E"))) == 66


def test_legacy_populations_warn_of_their_shortcuts(small, recwarn):
    for name in ("deeplense-repaired-2", "deeplense-legacy-2"):
        simulate_population(small(name), 1)
    (warning,) = recwarn
    assert "mass is not compensated" in str(warning.message)


def test_eight_bits_are_the_image_scaled_to_its_peak(small):
    with_bits = [simulate_population(small("demo-lenses", eight_bit=on), 5) for on in (False, True)]
    plain, bits = (cutouts.images[np.arange(5)] for cutouts, _ in with_bits)
    assert bits.dtype == np.uint8
    assert (bits.max((1, 2, 3)) == 255).all()
    expected = 255 * plain.clip(0) / plain.max((1, 2, 3), keepdims=True)
    assert np.abs(bits - expected).max() <= 0.5 + 1e-3
    assert with_bits[1][0].table["noise"].isna().all()
    with pytest.raises(UserError, match="eight_bit: a composite has 8 bits already"):
        simulate_population(small("lens-finding-cfht", eight_bit=True), 1)


def test_a_missing_device_is_one_line():
    for name in ("cuda:99", "toaster", "meta"):
        with pytest.raises(UserError, match=name):
            simulate_population("demo-lenses", 1, device=name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", population_names())
def test_a_gpu_renders_what_the_cpu_renders(name, small):
    """To 1e-4 of the peak; 8-bit pictures to 2 levels, which noise and clipping may differ by."""
    cpu, gpu = (simulate_population(small(name), 16, device=one)[0].images.astype(float) for one in ("cpu", "cuda"))
    tolerance = 2 if simulate_population(small(name), 1)[0].images.dtype == np.uint8 else 1e-4 * np.abs(cpu).max()
    assert np.abs(cpu - gpu).max() <= tolerance


TINY = {"base": "demo-lenses", "size": 8, "bands": ["r"]}
COUNT = 3 * BLOCK + 7


@pytest.fixture
def population(write_population, monkeypatch):
    """The name of a quick population, written in pieces of one block."""
    monkeypatch.setattr(simulation, "PIECE", 1)
    return write_population(TINY, "tiny.yaml")


@pytest.fixture
def rendered(monkeypatch):
    """The numbers of the blocks rendered; block 2 is interrupted the first time."""
    render, blocks = Simulation.render, []

    def record(simulation, block):
        blocks.append(block)
        if block == 2 and blocks.count(2) == 1:
            raise KeyboardInterrupt
        return render(simulation, block)

    monkeypatch.setattr(Simulation, "render", record)
    return blocks


def test_an_interrupted_simulation_resumes_to_the_same_bytes(population, tmp_path, rendered, write_population):
    with pytest.raises(KeyboardInterrupt):
        simulate_store(population, COUNT, 3, tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    for size, seed in ((8, 4), (9, 3)):
        write_population(TINY | {"size": size}, "tiny.yaml")
        with pytest.raises(UserError, match="another simulation"):
            simulate_store(population, COUNT, seed, tmp_path / "killed")
    write_population(TINY, "tiny.yaml")
    simulate_store(population, COUNT, 3, tmp_path / "killed")
    assert rendered == [0, 1, 2, 2, 3]
    simulate_store(population, COUNT, 3, tmp_path / "whole")
    columns = json.loads((tmp_path / "whole" / "store.json").read_text())["metadata"]["columns"]
    assert columns["theta_E"] == {"unit": "arcsec", "meaning": "Einstein radius of the SIE, circularised"}
    killed, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*")} for name in ("killed", "whole")
    )
    assert killed == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(population, tmp_path):
    for workers in (1, 2):
        simulate_store(population, COUNT, 3, tmp_path / str(workers), workers=workers)
    for path in (tmp_path / "1").rglob("*"):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes(), path.name


def test_folders_as_deeplense_has_them(population, tmp_path):
    folders = tmp_path / "folders"
    cli.run(["simulate", population, "--n", "9", "--out", str(folders), "--format", "deeplense"])
    cutouts, labels = simulate_population(population, 9)
    for identifier, image in zip(cutouts.ids, cutouts.images, strict=True):
        assert np.array_equal(np.load(folders / labels.values[identifier] / f"{identifier}.npy"), image[0])
    assert (folders / "catalog.csv").exists()


def test_magnitudes_of_an_unlensed_population_are_those_of_its_light(small):
    """Unlensed magnitudes are brightened by the magnification of a source; what is no source keeps its own."""
    population = read_population(small("demo-lenses", light={"arc": {"unlensed": True}}))
    drawn = draw_block(population, 0, 0)
    _, truth = render_block(population, drawn)
    for band in population.instrument.bands:
        given = drawn.values[f"source_mag_{band}"]
        expected = given - 2.5 * np.log10(np.where(np.isnan(truth["magnification"]), 1, truth["magnification"]))
        np.testing.assert_allclose(truth[f"arc_mag_{band}"], expected)
    assert np.isnan(truth["magnification"]).any()
    assert (truth["magnification"] > 1).any()


def test_the_signal_to_noise_of_model_1_is_that_of_its_noise(small):
    simulation = Simulation.open(small("deeplense-legacy-1"), 1)
    _, drawn = simulation.render(0)
    light = render_block(simulation.population, drawn)[0][:, 0]  # its only layer
    noise = 2 * np.abs(light) / drawn.values["exposure"][:, None, None, None] + 1e-4
    np.testing.assert_allclose(drawn.values["arc_snr"], np.sqrt((light**2 / noise).sum((1, 2, 3))), rtol=1e-4)
