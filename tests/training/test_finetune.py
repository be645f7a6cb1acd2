"""Fine-tuning: what is learned, from which objects, and what is refused."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import r2_score
from timm.models.beit import Beit

from zwicky import provenance
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import Cutouts, make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split, label_subsets
from zwicky.errors import UserError
from zwicky.evaluation.baselines import PROBES
from zwicky.evaluation.config import BenchmarkConfig
from zwicky.evaluation.evaluate import evaluate
from zwicky.evaluation.label_draws import make_label_draws
from zwicky.evaluation.results import read_table
from zwicky.io import read_json, weights_file
from zwicky.methods.dino import DINO
from zwicky.methods.supervised import Supervised
from zwicky.training.config import FitConfig, TrainConfig, augmentation_for_labels
from zwicky.training.export import export
from zwicky.training.finetune import finetune
from zwicky.training.fit_labels import PROBE_VIEWS, LabelFit, divide_labels, fit_labels, init_from_probe
from zwicky.training.linear_probe import LinearProbe, fit_temperature
from zwicky.training.network import Network, load_network, save_network
from zwicky.training.pretrain import new_network, pretrain
from zwicky.training.task import Task

from ..conftest import SMALL_VIT, galaxies, small_options
from .conftest import STILL

DIRECTED = ["flux", "vector:dx/dy", "spin2:e1/e2"]


@pytest.fixture(scope="module")
def started(tmp_path_factory, data, pretrain_config):
    """The directory of a finished pretraining on the roles train and unlabelled of `data`."""
    cutouts, _, split = data
    config = pretrain_config(steps=4, drop_path=0.0, lr=5e-4)
    config.backbone.options["patch_size"] = 4
    out = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain(config, cutouts, cutouts.rows_of(split.ids("train", "unlabelled")), out, quiet=True)
    return out


@pytest.fixture
def tune(tmp_path, started, data):
    """A function that fine-tunes the pretrained network on `data` into tmp_path / name."""

    def run(config, name="run", start=started, cutouts=data[0], labels=data[1], split=data[2], **more):
        return finetune(config, start, cutouts, labels, split, tmp_path / name, quiet=True, **more)

    return run


@pytest.fixture
def used(data):
    """used(run, *uses): the ids of `data` that a run was trained on in these ways, all but pretraining by default."""

    def ids(run, *uses):
        objects = provenance.read(run).of_use(*uses or ("normalise", "fit", "select"))
        return data[0].ids[provenance.find_leaked(data[0], np.arange(len(data[0])), objects)].tolist()

    return ids


def test_pretraining_records_its_objects_and_refuses_others(tmp_path, started, data, pretrain_config, used):
    cutouts, _, split = data
    assert set(used(started, "pretrain")) == set(split.ids("train", "unlabelled"))
    info = read_json(started / "run.json")
    assert info["finished"]
    assert (info["steps"], info["images_seen"]) == (4, 64)
    assert info["pflops"] > 0
    rows = cutouts.rows_of(split.ids("train"))
    pretrain(pretrain_config(steps=1), cutouts, rows, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="other data"):
        pretrain(pretrain_config(steps=1), cutouts, rows[:-1], tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="images to pretrain on"):
        pretrain(pretrain_config(), cutouts, np.arange(1), tmp_path / "one", quiet=True)
    config = pretrain_config()
    config.method.name, config.method.options = "supervised", {"classes": 2}
    with pytest.raises(UserError, match="finetune"):
        pretrain(config, cutouts, rows, tmp_path / "supervised", quiet=True)


@pytest.mark.parametrize("meaning", [True, False])
def test_the_knn_accuracy_of_a_pretraining_is_of_the_label_of_each_image(tmp_path, pretrain_config, meaning):
    """Any network tells broad galaxies from narrow ones, and none knows labels without a meaning."""
    cutouts, names = make_cutouts(galaxies(120), ("g", "r")), np.array(["broad", "narrow"], object)[np.arange(120) % 2]
    names = names if meaning else np.random.default_rng(1).permutation(names)
    pretrain(pretrain_config(steps=1), cutouts, np.arange(120), tmp_path / "run", labels=names, quiet=True)
    accuracy = read_table(tmp_path / "run" / "metrics.csv")["knn_accuracy"].iloc[-1]
    assert accuracy > 0.8 if meaning else accuracy < 0.65


@pytest.mark.parametrize(("method", "steps"), [(DINO, (3, 2)), (Supervised, (1,)), (Supervised, (5,))])
def test_resumed_equals_uninterrupted(
    tmp_path, tune, data, pretrain_config, finetune_config, monkeypatch, method, steps
):
    """The weights, their average, the best ones and the temperature; interrupted in these steps of each attempt."""
    cutouts, labels, _ = data
    after_step, train = method.after_step, {"weight_ema": 0.9, "checkpoint_seconds": 0.0}

    def run(name):
        if method is DINO:
            names, config = labels.of(cutouts.ids[:80]), pretrain_config(**train)
            pretrain(config, cutouts, np.arange(80), tmp_path / name, labels=names, quiet=True)
        else:
            tune(finetune_config(**train), name)

    def interrupt(self, progress):  # the step's update has happened, nothing of it is saved
        remaining.pop()
        if not remaining:
            raise KeyboardInterrupt
        after_step(self, progress)

    run("whole")
    for step in steps:
        remaining = [None] * step
        with monkeypatch.context() as context:
            context.setattr(method, "after_step", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run("parts")
    for _ in range(2):  # resumed, then read back
        run("parts")
        for file in ("metrics.csv", "config.yaml", "network.safetensors", "network.json"):
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_classes_are_learned_from_nested_draws_of_labels(tmp_path, tune, data, finetune_config, used):
    split = data[2]
    network = tune(finetune_config(labels=40))
    assert network.classes == ("nonlens", "lens")
    select = data[0].rows_of(used(tmp_path / "run", "select"))
    truth = Task.classification(*data[:2]).truth[select]
    assert network.temperature == pytest.approx(fit_temperature(network.outputs(data[0].images[select]), truth))
    ids = used(tmp_path / "run")
    assert len(set(ids)) == len(ids) == 40
    assert len(used(tmp_path / "run", "select")) == 8
    assert sorted(used(tmp_path / "run", "pretrain")) == sorted(split.ids("train", "unlabelled"))
    assert {split.roles[i] for i in ids} == {"train"}
    tune(finetune_config(labels=60), "more")
    assert set(ids) < set(used(tmp_path / "more"))


def test_labels_that_select_are_at_most_so_many_and_apart_from_their_groups(data):
    cutouts, labels, split = data
    pairs = {name: f"pair {row // 2}" for row, name in enumerate(cutouts.ids)}
    for most, count in ((20, 20), (400, 48)):
        config = FitConfig(select=0.4, select_most=most)
        fit, select = divide_labels(cutouts.ids, labels, config, 0, replace(split, groups=pairs))
        assert (len(select), len(fit)) == (count, 120 - count)
        assert not {pairs[name] for name in fit} & {pairs[name] for name in select}


def test_labels_are_smoothed_as_the_fit_says(tmp_path, tune, finetune_config):
    """Without a step the loss is linear in the share that is spread over all classes."""
    losses = []
    for share in (0.0, 0.3, 0.9):
        config = finetune_config(steps=1, lr=0.0, min_lr=0.0)
        config.fit.label_smoothing = share
        tune(config, str(share))
        losses.append(read_table(tmp_path / str(share) / "metrics.csv")["loss"][0])
    assert losses[0] != losses[2]
    assert losses[1] - losses[0] == pytest.approx((losses[2] - losses[0]) / 3, rel=1e-2)


def test_from_scratch_forgets_what_was_learned(tmp_path, tune, started, finetune_config, used):
    config = finetune_config(steps=1, lr=0.0, min_lr=0.0)
    config.fit.head, key = "probe", "net.blocks.0.attn.qkv.weight"
    start = load_network(started).backbone.state_dict()
    warm, cold = (tune(config, str(new), from_scratch=new) for new in (False, True))
    assert all(torch.equal(value, start[name]) for name, value in warm.backbone.state_dict().items())
    assert not torch.equal(cold.backbone.state_dict()[key], start[key])
    assert cold.head.bias.abs().max() == 0  # random weights have no probe
    assert not used(tmp_path / "True", "pretrain")


def test_leakage_is_refused(tmp_path, tune, started, data, finetune_config, used):
    cutouts, labels, split = data
    swapped = Split("swapped", {i: {"train": "test", "test": "train"}.get(r, r) for i, r in split.roles.items()})
    with pytest.raises(UserError, match="leakage"):
        tune(finetune_config(labels=20), split=swapped)
    # The same pixels under other ids, in another store.
    other = make_cutouts(cutouts.images, cutouts.bands, [f"copy {i}" for i in cutouts.ids], pixel_scale=[0.2] * 120)
    names = Labels({f"copy {i}": label for i, label in labels.values.items()})
    roles = Split("copy", {f"copy {i}": role for i, role in swapped.roles.items()})
    with pytest.raises(UserError, match="leakage"):
        tune(finetune_config(labels=20), cutouts=other, labels=names, split=roles)
    with pytest.raises(UserError, match="leakage"):
        evaluate(started, other, names, roles)
    assert not (tmp_path / "run" / "network.json").exists()


def test_leakage_through_a_weights_file_is_refused(tmp_path, tune, data, pretrain_config, finetune_config):
    """Pretrain on some objects, pretrain again elsewhere from a copy of the weights alone, and of an export."""
    cutouts, _, split = data
    train, test = (cutouts.rows_of(split.ids(role)) for role in ("train", "test"))
    first, few, known = tmp_path / "first", test[:1], (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    for rows, files in ((np.concatenate([train[:9], few]), known), (train[:9], (tmp_path / "clean.safetensors",))):
        pretrain(pretrain_config(steps=1), cutouts, rows, first, quiet=True)
        (exported,) = (path for path in export(first, tmp_path / "out") if path.suffix == ".safetensors")
        for path, file in zip((first / "network.safetensors", exported), files, strict=False):
            shutil.copy(path, file)
        shutil.rmtree(first)
    for path in (*known, tmp_path / "clean.safetensors"):
        config = pretrain_config(steps=1)
        config.backbone.pretrained = str(path)
        pretrain(config, cutouts, train[9:20], tmp_path / path.stem, quiet=True)
        objects = provenance.read(tmp_path / path.stem)
        found = np.flatnonzero(provenance.find_leaked(cutouts, np.arange(len(cutouts)), objects))
        assert set(found) == {*train[:20], *(few if path in known else [])}  # both histories
        assert not objects.unknown
    for path in known:
        with pytest.raises(UserError, match="trained on 1 objects for the test"):
            tune(finetune_config(), start=tmp_path / path.stem)
        with pytest.raises(UserError, match="trained on 1 objects"):
            tune(replace(finetune_config(), backbone=replace(config.backbone, pretrained=str(path))), start=None)
    tune(finetune_config(steps=1), start=tmp_path / "clean")
    assert not any("unknown" in warning for warning in read_json(tmp_path / "run" / "run.json")["warnings"])
    state = load_file(tmp_path / "clean.safetensors")
    save_file(state, tmp_path / "stripped.safetensors")
    config.backbone.pretrained = str(tmp_path / "stripped.safetensors")
    pretrain(config, cutouts, train, tmp_path / "unknown", quiet=True)
    tune(finetune_config(steps=1), "tuned", start=tmp_path / "unknown")
    for run in (tmp_path / "unknown", tmp_path / "tuned"):
        assert provenance.read(run).unknown == (config.backbone.pretrained,)
        assert any("unknown history" in warning for warning in read_json(run / "run.json")["warnings"])


def test_mistakes_do_not_block_the_directory(tmp_path, tune, started, data, finetune_config):
    cutouts, linear = data[0], finetune_config()
    linear.normalisation = NormalisationConfig(stretch="linear")
    for config, arguments, message in (
        (finetune_config(targets=["id"]), {}, "'id' holds no numbers"),
        (finetune_config(targets=["flux", "simulated"]), {}, "'simulated' holds no"),
        (finetune_config(targets=["noise"]), {}, "'noise' holds no numbers"),
        (finetune_config(), {"cutouts": make_cutouts(cutouts.images, ("g", "r"), cutouts.ids)}, "bands"),
        (finetune_config(), {"start": None}, "a recipe with a backbone"),
        (recipe(finetune_config), {}, "leave them out"),
        (linear, {}, "leave them out"),
    ):
        with pytest.raises(UserError, match=message):
            tune(config, **arguments)
    tune(finetune_config(steps=1))
    with pytest.raises(UserError, match=r"fit\.train"):
        tune(finetune_config(steps=2))
    before = (tmp_path / "run" / "network.safetensors").stat().st_mtime_ns
    tune(finetune_config(steps=1), start=shutil.copytree(started, tmp_path / "moved"))  # a moved start is the same
    assert (tmp_path / "run" / "network.safetensors").stat().st_mtime_ns == before


def test_regression_uses_the_objects_with_numbers(tmp_path, tune, data, finetune_config, used):
    """Whether or not they have a class label; those without a finite value are left out."""
    cutouts, labels, split = data
    flux = np.where(np.arange(120) % 3, cutouts.column("flux"), np.nan)
    holes = Cutouts(cutouts.images, cutouts.table.assign(flux=flux), cutouts.bands)
    some = Labels(dict(list(labels.values.items())[:60]))
    network = tune(finetune_config(targets=DIRECTED, labels=0, steps=3), cutouts=holes, labels=some)
    assert network.classes == ()
    assert [target.kind for target in network.targets] == ["scalar", "vector", "spin2"]
    assert network.outputs(cutouts.images[:3]).shape == (3, 5)
    learned = flux[cutouts.rows_of(used(tmp_path / "run", "fit"))]
    assert (network.scaler.mean[0], network.scaler.std[0]) == pytest.approx((learned.mean(), learned.std()))
    train = cutouts.rows_of(split.ids("train"))
    assert sorted(used(tmp_path / "run")) == sorted(cutouts.ids[train[np.isfinite(flux[train])]])
    table = evaluate(tmp_path / "run", cutouts, some, split)
    assert set(table["of"]) == {"flux", "dx", "dy", "e1", "e2"}
    assert set(table["metric"]) == {"mae", "r2"}


def test_values_to_learn_are_drawn_as_in_a_benchmark(tmp_path, tune, data, finetune_config, used):
    cutouts, labels, split = data
    tune(replace(finetune_config(targets=["flux"], labels=10, steps=1), draw=3))
    strata = Task.regression(cutouts, ["flux"]).strata(cutouts, labels)
    config = BenchmarkConfig(labels=[10], draws=1, seed=3, targets=["flux"], finetune=FitConfig(select=0.0))
    assert sorted(used(tmp_path / "run")) == sorted(make_label_draws(config, cutouts, strata, split)[0].subsets[10][0])
    unknown = Cutouts(cutouts.images, cutouts.table.assign(flux=np.nan), cutouts.bands)
    with pytest.raises(UserError, match="all labels asked for, split 'holdout' has 0"):
        tune(finetune_config(targets=["flux"], labels=0), cutouts=unknown)


@pytest.mark.parametrize("unit", [1e-23, 1e20])  # eV of an axion, solar masses
def test_the_unit_of_a_target_does_not_matter(tmp_path, tune, data, finetune_config, unit):
    cutouts, labels, split = data
    cutouts = Cutouts(cutouts.images, cutouts.table.assign(mass=unit * cutouts.column("flux")), cutouts.bands)
    outputs, losses, errors = [], [], []
    for name, scale in (("flux", 1.0), ("mass", unit)):
        network = tune(finetune_config(targets=[name], labels=0, steps=4), name, cutouts=cutouts)
        outputs.append(network.outputs(cutouts.images[:5])[:, 0].astype(np.float64) / scale)
        losses.append(read_table(tmp_path / name / "metrics.csv")[["loss", "select_loss"]].stack().to_numpy())
        table = evaluate(tmp_path / name, cutouts, labels, split).set_index("metric")["value"]
        errors.append([table["mae"] / scale, table["r2"]])
    assert outputs[0].std() > 0
    for first, second in (outputs, losses, errors):
        np.testing.assert_allclose(second, first, rtol=1e-3)


@pytest.mark.slow
def test_a_planted_signal_is_learned(tmp_path, make_blobs, tune, finetune_config):
    """Flux, offset and shape of blobs, from a few hundred of them; R² on other blobs."""
    cutouts, labels = make_blobs(500, seed=7)
    split = Split("holdout", dict(zip(cutouts.ids, ["train"] * 400 + ["test"] * 100, strict=True)))
    train = {"batch_size": 64, "lr": 8e-3, "layer_decay": 1.0, "weight_ema": 0.98}
    config = finetune_config(targets=DIRECTED, labels=0, steps=400, **train)
    config.views.brightness = config.views.contrast = 0.0  # flux is one of the targets
    tune(config, cutouts=cutouts, labels=labels, split=split, from_scratch=True)
    table = evaluate(tmp_path / "run", cutouts, labels, split)
    assert table["value"][table["metric"] == "r2"].min() > 0.7


@pytest.mark.parametrize(
    ("name", "options"), [("d4_vit", {}), ("polar_vit", {"angles": 64}), ("polar_vit", {"angles": 64, "mirror": False})]
)
def test_directed_targets_of_an_equivariant_network_rotate(tmp_path, tune, data, finetune_config, name, options):
    config = finetune_config(targets=DIRECTED, labels=0, steps=3)
    config.backbone = BackboneConfig(name, small_options(name) | options)
    tune(config, start=None)
    network, images = load_network(tmp_path / "run"), data[0].images[:20]
    assert network.scaler.mean[1:] == (0, 0, 0, 0)
    assert network.scaler.std[1] == network.scaler.std[2]
    assert network.scaler.std[3] == network.scaler.std[4]
    upright = network.outputs(images, turns=False)
    rotated = network.outputs(np.ascontiguousarray(np.rot90(images, axes=(2, 3))), turns=False)
    # rot90 takes (x, y) to (y, −x), and a spin-2 pair to its opposite.
    expected = upright[:, [0, 2, 1, 3, 4]] * [1, 1, -1, -1, -1]
    assert np.allclose(rotated, expected, atol=1e-3 * upright[:, 1:].std(0).max())
    assert upright[:, 1:].std(0).min() > 1e-5


def recipe(finetune_config, pretrained=None, **changes):
    config = finetune_config(**changes)
    config.backbone = BackboneConfig("beit_base", SMALL_VIT, pretrained)
    return config


def test_a_recipe_starts_from_published_weights(tmp_path, tune, data, finetune_config, used):
    """With a learning rate of 0 the weights are the published ones; the normalisation is that of train alone."""
    cutouts, _, split = data
    torch.manual_seed(4)
    net = Beit(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, init_values=0.1,
               use_abs_pos_emb=False, use_rel_pos_bias=True)  # fmt: skip
    save_file(net.state_dict(), tmp_path / "beit.safetensors")
    config = recipe(finetune_config, str(tmp_path / "beit.safetensors"), steps=1, lr=0.0, min_lr=0.0)
    network, key = tune(config, start=None), "blocks.1.attn.qkv.weight"
    assert torch.equal(network.backbone.net.state_dict()[key], net.state_dict()[key])
    rows = cutouts.rows_of(split.ids("train", "unlabelled"))
    own_scale = replace(network.normalisation, output_center=0.0, output_std=1.0)  # before that of the weights
    fitted = Normalisation.fit(cutouts.images[rows], cutouts.bands)
    assert own_scale == replace(fitted, output_center=0.0, output_std=1.0)
    assert len(used(tmp_path / "run", "normalise")) == len(rows)
    (tmp_path / "beit.safetensors").unlink()  # a finished run needs it no more
    again = tune(config, start=None)
    assert torch.equal(again.backbone.net.cls_token, network.backbone.net.cls_token)
    config.normalisation = NormalisationConfig(stretch="linear")
    cold = tune(config, "cold", start=None, from_scratch=True)
    assert cold.normalisation.stretch == "linear"
    assert not torch.equal(cold.backbone.net.state_dict()[key], net.state_dict()[key])


def test_weights_of_a_run_keep_the_scale_of_runs_as_folder_file_and_export(data, tmp_path):
    """Only weights that others published expect pixels on their own scale."""
    cutouts, _, _ = data
    config, run = BackboneConfig("vit_tiny", SMALL_VIT | {"depth": 1}), tmp_path / "run"
    views = ViewsConfig(crop=16, local_crops=0)
    rows = np.arange(len(cutouts))
    network = new_network(config, None, cutouts, rows, views, 0)
    save_network(run, replace(network, history=provenance.record(cutouts, {"fit": rows})))
    export(run, tmp_path / "export")
    save_file(load_file(weights_file(run)), tmp_path / "foreign.safetensors")  # without the record
    for path in (run, weights_file(run), tmp_path / "export/model.safetensors", tmp_path / "foreign.safetensors"):
        begun = new_network(replace(config, pretrained=str(path)), None, cutouts, rows, views, 0)
        kept = begun.normalisation.output_std == network.normalisation.output_std
        assert kept == (path.stem != "foreign")


@pytest.mark.parametrize("targets", [[], ["flux", "dx"]])
@pytest.mark.parametrize("head", ["probe", "random"])
def test_the_head_starts_as_the_probe(tune, started, data, finetune_config, monkeypatch, head, targets):
    """With a learning rate of 0 the network is a logistic or ridge regression on the features of its views."""
    cutouts, labels, _ = data
    config = finetune_config(steps=1, lr=0.0, min_lr=0.0, labels=60, targets=targets)
    config.fit.head, config.views, config.fit.select = head, STILL, 0.0  # each view is the image itself
    given = []
    monkeypatch.setattr(
        "zwicky.training.finetune.fit_labels", lambda *args, **k: given.append(args) or fit_labels(*args, **k)
    )
    network = tune(config)
    task = Task.regression(cutouts, targets) if targets else Task.classification(cutouts, labels)
    rows = given[0][1].fit_rows
    features, groups = load_network(started).features(cutouts.images, turns=False), np.tile(np.arange(60), PROBE_VIEWS)
    x, y = features[rows][groups], task.truth[rows][groups]
    probe = LinearProbe.fit(x, y, task, groups=groups, seed=config.seed)
    weight, bias = probe.to_linear()
    expected, outputs = features @ weight.T + bias, network.outputs(cutouts.images, turns=False)
    if targets:
        assert r2_score(task.truth[:, 0], expected[:, 0]) > 0.1
    else:
        assert np.mean(expected.argmax(1) == task.truth) > 0.8
        expected, outputs = np.diff(expected), np.diff(outputs)
    scale = task.truth.std(0) if targets else expected.std()
    assert np.allclose(outputs, expected, atol=0.1 * scale) == (head == "probe")


@pytest.mark.parametrize("targets", [[], ["flux", "dx"]])
def test_a_frozen_network_predicts_what_a_benchmark_says_of_its_linear_probe(
    tmp_path, tune, started, data, finetune_config, used, targets
):
    cutouts, labels, split = data
    config = finetune_config(labels=60, targets=targets)
    config.fit.head = "frozen"
    network, before = tune(config), load_network(started)
    state = before.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.backbone.state_dict().items())
    task = Task.regression(cutouts, targets) if targets else Task.classification(cutouts, labels)
    strata = task.strata(cutouts, labels)
    ids = np.concatenate(divide_labels(label_subsets(split, strata, [60], seed=0)[60], strata, config.fit, 0, split))
    assert sorted(ids) == sorted(used(tmp_path / "run", "fit", "select"))
    learned = cutouts.rows_of(ids)
    features, test = before.features(cutouts.images), cutouts.rows_of(split.ids("test"))
    expected = PROBES["linear"](features[learned], task.truth[learned], features[test], task)
    np.testing.assert_allclose(network.predict(cutouts.images[test]), expected, rtol=1e-4, atol=1e-4)
    result = read_json(tmp_path / "run" / "run.json")
    assert result["used_probe"]
    assert result["steps"] == 0
    assert result["labels"] == 60


def test_a_probe_can_teach_and_has_no_directions(tmp_path, tune, data, finetune_config):
    config = finetune_config(steps=2, labels=60)
    config.fit.head, config.fit.select, config.unlabelled = "frozen", 0.0, True
    network = tune(config)
    result = read_json(tmp_path / "run" / "run.json")
    assert result["steps"] == 2
    assert not result["used_probe"]
    assert network.history.of_use("pseudo_label")
    config.unlabelled, config.targets = False, ["vector:dx/dy"]
    with pytest.raises(UserError, match=r"^fit.head: vectors and spin-2 targets have no linear probe; take random$"):
        tune(config, "directed")
    with pytest.raises(UserError, match=r"^scratch.head is 'frozen'; choose random or probe"):
        BenchmarkConfig(scratch=config.fit)


def test_copies_of_a_row_stay_in_one_fold_of_the_probe(small_method, small_backbone):
    """Labels without meaning, each twelve times: whoever is tested on copies of what they learned is far too sure."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.tile(np.arange(20), 12), np.arange(20, 60)])
    features, truth = rng.normal(size=(60, 32)).astype(np.float32)[rows], rng.integers(0, 2, 60)
    task = Task(truth, ("a", "b"))
    method = small_method("supervised", small_backbone(), classes=2)
    init_from_probe(method, features[None], rows, task, 0)
    expected = LinearProbe.fit(features, truth[rows], task, groups=rows, seed=0).to_linear()[0]
    found = method.head.as_linear()["weight"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    too_sure = LinearProbe.fit(features, truth[rows], task, seed=0).to_linear()[0]
    assert np.abs(found).max() < 0.1 * np.abs(too_sure).max()


@pytest.mark.parametrize("targets", [[], ["flux"]])
@pytest.mark.parametrize("lr", [30.0, 0.003])
def test_a_fit_that_does_harm_gives_back_the_probe(
    tmp_path, tune, started, data, finetune_config, monkeypatch, lr, targets
):
    wrong = np.random.default_rng(0).random(120) < 0.25  # so that no loss is 0
    labels = Labels({i: "lens" if (name == "lens") != bad else "nonlens"
                     for (i, name), bad in zip(data[1].values.items(), wrong, strict=True)})  # fmt: skip
    config = finetune_config(steps=4, lr=lr, min_lr=lr, warmup=0.0, labels=60, weight_ema=0.0, targets=targets)
    config.fit.head = "probe"
    if targets:  # two standard deviations off, so that fitting can only help
        monkeypatch.setattr(LinearProbe, "to_linear", lambda _: (np.zeros((1, 32)), np.array([2.0])))
    with warnings.catch_warnings(record=True) as given:
        tune(config, labels=labels)
    weights = load_network(tmp_path / "run").backbone.state_dict()  # as it was saved
    kept = all(torch.equal(v, weights[name]) for name, v in load_network(started).backbone.state_dict().items())
    assert kept == (lr == 30.0)
    for texts in (read_json(tmp_path / "run" / "run.json")["warnings"], [str(one.message) for one in given]):
        assert any("keeping the probe" in text for text in texts) == kept


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_a_head_that_starts_as_the_probe_fits_single_views(blur, data, tmp_path, small_backbone):
    """A probe of means over views would start far off; no worse than chance, in bfloat16 too."""
    cutouts, labels, _ = data
    views = replace(augmentation_for_labels(), crop=16, image_size=16, blur=blur, blur_sigma=(0.3, 0.4))
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    start = Network(small_backbone(bands=2, image_size=16), normalisation, views, cutouts.bands)
    # Features with a large common part and small differences.
    torch.nn.init.constant_(start.backbone.net.norm.weight, 0.003)
    torch.nn.init.constant_(start.backbone.net.norm.bias, 1.0)
    config = FitConfig(TrainConfig(max_steps=1, lr=0.0, min_lr=0.0, batch_size=80, precision="bf16"), head="probe")
    task, rows = Task.classification(cutouts, labels), np.arange(120)
    job = LabelFit(cutouts, task, rows[:80], rows[80:], views, config, 0, tmp_path, "fit", quiet=True)
    fitted = fit_labels(start, job)[1]
    assert fitted.rows[0]["loss"] < 1.2 * np.log(2)
