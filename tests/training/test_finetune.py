"""From pretraining to labels: what is learnt, from whom, and what is refused."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import r2_score
from timm.models.beit import Beit

from zwicky import backbones
from zwicky.augment.config import NormalisationConfig, ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import Target
from zwicky.backbones import BackboneConfig
from zwicky.data.cutouts import Cutouts, make_cutouts
from zwicky.data.labels import Labels
from zwicky.data.splits import Split
from zwicky.errors import UserError
from zwicky.evaluation.equivariance import verify
from zwicky.evaluation.evaluate import evaluate
from zwicky.evaluation.results import read_table
from zwicky.io import read_json
from zwicky.methods.dino import DINO
from zwicky.methods.supervised import Supervised
from zwicky.training import checkpoint, provenance
from zwicky.training.config import FitConfig, TrainConfig, augmentation_for_labels
from zwicky.training.finetune import PROBE_VIEWS, finetune, fit_labels
from zwicky.training.linear_probe import LinearProbe
from zwicky.training.network import Network, load_network
from zwicky.training.pretrain import pretrain
from zwicky.training.task import Task


@pytest.fixture(scope="module")
def started(tmp_path_factory, data):
    """The directory of a finished pretraining on the roles train and unlabelled of `data`."""
    from zwicky.backbones import BackboneConfig
    from zwicky.methods import MethodConfig
    from zwicky.training.config import PretrainConfig, TrainConfig

    cutouts, _, split = data
    config = PretrainConfig(
        method=MethodConfig("dino", {"prototypes": 16, "hidden": 16, "bottleneck": 8}),
        backbone=BackboneConfig("vit_tiny", {"patch_size": 4, "width": 32, "depth": 2, "heads": 2}),
        views=ViewsConfig(local_crops=2, local_size=8),
        train=TrainConfig(max_steps=4, batch_size=16, precision="float32", evaluations=2),
    )
    out = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain(config, cutouts, cutouts.rows_of(split.ids("train", "unlabelled")), out, quiet=True)
    return out


def test_pretraining_is_read_back_and_touches_no_test_object(started, data, pretrain_config):
    _, _, split = data
    trained = set(provenance.read(started).table["id"])
    assert trained == set(split.ids("train", "unlabelled"))
    assert not trained & set(split.ids("test"))
    info = read_json(started / "run.json")
    assert info["finished"]
    assert info["steps"] == 4
    assert info["images_seen"] == 64
    assert info["pflops"] > 0


@pytest.fixture
def interrupted(monkeypatch):
    """interrupted(method class, step, function): call it and interrupt its fit in the step of that number."""

    def run(method, step, function):
        calls, after_step = [], method.after_step

        def interrupt(self, progress):  # the step's update has happened, nothing of it is saved
            calls.append(progress)
            if len(calls) == step:
                raise KeyboardInterrupt
            after_step(self, progress)

        with monkeypatch.context() as context:
            context.setattr(method, "after_step", interrupt)
            with pytest.raises(KeyboardInterrupt):
                function()

    return run


def test_pretraining_resumed_equals_uninterrupted(tmp_path, interrupted, data, pretrain_config):
    cutouts, labels, split = data
    rows = cutouts.rows_of(split.ids("train"))
    names = labels.of(cutouts.ids[rows])

    def run(out, **options):
        config = pretrain_config(weight_ema=0.9, checkpoint_seconds=0.0)
        return pretrain(config, cutouts, rows, out, labels=names, quiet=True)

    whole = run(tmp_path / "whole")
    for step in (3, 2):  # in the first three steps, then in the second of the rest
        interrupted(DINO, step, lambda: run(tmp_path / "parts"))
    assert 0 < checkpoint.load(tmp_path / "parts" / "checkpoint" / "last.pt")["progress"]["steps"] < 6
    parts = run(tmp_path / "parts")
    for key, value in whole.backbone.state_dict().items():
        assert torch.equal(value, parts.backbone.state_dict()[key]), key
    for name in ("metrics.csv", "config.yaml", "network.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    before = (tmp_path / "parts" / "network.safetensors").stat().st_mtime_ns
    run(tmp_path / "parts")
    assert (tmp_path / "parts" / "network.safetensors").stat().st_mtime_ns == before


def test_pretraining_goes_on_with_the_same_images_only(tmp_path, data, pretrain_config):
    cutouts, _, split = data
    rows = cutouts.rows_of(split.ids("train"))
    pretrain(pretrain_config(), cutouts, rows, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="other data"):
        pretrain(pretrain_config(), cutouts, rows[:-1], tmp_path / "run", quiet=True)


def test_a_method_that_needs_labels_does_not_pretrain(tmp_path, data, pretrain_config):
    cutouts, _, _ = data
    config = pretrain_config()
    config.method.name, config.method.options = "supervised", {"classes": 2}
    with pytest.raises(UserError, match="finetune"):
        pretrain(config, cutouts, np.arange(20), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="images to pretrain on"):
        pretrain(pretrain_config(), cutouts, np.arange(1), tmp_path / "run", quiet=True)


def test_classes_are_learnt_from_the_labels_asked_for(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    network = finetune(finetune_config(labels=40), started, cutouts, labels, split, tmp_path / "run", quiet=True)
    assert network.classes == ("nonlens", "lens")
    assert network.temperature > 0
    table = provenance.read(tmp_path / "run").table.to_dict("list")
    mine = [i for i, use in zip(table["id"], table["use"], strict=True) if use != "pretrain"]
    assert len(mine) == len(set(mine)) == 40
    assert table["use"].count("select") == 8
    assert table["use"].count("pretrain") == len(split.ids("train", "unlabelled"))
    assert all(split.roles[i] == "train" for i in mine)
    assert not set(table["id"]) & set(split.ids("test"))
    more = finetune(finetune_config(labels=60), started, cutouts, labels, split, tmp_path / "more", quiet=True)
    assert more.classes == network.classes
    table = provenance.read(tmp_path / "more").table.to_dict("list")
    assert set(mine) < {i for i, use in zip(table["id"], table["use"], strict=True) if use != "pretrain"}


@pytest.mark.parametrize("step", [1, 5])
def test_finetuning_resumed_equals_uninterrupted(tmp_path, interrupted, started, data, finetune_config, step):
    """The best weights, their average and the temperature as well."""
    cutouts, labels, split = data

    def run(out):
        config = finetune_config(checkpoint_seconds=0.0)
        return finetune(config, started, cutouts, labels, split, out, quiet=True)

    whole = run(tmp_path / "whole")
    interrupted(Supervised, step, lambda: run(tmp_path / "parts"))
    parts = run(tmp_path / "parts")
    assert whole.temperature == parts.temperature
    for name in ("metrics.csv", "network.safetensors", "network.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_from_scratch_forgets_what_was_learnt(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    config = finetune_config(steps=1, lr=0.0, min_lr=0.0)
    warm = finetune(config, started, cutouts, labels, split, tmp_path / "warm", quiet=True)
    cold = finetune(config, started, cutouts, labels, split, tmp_path / "cold", from_scratch=True, quiet=True)
    start = load_network(started).backbone.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in warm.backbone.state_dict().items())
    key = "net.blocks.0.attn.qkv.weight"
    assert not torch.equal(cold.backbone.state_dict()[key], start[key])
    assert set(provenance.read(tmp_path / "cold").table["use"]) == {"fit", "select"}


def test_leaks_are_refused(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    turned = Split("turned", {i: {"train": "test", "test": "train"}.get(r, r) for i, r in split.roles.items()})
    with pytest.raises(UserError, match="leakage"):
        finetune(finetune_config(labels=20), started, cutouts, labels, turned, tmp_path / "run", quiet=True)
    # the same pixels under other ids, in another store
    copy = make_cutouts(cutouts.images, cutouts.bands, [f"copy {i}" for i in cutouts.ids], pixel_scale=[0.2] * 120)
    names = Labels({f"copy {i}": label for i, label in labels.values.items()})
    roles = Split("copy", {f"copy {i}": role for i, role in turned.roles.items()})
    with pytest.raises(UserError, match="leakage"):
        finetune(finetune_config(labels=20), started, copy, names, roles, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="leakage"):
        evaluate(started, copy, names, roles)
    assert not (tmp_path / "run" / "network.json").exists()


def test_mistakes_are_one_line_and_do_not_bar_the_directory(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    run = tmp_path / "run"
    single = Labels(dict.fromkeys(labels.values, "lens"))
    other = make_cutouts(cutouts.images, ("g", "r"), cutouts.ids, pixel_scale=[0.2] * 120)
    for arguments, words in (
        ((finetune_config(labels=4000), started, cutouts, labels, split), "4000"),
        ((finetune_config(targets=["colour"]), started, cutouts, labels, split), "colour"),
        ((finetune_config(targets=["id"]), started, cutouts, labels, split), "'id' holds no numbers"),
        ((finetune_config(targets=["flux", "simulated"]), started, cutouts, labels, split), "'simulated' holds no"),
        ((finetune_config(targets=["noise"]), started, cutouts, labels, split), "'noise' holds no numbers"),
        ((finetune_config(targets=["vector:dx"]), started, cutouts, labels, split), "vector:X/Y"),
        ((finetune_config(), started, cutouts, single, split), "1 class"),
        ((finetune_config(), started, other, labels, split), "bands"),
        ((finetune_config(), tmp_path, cutouts, labels, split), "holds no network"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            finetune(*arguments, run, quiet=True)
        assert "\n" not in str(caught.value)
    finetune(finetune_config(steps=1), started, cutouts, labels, split, run, quiet=True)
    with pytest.raises(UserError, match=r"fit\.train"):
        finetune(finetune_config(steps=2), started, cutouts, labels, split, run, quiet=True)


@pytest.mark.parametrize("labelled", [1.0, 0.5])
def test_regression_of_partly_labelled_stores(tmp_path, started, data, finetune_config, labelled):
    """Regression asks for the numbers, not for class labels."""
    cutouts, labels, split = data
    some = Labels({i: label for i, label in labels.values.items() if int(i[-4:]) < 120 * labelled})
    config = finetune_config(targets=["flux", "vector:dx/dy", "spin2:e1/e2"], labels=0, steps=3)
    network = finetune(config, started, cutouts, some, split, tmp_path / "run", quiet=True)
    assert network.classes == ()
    assert [target.kind for target in network.targets] == ["scalar", "vector", "spin2"]
    assert network.outputs(cutouts.images[:3]).shape == (3, 5)
    rows = evaluate(tmp_path / "run", cutouts, some, split)
    assert set(rows["of"]) == {"flux", "dx", "dy", "e1", "e2"}
    assert set(rows["metric"]) == {"mae", "r2"}


@pytest.mark.parametrize("unit", [1e-23, 1e20])  # eV of an axion, solar masses
def test_the_unit_of_a_target_does_not_matter(tmp_path, started, data, finetune_config, unit):
    """The unit of a target changes nothing: loss, choice of weights, answers and R²."""
    cutouts, labels, split = data
    table = cutouts.table.assign(mass=unit * cutouts.column("flux"))
    rescaled = Cutouts(cutouts.images, table, cutouts.bands)
    answers, losses, errors = [], [], []
    for name in ("flux", "mass"):
        config = finetune_config(targets=[name], labels=0, steps=4)
        network = finetune(config, started, rescaled, labels, split, tmp_path / name, quiet=True)
        answers.append(network.outputs(cutouts.images[:5])[:, 0].astype(np.float64))
        rows = read_table(tmp_path / name / "metrics.csv")
        losses.append(rows[["loss", "select_loss"]].stack().to_numpy())
        errors.append(evaluate(tmp_path / name, rescaled, labels, split).set_index("metric")["value"])
        verified = verify(tmp_path / name, rescaled, 4)
        assert np.isfinite(verified["outputs"]).all()
    assert answers[0].std() > 0
    np.testing.assert_allclose(answers[1] / unit, answers[0], rtol=1e-3)
    assert len(losses[0]) >= 5
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert errors[1]["mae"] / unit == pytest.approx(errors[0]["mae"], rel=1e-3)
    assert errors[1]["r2"] == pytest.approx(errors[0]["r2"], rel=1e-3)


def test_objects_without_the_number_are_left_out(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    flux = cutouts.column("flux").copy()
    flux[::3] = np.nan
    table = cutouts.table.assign(flux=flux)
    holes = Cutouts(cutouts.images, table, cutouts.bands)
    config = finetune_config(targets=["flux"], labels=0, steps=2)
    finetune(config, started, holes, labels, split, tmp_path / "run", quiet=True)
    table = provenance.read(tmp_path / "run").table.to_dict("list")
    mine = [i for i, use in zip(table["id"], table["use"], strict=True) if use != "pretrain"]
    train = holes.rows_of(split.ids("train"))
    assert sorted(mine) == sorted(holes.ids[train[np.isfinite(flux[train])]])


@pytest.mark.slow
def test_a_planted_signal_is_learnt(tmp_path, make_blobs, started, finetune_config):
    """Flux, offset and shape of blobs, from a few hundred of them; R² on blobs never seen."""
    cutouts, labels = make_blobs(500, seed=7)
    roles = dict(zip(cutouts.ids, ["train"] * 400 + ["test"] * 100, strict=True))
    split = Split("holdout", roles)
    config = finetune_config(
        targets=["flux", "vector:dx/dy", "spin2:e1/e2"], labels=0, steps=400, batch_size=64, lr=8e-3, layer_decay=1.0
    )
    config.fit.train.weight_ema = 0.98
    config.views.brightness = config.views.contrast = 0.0  # flux is one of the targets
    finetune(config, started, cutouts, labels, split, tmp_path / "run", from_scratch=True, quiet=True)
    rows = evaluate(tmp_path / "run", cutouts, labels, split)
    found = {row["of"]: row["value"] for row in rows if row["metric"] == "r2"}
    assert min(found.values()) > 0.7, found


def test_directed_targets_of_an_equivariant_network_turn(tmp_path, data, finetune_config):
    """Through the command's own path: the head is of the targets' types, and so is what is read back."""
    cutouts, labels, split = data
    config = finetune_config(targets=["flux", "vector:dx/dy", "spin2:e1/e2"], labels=0, steps=3)
    config.backbone = BackboneConfig("d4_vit", {"patch_size": 8, "width": 32, "depth": 2, "heads": 2})
    finetune(config, None, cutouts, labels, split, tmp_path / "run", quiet=True)
    network = load_network(tmp_path / "run")
    assert network.scaler.mean[1:] == (0, 0, 0, 0)
    upright = network.outputs(cutouts.images[:20], turns=False)
    turned = network.outputs(np.ascontiguousarray(np.rot90(cutouts.images[:20], axes=(2, 3))), turns=False)
    # rot90 takes (x, y) to (y, −x), and a spin-2 pair to its opposite.
    expected = upright[:, [0, 2, 1, 3, 4]] * [1, 1, -1, -1, -1]
    assert np.allclose(turned, expected, atol=1e-4 * upright[:, 1:].std(0).max())
    assert upright[:, 1:].std(0).min() > 1e-5


def recipe(finetune_config, pretrained=None, **changes):
    config = finetune_config(**changes)
    options = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2}
    config.backbone = BackboneConfig("beit_base", options, pretrained)
    return config


def test_a_recipe_starts_from_published_weights(tmp_path, data, finetune_config):
    """With a learning rate of 0 what is saved is what was published; the normalisation is that of train alone."""
    cutouts, labels, split = data
    torch.manual_seed(4)
    net = Beit(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, init_values=0.1,
               use_abs_pos_emb=False, use_rel_pos_bias=True)  # fmt: skip
    save_file(net.state_dict(), tmp_path / "beit.safetensors")
    config = recipe(finetune_config, str(tmp_path / "beit.safetensors"), steps=1, lr=0.0, min_lr=0.0)
    network = finetune(config, None, cutouts, labels, split, tmp_path / "run", quiet=True)
    mine = network.backbone.net.state_dict()
    assert torch.equal(mine["blocks.1.attn.qkv.weight"], net.blocks[1].attn.qkv.weight)
    rows = cutouts.rows_of(split.ids("train", "unlabelled"))
    assert network.normalisation == Normalisation.fit(cutouts.images[rows], cutouts.bands)
    (tmp_path / "beit.safetensors").unlink()  # a finished run needs it no more
    again = finetune(config, None, cutouts, labels, split, tmp_path / "run", quiet=True)
    assert torch.equal(again.backbone.net.cls_token, network.backbone.net.cls_token)
    uses = provenance.read(tmp_path / "run").table["use"].tolist()
    assert uses.count("normalise") == len(rows)
    assert len(evaluate(tmp_path / "run", cutouts, labels, split))

    cold = finetune(config, None, cutouts, labels, split, tmp_path / "cold", from_scratch=True, quiet=True)
    key = "blocks.1.attn.qkv.weight"
    assert not torch.equal(cold.backbone.net.state_dict()[key], mine[key])


def test_a_run_takes_precedence_over_a_recipe(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    with pytest.raises(UserError, match="a recipe with a backbone"):
        finetune(finetune_config(), None, cutouts, labels, split, tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="leave them out"):
        finetune(recipe(finetune_config), started, cutouts, labels, split, tmp_path / "run", quiet=True)
    other = finetune_config()
    other.normalisation = NormalisationConfig(stretch="linear")
    with pytest.raises(UserError, match="leave them out"):
        finetune(other, started, cutouts, labels, split, tmp_path / "run", quiet=True)
    config = recipe(finetune_config, steps=1)
    config.normalisation = NormalisationConfig(stretch="linear")
    network = finetune(config, None, cutouts, labels, split, tmp_path / "run", quiet=True)
    assert network.normalisation.stretch == "linear"


def test_leakage_through_a_weights_file_is_refused(tmp_path, started, data, pretrain_config, finetune_config):
    """Pretrain on all objects, pretrain again from those weights elsewhere, fine-tune: still refused."""
    cutouts, labels, split = data
    everything = tmp_path / "everything"
    pretrain(pretrain_config(steps=1), cutouts, np.arange(120), everything, quiet=True)
    config = pretrain_config(steps=1)
    config.backbone.pretrained = str(everything / "network.safetensors")
    train = cutouts.rows_of(split.ids("train"))
    pretrain(config, cutouts, train, tmp_path / "again", quiet=True)
    with pytest.raises(UserError, match="leakage"):
        finetune(finetune_config(), tmp_path / "again", cutouts, labels, split, tmp_path / "run", quiet=True)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((everything / "network.safetensors").read_bytes())
    config.backbone.pretrained = str(copy)
    pretrain(config, cutouts, train, tmp_path / "unknown", quiet=True)
    finetune(finetune_config(steps=1), tmp_path / "unknown", cutouts, labels, split, tmp_path / "run", quiet=True)
    for run in (tmp_path / "unknown", tmp_path / "run"):
        assert provenance.read(run).unknown == (str(copy),)
        assert any("unknown history" in warning for warning in read_json(run / "run.json")["warnings"])


def test_a_run_resumes_from_a_moved_start(tmp_path, started, data, finetune_config):
    cutouts, labels, split = data
    moved = tmp_path / "moved"
    config, out = finetune_config(steps=1), tmp_path / "run"
    finetune(config, started, cutouts, labels, split, out, quiet=True)
    shutil.copytree(started, moved)
    before = (out / "network.safetensors").stat().st_mtime_ns
    finetune(config, moved, cutouts, labels, split, out, quiet=True)
    assert (out / "network.safetensors").stat().st_mtime_ns == before


STILL = ViewsConfig(rotation="none", flip=False, shift=0.0, global_scale=(1.0, 1.0), brightness=0.0, contrast=0.0,
                    blur=0.0, noise=0.0, local_crops=0)  # fmt: skip


@pytest.mark.parametrize("head", ["probe", "random"])
def test_a_head_begins_as_the_probe(tmp_path, started, data, finetune_config, head):
    """With a learning rate of 0 the network says what a logistic regression on the features of its views says."""
    cutouts, labels, split = data
    config = finetune_config(steps=1, lr=0.0, min_lr=0.0, labels=60)
    config.fit.head, config.views = head, STILL  # each view is the image itself
    config.fit.select = 0.0  # nothing to choose another head by
    network = finetune(config, started, cutouts, labels, split, tmp_path / "run", quiet=True)
    used = provenance.read(tmp_path / "run").table
    rows = cutouts.rows_of([i for i, use in zip(used["id"], used["use"], strict=True) if use == "fit"])
    features = load_network(started).features(cutouts.images, turns=False)
    truth = np.array([label == "nonlens" for label in labels.of(cutouts.ids)]) == (network.classes[1] == "nonlens")
    shown = np.tile(np.arange(len(rows)), PROBE_VIEWS)
    x, y = features[rows][shown], truth[rows][shown].astype(int)
    task = Task(truth, network.classes)
    weight, bias = LinearProbe.fit(x, y, task, groups=shown, seed=config.seed).to_linear()
    difference = features @ (weight[1] - weight[0]) + bias[1] - bias[0]
    found = network.outputs(cutouts.images, turns=False)
    assert np.allclose(found[:, 1] - found[:, 0], difference, atol=0.05 * difference.std()) == (head == "probe")
    if head == "probe":
        assert np.mean((difference > 0) == truth) > 0.8
        cold = finetune(config, started, cutouts, labels, split, tmp_path / "cold", from_scratch=True, quiet=True)
        assert cold.head.bias.abs().max() == 0  # random weights have nothing to probe


@pytest.mark.parametrize("head", ["probe", "random"])
def test_numbers_begin_as_a_ridge_regression(tmp_path, started, data, finetune_config, head):
    """With a learning rate of 0 the network says what a ridge regression on the features of its views says."""
    cutouts, labels, split = data
    config = finetune_config(steps=1, lr=0.0, min_lr=0.0, labels=60, targets=["flux", "dx"])
    config.fit.head, config.views = head, STILL
    config.fit.select = 0.0
    network = finetune(config, started, cutouts, labels, split, tmp_path / "run", quiet=True)
    used = provenance.read(tmp_path / "run").table
    rows = cutouts.rows_of([i for i, use in zip(used["id"], used["use"], strict=True) if use == "fit"])
    features = load_network(started).features(cutouts.images, turns=False)
    truth = np.stack([cutouts.column("flux"), cutouts.column("dx")], 1)
    shown = np.tile(np.arange(len(rows)), PROBE_VIEWS)
    task = Task.regression(cutouts, config.targets)
    probe = LinearProbe.fit(features[rows][shown], truth[rows][shown], task, groups=shown, seed=config.seed)
    weight, bias = probe.to_linear()
    expected, found = features @ weight.T + bias, network.outputs(cutouts.images, turns=False)
    assert np.allclose(found, expected, atol=0.1 * truth.std(0)) == (head == "probe")
    assert r2_score(truth[:, 0], expected[:, 0]) > 0.1  # the probe says something


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_a_head_that_begins_as_the_probe_fits_single_views(data, tmp_path, blur):
    """Features with a large common part and small differences: a probe of means over views would start far off."""
    cutouts, labels, _ = data
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=2, image_size=16, patch_size=8, width=32, depth=2, heads=2)
    with torch.no_grad():
        backbone.net.norm.weight.mul_(0.003)
        backbone.net.norm.bias.add_(1.0)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    views = replace(augmentation_for_labels(), crop=16, image_size=16, blur=blur, blur_sigma=(0.3, 0.4))
    truth = np.array([label == "lens" for label in labels.of(cutouts.ids)]).astype(np.int64)
    task = Task(truth, ("nonlens", "lens"))
    config = FitConfig(TrainConfig(max_steps=1, lr=0.0, min_lr=0.0, batch_size=80, precision="bf16"), head="probe")
    _, fitted = fit_labels(
        Network(backbone, normalisation, views, cutouts.bands),
        cutouts,
        task,
        np.arange(80),
        np.arange(80, 120),
        views,
        config,
        seed=0,
        folder=tmp_path,
        title="fit",
        quiet=True,
    )
    assert fitted.rows[0]["loss"] < 1.2 * np.log(2)  # no worse than not knowing, in bfloat16 too


@pytest.mark.parametrize("targets", [[], ["flux"]])
@pytest.mark.parametrize("lr", [30.0, 0.003])
def test_a_fit_that_does_harm_gives_back_the_probe(tmp_path, started, data, finetune_config, monkeypatch, lr, targets):
    cutouts, labels, split = data
    wrong = np.random.default_rng(0).random(len(cutouts)) < 0.25  # so that no loss is 0
    values = {
        i: "lens" if (name == "lens") != bad else "nonlens"
        for (i, name), bad in zip(labels.values.items(), wrong, strict=True)
    }
    labels = Labels(values)
    config = finetune_config(steps=4, lr=lr, min_lr=lr, warmup=0.0, labels=60, weight_ema=0.0, targets=targets)
    config.fit.head = "probe"
    if targets:  # two standard deviations off, so that fitting can only help
        monkeypatch.setattr(LinearProbe, "to_linear", lambda _: (np.zeros((1, 32)), np.array([2.0])))
    finetune(config, started, cutouts, labels, split, tmp_path / "run", quiet=True)
    network = load_network(tmp_path / "run")  # as it was saved
    kept = all(
        torch.equal(value, network.backbone.state_dict()[name])
        for name, value in load_network(started).backbone.state_dict().items()
    )
    said = read_json(tmp_path / "run" / "run.json")["warnings"]
    assert any("keeping the probe" in warning for warning in said) == kept
    assert kept == (lr == 30.0)


def test_numbers_are_not_rounded_by_mixed_precision(data, tmp_path):
    """Targets far from 0 beside their scatter: what is learnt from is what was given, in bfloat16 too."""
    cutouts, _, _ = data
    torch.manual_seed(0)
    backbone = backbones.create("vit_tiny", bands=2, image_size=16, patch_size=8, width=32, depth=1, heads=2)
    normalisation = Normalisation.fit(cutouts.images, cutouts.bands)
    views = replace(augmentation_for_labels(), crop=16, image_size=16)
    truth = np.random.default_rng(0).normal(58000.0, 1.0, (len(cutouts), 1)).astype(np.float32)
    task = Task(truth, targets=(Target(("day",)),))
    losses = []
    for precision in ("float32", "bf16"):
        train = TrainConfig(max_steps=1, lr=0.0, min_lr=0.0, batch_size=80, precision=precision)
        fitted = fit_labels(
            Network(copy.deepcopy(backbone), normalisation, views, cutouts.bands), cutouts, task, np.arange(80),
            np.arange(0), views, FitConfig(train), seed=0, folder=tmp_path / precision, title="fit", quiet=True,
        )[1]  # fmt: skip
        losses.append(fitted.rows[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
