"""The transformers against timm's own forward passes and against attention written out in loops."""

import pickle
import re
import sys
from contextlib import nullcontext

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from zwicky import backbones
from zwicky.backbones import attention, swin
from zwicky.backbones.vit import index_with_cls
from zwicky.backbones.weights import published_scale
from zwicky.errors import UserError


@pytest.fixture(params=["cls", "mean"])
def vit(request, small_backbone, filled):
    made = filled(small_backbone(depth=3, pool=request.param))
    for block in made.net.blocks:
        block.attn.fused_attn = False
    return made


def gradients(backbone, pooled):
    backbone.zero_grad()
    (pooled.float() * torch.linspace(-1, 1, pooled.shape[1])).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.requires_grad])


@pytest.mark.parametrize("size", [16, 32, 48])
def test_vit_values_and_gradients_are_timms(vit, size):
    vit.set_trainable()
    images, net = torch.randn(4, 3, size, size), vit.net
    tokens = net.norm(net.blocks(net._pos_embed(net.patch_embed(images))))
    result, short = vit(images), vit(images, patch_tokens=False)
    expected = tokens[:, 0] if vit.pool == "cls" else tokens[:, 1:].mean(1)
    assert torch.allclose(result.patch_tokens.flatten(1, 2), tokens[:, 1:], atol=1e-5)
    assert torch.allclose(result.pooled, expected, atol=1e-5)
    assert torch.allclose(short.pooled, expected, atol=1e-5)
    assert short.patch_tokens.shape[1] == (0 if vit.pool == "cls" else size // 8)
    gradient = gradients(vit, expected)
    assert torch.allclose(gradients(vit, short.pooled), gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("size", [16, 24, 32])
@torch.no_grad()
def test_vit_attention_is_the_softmax_of_products(vit, size):
    images, side, net = torch.randn(2, 3, size, size), size // 8, vit.net
    normed = net.blocks[-1].norm1(net.blocks[:-1](net._pos_embed(net.patch_embed(images))))
    q, k, _ = net.blocks[-1].attn.qkv(normed).unflatten(2, (3, 2, 16)).unbind(2)  # [B, N, heads, d]
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 4).softmax(-1)
    expected = (weights[:, :, :1] if vit.pool == "cls" else weights[:, :, 1:]).mean(2)[..., 1:]
    expected /= expected.sum(-1, keepdim=True)
    assert torch.allclose(vit.attention(images), expected.unflatten(2, (side, side)), atol=1e-5)
    assert expected.std() > 0.001


@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_beit_values_are_timms(pool, small_backbone, filled):
    beit, images = filled(small_backbone("beit_base", depth=3, pool=pool)), torch.randn(3, 3, 32, 32)
    result, net = beit(images), beit.net
    assert torch.allclose(result.pooled, net(images), atol=1e-5)
    norm = net.fc_norm if beit.pool == "mean" else torch.nn.Identity()
    assert torch.allclose(result.patch_tokens.flatten(1, 2), norm(net.forward_features(images)[:, 1:]), atol=1e-5)
    assert torch.allclose(beit(images, patch_tokens=False).pooled, result.pooled, atol=1e-5)
    assert torch.equal(index_with_cls(4, 4), net.blocks[0].attn.relative_position_index)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7])
def test_relative_positions_on_any_grid_are_those_of_a_loop(side):
    result = index_with_cls(4, side)
    expected = torch.full_like(result, 49)
    expected[:, 0], expected[0, 0] = 50, 51
    for here in range(side**2):
        for there in range(side**2):
            steps = [here // side - there // side, here % side - there % side]
            dy, dx = (max(-3, min(3, step)) + 3 for step in steps)
            expected[1 + here, 1 + there] = 7 * dy + dx
    assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("size", "patch", "window", "depths"),
    [
        *[(32, 2, 4, (2, 2)), (32, 1, 4, (1, 2, 1)), (64, 4, 4, (2, 2, 2)), (96, 4, 6, (2, 2, 2))],
        *[(48, 4, 6, (2, 3)), (40, 4, 5, (2, 2)), (24, 4, 3, (3,))],
    ],
)
@torch.no_grad()
def test_swin_values_are_timms(size, patch, window, depths, small_backbone, filled):
    heads = (1, 2, 4)[: len(depths)]
    sizes = {"patch_size": patch, "depths": depths}
    backbone = filled(small_backbone("swin_tiny", image_size=size, window=window, heads=heads, **sizes))
    net = SwinTransformer(img_size=size, window_size=window, embed_dim=16, num_heads=heads, num_classes=0, **sizes)
    net.load_state_dict(backbone.net.state_dict())
    images = torch.randn(2, 3, size, size)
    result = backbone(images)
    assert torch.allclose(result.patch_tokens, net.eval().forward_features(images), atol=1e-5)
    assert torch.allclose(result.pooled, net(images), atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
@torch.no_grad()
def test_a_map_smaller_than_the_window_is_attended_whole_and_unpadded(side, small_backbone, filled):
    """Attention over all cells, its bias looked up by offset in the table of a 4 × 4 window."""
    backbone = filled(small_backbone("swin_tiny", image_size=16, window=4, depths=(2,), heads=(2,)))
    for block in backbone.net.layers[0].blocks:
        attn, raw = block.attn, torch.randn(2, side, side, 16)
        q, k, v = attn.qkv(block.norm1(raw)).flatten(1, 2).unflatten(-1, (3, 2, 8)).unbind(2)  # [B, N, heads, d]
        cells = [(y, x) for y in range(side) for x in range(side)]
        entries = torch.tensor([[7 * (qy - ky + 3) + qx - kx + 3 for ky, kx in cells] for qy, qx in cells])
        bias = attn.relative_position_bias_table[entries].permute(2, 0, 1)
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5 + bias).softmax(-1)
        mixed = attn.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)).unflatten(1, (side, side))
        assert torch.allclose(swin.window_attention(block, block.norm1(raw)), mixed, atol=1e-5)
        assert torch.allclose(swin.attention_received(block, raw).flatten(2), weights.mean(2), atol=1e-6)


@pytest.mark.parametrize("name", ["swin_tiny", "beit_base", "d4_swin"])
def test_tables_made_in_an_evaluation_serve_training(name, small_backbone):
    """Indices are cached; one made in inference mode could not be saved for a backward pass."""
    for cached in (attention.relative_position_index, attention.shifted_window_mask, index_with_cls):
        cached.cache_clear()
    backbone, images = small_backbone(name, image_size=64), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        backbone(images)
    backbone(images).pooled.square().sum().backward()
    tables = [p.grad for key, p in backbone.named_parameters() if key in backbone.no_weight_decay() and "blocks" in key]
    assert tables
    assert all(table.any() for table in tables)


TINY = {"width": 32, "depth": 2, "heads": 2}


def write(net, path, without=" "):
    state = {key: value.contiguous() for key, value in net.state_dict().items() if without not in key}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    return str(path)


DEEP = {"embed_dim": 32, "num_classes": 5, "depth": 2, "num_heads": 2}
TIMM_BEIT = {**DEEP, "init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
STAGES = {"embed_dim": 32, "num_classes": 5, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7}
REGISTERS = {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}
ARCHITECTURES = {
    "vit": (VisionTransformer, DEEP, "vit_tiny", TINY),
    "dinov2": (VisionTransformer, {**DEEP, "init_values": 1e-5}, "vit_tiny", {**TINY, "layer_scale": 1e-5}),
    "registers": (VisionTransformer, DEEP | REGISTERS, "vit_tiny", {**TINY, "layer_scale": 1e-5, "registers": 4}),
    "beit": (Beit, TIMM_BEIT, "beit_base", TINY),
    "swin": (SwinTransformer, STAGES, "swin_tiny", {"width": 32, "depths": [2, 2], "heads": [2, 4], "window": 4}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("size", "patch_size"), [(56, 7), (28, 7), (112, 7), (32, 4)])
def test_weights_at_any_size_give_what_timm_gives(tmp_path, name, size, patch_size, filled):
    """timm's network at 56 px and patch 7, loaded into ours; timm loads the same into its own of that size."""
    architecture, options, ours, ours_options = ARCHITECTURES[name]
    net = filled(architecture(img_size=56, patch_size=7, **options), 0.3)
    path = write(net, tmp_path / "weights.safetensors")

    options = options | {"num_classes": 0} | ({"window_size": 4} if name == "swin" else {})
    expected = architecture(img_size=size, patch_size=patch_size, **options).eval()
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("head")}
    expected.load_state_dict(sys.modules[architecture.__module__].checkpoint_filter_fn(state, expected))

    shape = {"bands": 3, "image_size": size, "patch_size": patch_size, **ours_options}
    backbone = backbones.create(ours, **shape, pretrained=path).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(backbone(images).pooled, expected(images), atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("vit_tiny", "patch_embed.proj"), ("resnet18", "conv1")])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_rgb_weights_are_adapted_to_the_bands(tmp_path, name, layer, suffix, bands, small_backbone, filled):
    """One band has the sum of the RGB weights; five have RGBRG times 3/5, which keeps the answer to a grey image."""
    source = filled(small_backbone(name)).net
    path = write(source, tmp_path / f"weights.{suffix}", without="num_batches")  # which old files lack
    expected = source.state_dict()
    rgb = expected[f"{layer}.weight"]
    expected[f"{layer}.weight"] = {1: rgb.sum(1, True), 3: rgb, 5: torch.cat([rgb, rgb[:, :2]], 1) * 3 / 5}[bands]
    state = small_backbone(name, bands, pretrained=path).net.state_dict()
    assert all(torch.allclose(state[key], value, atol=1e-6) for key, value in expected.items())


@pytest.mark.parametrize("stem", [None, (8, 16)])
@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny", "d4_vit", "d4_swin", "polar_vit", "polar_swin", "resnet18"])
def test_one_band_becomes_the_mean_of_several(tmp_path, name, stem, small_backbone):
    """An image of three equal bands is seen as the one band was, with a patch embedding and with a stem."""
    options = {"stem": stem, **({} if "polar" in name else {"patch_size": 4})} if stem and name != "resnet18" else {}
    source, path = small_backbone(name, bands=1, **options).eval(), str(tmp_path / "network.safetensors")
    state = {f"backbone.{key}": value.contiguous() for key, value in source.state_dict().items()}
    save_file({**state, "head.weight": torch.zeros(2, source.dim)}, path)
    backbone, images = small_backbone(name, pretrained=path, **options).eval(), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(backbone(images.expand(2, 3, 32, 32)).pooled, source(images).pooled, atol=1e-5)


@pytest.mark.parametrize("prefix", ["teacher.backbone.", "model.", "_orig_mod.", "module.encoder_q.", "chunks"])
def test_weights_as_training_scripts_save_them(tmp_path, prefix, small_backbone):
    source = small_backbone()
    state = {key.removeprefix("net."): value.clone() for key, value in source.state_dict().items()}
    named = {prefix + key: value for key, value in state.items()}
    if prefix == "chunks":
        named = {re.sub(r"blocks\.(\d+)", r"blocks.0.\1", key): value for key, value in state.items()}
    other = {} if "_q" in prefix else {f"student.{key}": torch.zeros_like(value) for key, value in state.items()}
    torch.save(named | other | {"masked_embed": torch.zeros(1, 4), "dino_head.w": torch.zeros(3)}, tmp_path / "w.ckpt")
    backbone = small_backbone(pretrained=str(tmp_path / "w.ckpt"))
    assert all(torch.equal(value, state[key]) for key, value in backbone.net.state_dict().items())
    torch.save({key: value * torch.nan for key, value in state.items()}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match="not finite"):
        small_backbone(pretrained=str(tmp_path / "w.ckpt"))


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
    path = write(VisionTransformer(**{"img_size": 64, **DEEP, **changes}), tmp_path / "weights.safetensors")
    options = {} if name == "resnet18" else {"patch_size": 16, **TINY}
    with pytest.raises(UserError, match=f"do not fit {name}|one or three"):
        backbones.create(name, bands=bands, image_size=32, pretrained=path, **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 4}, "options heads: 2"),
        ({"spacing": "log"}, "options spacing: linear"),
        ({"mirror": False}, "options mirror: True"),
        ({"depth": 3}, "do not fit polar_vit"),
        ({"heads": 2, "radius": 0.8, "centre": "brightest", "drop_path": 0.1}, None),
    ],
)
def test_weights_of_a_run_are_refused_where_the_same_numbers_would_mean_another_network(changes, words):
    source = str(backbones.NETWORKS / "zwicky-rings")
    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        backbones.create("polar_vit", bands=1, image_size=48, pretrained=source, **changes)


class Payload:
    path = ""

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickled_code_is_not_run(tmp_path, save, monkeypatch, small_backbone):
    marker, path = tmp_path / "executed", tmp_path / "weights.pth"
    monkeypatch.setattr(Payload, "path", str(marker))
    save({"model": Payload()}, path)
    with pytest.raises(UserError, match="not a readable weights file"):
        small_backbone(pretrained=str(path))
    assert not marker.exists()


def test_files_that_are_no_weights_are_one_line(tmp_path, small_backbone):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "config.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"nonsense")
    messages = {"missing.bin": "no such file", "config.pth": "no table of weights", "damaged.safetensors": "readable"}
    sources = {str(tmp_path / name): message for name, message in messages.items()} | {"no_such": "no_such"}
    for name, message in sources.items():
        with pytest.raises(UserError, match=message):
            small_backbone(pretrained=name)


def test_the_scale_of_published_pixels(small_backbone):
    beit, swin = small_backbone("beit_base"), small_backbone("swin_tiny")
    assert published_scale(beit, "timm/beit_base_patch16_224.in22k_ft_in22k") == (0.5, 0.5)
    assert published_scale(beit, "weights/model.safetensors") == (0.5, 0.5)
    imagenet = pytest.approx((0.449, 0.226))
    assert published_scale(swin, "hf-hub:OWNER/NAME") == imagenet
    assert published_scale(small_backbone("vit_tiny"), "vit_small_patch14_dinov2.lvd142m") == imagenet
