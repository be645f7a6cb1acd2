"""Starting from somebody's weights, made on the spot in the layout they are published in."""

from __future__ import annotations

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones
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
    assert torch.isfinite(backbone(torch.randn(1, 3, 32, 32)).summary).all()


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


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "no_such_model"])
def test_a_hub_out_of_reach_is_one_line(monkeypatch, name):
    def unreachable(*_, **__):
        raise OSError("no route to host\nin two lines")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", unreachable)
    with pytest.raises(UserError, match="could not be fetched") as caught:
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=name, **TINY)
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
