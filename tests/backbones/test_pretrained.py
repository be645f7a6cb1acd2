"""Starting from somebody's weights, made on the spot in the layout they are published in."""

from __future__ import annotations

import pickle
import socket
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.beit import Beit
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones
from zwicky.backbones import fetch
from zwicky.errors import UserError

TINY = {"width": 32, "depth": 2, "heads": 2}


def published(**changes):
    torch.manual_seed(1)
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
    net = VisionTransformer(**{**options, **changes})
    torch.nn.init.normal_(net.patch_embed.proj.weight)
    return net


def write(net, path):
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    return str(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_weights_of_a_vit_are_adapted(tmp_path, name, bands):
    net = published()
    path = write(net, tmp_path / name)
    backbone = backbones.create("vit_tiny", bands=bands, image_size=48, patch_size=16, pretrained=path, **TINY)
    theirs, ours = net.state_dict(), backbone.net.state_dict()
    for key in ("blocks.1.attn.qkv.weight", "norm.weight", "cls_token"):
        assert torch.equal(theirs[key], ours[key])
    expected = resample_abs_pos_embed(theirs["pos_embed"], [3, 3], num_prefix_tokens=1)
    assert torch.allclose(ours["pos_embed"], expected, atol=1e-6)
    # A grey image gives the same answer however many bands it is copied into (for 5: 5/3 bands each of RGB's mean).
    grey = torch.randn(1, 1, 16, 16)
    rgb = torch.nn.functional.conv2d(grey.expand(1, 3, 16, 16), theirs["patch_embed.proj.weight"])
    own = torch.nn.functional.conv2d(grey.expand(1, bands, 16, 16), ours["patch_embed.proj.weight"])
    if bands == 5:  # repeated RGBRG over 5/3: close to RGB, exactly so only for multiples of three
        weight = theirs["patch_embed.proj.weight"]
        own_expected = torch.cat([weight, weight[:, :2]], 1) * 3 / 5
        assert torch.allclose(ours["patch_embed.proj.weight"], own_expected, atol=1e-6)
    elif bands == 1:  # one band stands for the sum of the three
        assert torch.allclose(own, rgb, atol=1e-4)
    else:
        assert torch.allclose(own, rgb, atol=1e-4)


def test_weights_meet_another_patch_size(tmp_path):
    path = write(published(), tmp_path / "weights.safetensors")
    backbone = backbones.create("vit_tiny", bands=3, image_size=32, patch_size=8, pretrained=path, **TINY)
    assert backbone.net.patch_embed.proj.weight.shape[-1] == 8
    assert torch.isfinite(backbone(torch.randn(1, 3, 32, 32)).pooled).all()


@pytest.mark.parametrize("counted", [True, False])
def test_weights_of_a_resnet(tmp_path, counted):
    torch.manual_seed(2)
    net = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=7)
    state = {key: value for key, value in net.state_dict().items() if counted or "num_batches" not in key}
    save_file(state, tmp_path / "weights.safetensors")
    path = str(tmp_path / "weights.safetensors")
    backbone = backbones.create("resnet18", bands=1, image_size=64, pretrained=path)
    assert torch.equal(backbone.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert torch.allclose(backbone.net.conv1.weight, net.conv1.weight.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
def test_our_own_weights_can_be_a_start(tmp_path, name):
    options = {"patch_size": 8, **TINY} if name == "vit_tiny" else {}
    source = backbones.create(name, bands=4, image_size=32, **options)
    state = {f"backbone.{key}": value.contiguous() for key, value in source.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(2, source.dim)}, tmp_path / "network.safetensors")
    path = str(tmp_path / "network.safetensors")
    backbone = backbones.create(name, bands=4, image_size=32, pretrained=path, **options)
    mine, theirs = backbone.net.state_dict(), source.net.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("made", "bands"),
    [
        ({"embed_dim": 48}, 3),  # other width
        ({"depth": 1}, 3),  # blocks missing
        ({"depth": 3}, 3),  # blocks left over: silently dropping the last would be another network
        ({"class_token": False, "global_pool": "avg"}, 3),
        ({"in_chans": 2}, 3),  # bands that cannot be adapted
        ({"in_chans": 2}, 5),
    ],
)
def test_other_architectures_are_refused(tmp_path, made, bands):
    path = write(published(**made), tmp_path / "weights.safetensors")
    with pytest.raises(UserError) as caught:
        backbones.create("vit_tiny", bands=bands, image_size=32, patch_size=16, pretrained=path, **TINY)
    assert "\n" not in str(caught.value)


def test_a_vit_is_no_resnet(tmp_path):
    path = write(published(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="do not fit resnet18"):
        backbones.create("resnet18", bands=3, image_size=32, pretrained=path)
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    path = write(net, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="do not fit vit_tiny"):
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=path, **TINY)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("kind", ["torch", "plain"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, kind):
    marker, path = tmp_path / "executed", tmp_path / "weights.pth"
    value = {"model": Payload(str(marker))}
    if kind == "torch":
        torch.save(value, path)
    else:
        path.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match="not a readable weights file") as caught:
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=str(path), **TINY)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_damaged_and_missing_files_are_one_line(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    for attempt in ("missing", "damaged"):
        with pytest.raises(UserError) as caught:
            backbones.create("vit_tiny", bands=3, image_size=32, pretrained=str(path), **TINY)
        assert "\n" not in str(caught.value)
        assert ("no such file" in str(caught.value)) == (attempt == "missing")
        path.write_bytes(content)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="no table of weights"):
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=str(tmp_path / "weights.pth"), **TINY)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "vit_tiny_patch16_224", "someone/some-vit"])
def test_a_hub_out_of_reach_is_one_line_at_once(monkeypatch, tmp_path, name):
    def unreachable(*_, **__):
        raise OSError("no route to host\nin two lines")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"could not be fetched .* is out of reach") as caught:
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=name, **TINY)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_model", "vit_tiny_patch16_224.no_such_training", "weights/mine/and/yours"])
def test_a_name_that_is_none_is_one_line(monkeypatch, name):
    monkeypatch.setattr(fetch, "_reachable", lambda _: True)
    with pytest.raises(UserError, match=r"no such weights|could not be fetched") as caught:
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=name, **TINY)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository, `tmp_path`, whatever it is called; the names that were asked for."""
    asked = []

    def download(repository, file, **_):
        asked.append((repository, file))
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr(fetch, "_reachable", lambda _: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_come_from_the_hub(tmp_path, hub, file):
    net = published()
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    save_file(state, tmp_path / file) if file == "model.safetensors" else torch.save(state, tmp_path / file)
    sizes = {"bands": 3, "image_size": 64, "patch_size": 16}
    backbone = backbones.create("vit_tiny", **sizes, pretrained="someone/some-vit", **TINY)
    assert torch.equal(backbone.net.blocks[1].attn.qkv.weight, net.blocks[1].attn.qkv.weight)
    assert ("someone/some-vit", file) in hub
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    with pytest.raises(UserError, match="heads: 4"):
        backbones.create("vit_tiny", **sizes, pretrained="someone/some-vit", **TINY)


def test_timm_knows_the_heads_of_its_models(tmp_path, hub):
    net = timm.create_model("vit_tiny_patch16_224", depth=1)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    sizes = {"bands": 3, "image_size": 32, "patch_size": 16, "depth": 1}
    for name in ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        backbone = backbones.create("vit_tiny", **sizes, pretrained=name)
        assert torch.equal(backbone.net.norm.weight, net.norm.weight)
        with pytest.raises(UserError, match="heads: 3"):
            backbones.create("vit_tiny", **sizes, heads=6, pretrained=name)
    assert {repository for repository, _ in hub} == {"timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"}


def test_a_truncated_file_is_one_line(tmp_path):
    whole = Path(write(published(), tmp_path / "weights.safetensors")).read_bytes()
    for share in (0.01, 0.5, 0.99):
        (tmp_path / "cut.safetensors").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="not a readable weights file") as caught:
            backbones.create("vit_tiny", bands=3, image_size=32, pretrained=str(tmp_path / "cut.safetensors"), **TINY)
        assert "\n" not in str(caught.value)


SMALL = {"embed_dim": 32, "num_classes": 5}
DEEP = {**SMALL, "depth": 2, "num_heads": 2}
BEIT = {**DEEP, "init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
STAGES = {**SMALL, "depths": (2, 2), "num_heads": (2, 4)}
ARCHITECTURES = {
    "vit": (VisionTransformer, DEEP, "vit_tiny", TINY),
    "dinov2": (VisionTransformer, {**DEEP, "init_values": 1e-5}, "vit_tiny", {**TINY, "layer_scale": 1e-5}),
    "registers": (
        VisionTransformer,
        {**DEEP, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
        "vit_tiny",
        {**TINY, "layer_scale": 1e-5, "registers": 4},
    ),
    "beit": (Beit, BEIT, "beit_base", TINY),
    "swin": (SwinTransformer, STAGES, "swin_tiny", {"width": 32, "depths": [2, 2], "heads": [2, 4]}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("size", "patch_size"), [(56, 7), (28, 7), (112, 7), (32, 4)])
def test_published_weights_at_any_size_give_what_timm_gives(tmp_path, name, size, patch_size):
    """timm's network at 56 px and patch 7, loaded into ours; timm loads the same into its own of that size."""
    architecture, options, ours, mine = ARCHITECTURES[name]
    window = {"window_size": 7} if name == "swin" else {}
    torch.manual_seed(3)
    net = architecture(img_size=56, patch_size=7, **window, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    path = write(net, tmp_path / "weights.safetensors")

    window = {"window_size": 4} if name == "swin" else {}
    theirs = architecture(img_size=size, patch_size=patch_size, **window, **{**options, "num_classes": 0}).eval()
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("head")}
    theirs.load_state_dict(sys.modules[architecture.__module__].checkpoint_filter_fn(state, theirs))

    window = {"window": 4} if name == "swin" else {}
    shape = {"bands": 3, "image_size": size, "patch_size": patch_size, **mine, **window}
    backbone = backbones.create(ours, **shape, pretrained=path).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(backbone(images).pooled, theirs(images), atol=1e-5)
