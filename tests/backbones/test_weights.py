"""Starting from published weights, here those of randomly initialised timm networks."""

import pickle
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.beit import Beit
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones
from zwicky.errors import UserError

TINY = {"width": 32, "depth": 2, "heads": 2}


def published(**changes):
    torch.manual_seed(1)
    options = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
    return VisionTransformer(**{**options, **changes})


def write(net, path):
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    return str(path)


DEEP = {"embed_dim": 32, "num_classes": 5, "depth": 2, "num_heads": 2}
BEIT = {**DEEP, "init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
STAGES = {"embed_dim": 32, "num_classes": 5, "depths": (2, 2), "num_heads": (2, 4)}
REGISTERS = {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}
ARCHITECTURES = {
    "vit": (VisionTransformer, DEEP, "vit_tiny", TINY),
    "dinov2": (VisionTransformer, {**DEEP, "init_values": 1e-5}, "vit_tiny", {**TINY, "layer_scale": 1e-5}),
    "registers": (VisionTransformer, DEEP | REGISTERS, "vit_tiny", {**TINY, "layer_scale": 1e-5, "registers": 4}),
    "beit": (Beit, BEIT, "beit_base", TINY),
    "swin": (SwinTransformer, STAGES, "swin_tiny", {"width": 32, "depths": [2, 2], "heads": [2, 4]}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("size", "patch_size"), [(56, 7), (28, 7), (112, 7), (32, 4)])
def test_weights_at_any_size_give_what_timm_gives(tmp_path, name, size, patch_size, filled):
    """timm's network at 56 px and patch 7, loaded into ours; timm loads the same into its own of that size."""
    architecture, options, ours, ours_options = ARCHITECTURES[name]
    window = {"window_size": 7} if name == "swin" else {}
    net = filled(architecture(img_size=56, patch_size=7, **window, **options), 0.3)
    path = write(net, tmp_path / "weights.safetensors")

    window = {"window_size": 4} if name == "swin" else {}
    expected = architecture(img_size=size, patch_size=patch_size, **window, **{**options, "num_classes": 0}).eval()
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("head")}
    expected.load_state_dict(sys.modules[architecture.__module__].checkpoint_filter_fn(state, expected))

    window = {"window": 4} if name == "swin" else {}
    shape = {"bands": 3, "image_size": size, "patch_size": patch_size, **ours_options, **window}
    backbone = backbones.create(ours, **shape, pretrained=path).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(backbone(images).pooled, expected(images), atol=1e-5)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_positions_and_bands_are_adapted(tmp_path, name, bands):
    """One band has the sum of the RGB weights; five have RGBRG times 3/5, which keeps the answer to a grey image."""
    net = published()
    path = write(net, tmp_path / name)
    backbone = backbones.create("vit_tiny", bands=bands, image_size=48, patch_size=16, pretrained=path, **TINY)
    reference, ours = net.state_dict(), backbone.net.state_dict()
    assert torch.equal(reference["blocks.1.attn.qkv.weight"], ours["blocks.1.attn.qkv.weight"])
    position = resample_abs_pos_embed(reference["pos_embed"], [3, 3], num_prefix_tokens=1)
    assert torch.allclose(ours["pos_embed"], position, atol=1e-6)
    rgb = reference["patch_embed.proj.weight"]
    expected = {1: rgb.sum(1, keepdim=True), 3: rgb, 5: torch.cat([rgb, rgb[:, :2]], 1) * 3 / 5}[bands]
    assert torch.allclose(ours["patch_embed.proj.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("with_counts", [True, False])
def test_weights_of_a_resnet(tmp_path, with_counts):
    torch.manual_seed(2)
    net, path = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=7), str(tmp_path / "weights.safetensors")
    save_file({key: value for key, value in net.state_dict().items() if with_counts or "num_batches" not in key}, path)
    backbone = backbones.create("resnet18", bands=1, image_size=64, pretrained=path)
    assert torch.equal(backbone.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert torch.allclose(backbone.net.conv1.weight, net.conv1.weight.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18", "d4_vit"])
def test_weights_of_a_zwicky_network(tmp_path, name):
    options = {} if name == "resnet18" else {"patch_size": 8, **TINY}
    source = backbones.create(name, bands=4, image_size=32, **options)
    state = {f"backbone.{key}": value.contiguous() for key, value in source.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(2, source.dim)}, tmp_path / "network.safetensors")
    path = str(tmp_path / "network.safetensors")
    backbone = backbones.create(name, bands=4, image_size=32, pretrained=path, **options)
    reference, ours = source.net.state_dict(), backbone.net.state_dict()
    assert all(torch.equal(reference[key], ours[key]) for key in reference)


@pytest.mark.parametrize("source", ["vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"])
def test_a_timm_model_by_name(monkeypatch, source):
    """timm's own download is replaced by random weights; the number of heads, which no shape tells, is compared."""
    create_model = timm.create_model
    made = []

    def offline(name, pretrained, **options):
        assert pretrained
        made.append(create_model(name, depth=1, **options))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", offline)
    sizes = {"bands": 3, "image_size": 32, "patch_size": 16, "depth": 1, "pretrained": source}
    backbone = backbones.create("vit_tiny", **sizes)
    assert torch.equal(backbone.net.blocks[0].attn.qkv.weight, made[0].blocks[0].attn.qkv.weight)
    with pytest.raises(UserError, match="options heads: 3"):
        backbones.create("vit_tiny", **sizes, heads=6)


@pytest.mark.parametrize(
    ("changes", "bands", "name"),
    [
        ({"embed_dim": 48}, 3, "vit_tiny"),
        ({"depth": 1}, 3, "vit_tiny"),
        ({"depth": 3}, 3, "vit_tiny"),  # dropping the last block silently would be another network
        ({"class_token": False, "global_pool": "avg"}, 3, "vit_tiny"),
        ({"in_chans": 2}, 5, "vit_tiny"),
        ({}, 3, "resnet18"),
    ],
)
def test_weights_of_another_architecture_are_a_user_error(tmp_path, changes, bands, name):
    path = write(published(**changes), tmp_path / "weights.safetensors")
    options = {} if name == "resnet18" else {"patch_size": 16, **TINY}
    with pytest.raises(UserError, match=f"do not fit {name}|only RGB"):
        backbones.create(name, bands=bands, image_size=32, pretrained=path, **options)


class Payload:
    path = ""

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickled_code_is_not_run(tmp_path, save, monkeypatch):
    marker, path = tmp_path / "executed", tmp_path / "weights.pth"
    monkeypatch.setattr(Payload, "path", str(marker))
    save({"model": Payload()}, path)
    with pytest.raises(UserError, match="not a readable weights file"):
        backbones.create("vit_tiny", bands=3, image_size=32, pretrained=str(path), **TINY)
    assert not marker.exists()


def test_files_that_are_no_weights_are_one_line(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "config.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"nonsense")
    messages = {"missing.bin": "no such file", "config.pth": "no table of weights", "damaged.safetensors": "readable"}
    sources = {str(tmp_path / name): message for name, message in messages.items()} | {"no_such": "no_such"}
    for name, message in sources.items():
        with pytest.raises(UserError, match=message):
            backbones.create("vit_tiny", bands=3, image_size=32, pretrained=name, **TINY)
