"""Every backbone by every number of bands and size keeps the contract."""

import re

import pytest
import timm
import torch
from timm.layers import DropPath

from zwicky import backbones, d4
from zwicky.augment.views import Target, transform_targets
from zwicky.backbones import BACKBONES, BackboneConfig
from zwicky.backbones.base import Features
from zwicky.backbones.heads import LinearHead
from zwicky.errors import UserError
from zwicky.methods import MethodConfig

TRANSFORMERS = [name for name in BACKBONES if name != "resnet18"]
STEMS = {"vit_tiny": (8, 8, 16), "swin_tiny": (8, 16), "d4_vit": (2, 2, 2), "d4_swin": (2, 3)}
TARGETS = (Target(("dx", "dy"), "vector"), Target(("theta_E",)), Target(("gamma1", "gamma2"), "spin2"))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6])
def test_features_have_the_promised_shapes(name, bands, small_backbone):
    backbone = small_backbone(name, bands)
    for size in (16, 32, 48):
        result = backbone(torch.randn(2, bands, size, size))
        assert result.pooled.shape == (2, backbone.dim)
        assert result.patch_tokens.shape == (2, *backbone.grid(size), backbone.dim)
        assert torch.isfinite(result.pooled).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_layer_groups_hold_every_parameter_once_from_input_to_output(name, small_backbone):
    backbone = small_backbone(name)
    parameters = [parameter for parameter, _ in backbone.named_parameters()]
    layer_of = [(parameter, index) for index, group in enumerate(backbone.layer_groups()) for parameter in group]
    assert sorted(parameter for parameter, _ in layer_of) == sorted(parameters)
    undecayed = {name for name in parameters if re.search(r"token|pos_embed|position|\bbias$", name)}
    assert backbone.no_weight_decay() == undecayed
    layer_of = dict(layer_of)
    visited = []
    for module_name, module in backbone.named_modules():
        own = [f"{module_name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if module_name.startswith("net.") and own:
            module.register_forward_hook(lambda *_, layer=layer_of[own[0]]: visited.append(layer))
    backbone(torch.randn(1, 3, 32, 32))
    assert visited == sorted(visited)
    assert set(visited) == set(range(len(backbone.layer_groups())))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_stochastic_depth_grows_to_the_last_block(name, small_backbone):
    parts = [part for part in small_backbone(name, drop_path=0.3).modules() if isinstance(part, DropPath)]
    rates = [part.drop_prob for part in parts]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert len(parts) > 1
    torch.manual_seed(0)
    batch_first = torch.ones(200, 8, 3)
    x = batch_first.movedim(0, 2) if name.startswith("d4") else batch_first
    dropped = parts[-1].train()(x)
    dropped = dropped.movedim(2, 0) if name.startswith("d4") else dropped
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))  # of an image all or nothing
    assert (dropped[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.1)


PUBLISHED = [(f"vit_{size}", f"vit_{size}_patch16_224") for size in ("tiny", "small", "base")]
PUBLISHED += [(f"swin_{size}", f"swin_{size}_patch4_window7_224") for size in ("tiny", "small")]


@pytest.mark.parametrize(("name", "published"), [*PUBLISHED, ("beit_base", "beit_base_patch16_224")])
def test_sizes_of_a_name_are_the_published_ones(name, published):
    options = {"window": 7} if "swin" in name else {"patch_size": 16}
    with torch.device("meta"):
        theirs = timm.create_model(published, num_classes=0)
        ours = backbones.create(name, bands=3, image_size=224, **options).net
    shapes, expected = ({n: p.shape for n, p in net.named_parameters()} for net in (ours, theirs))
    assert shapes == expected
    heads, expected = ([m.num_heads for m in net.modules() if hasattr(m, "num_heads")] for net in (ours, theirs))
    assert heads == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_config_builds_the_same_network_again(name, small_backbone):
    backbone = small_backbone(name, bands=2, image_size=48)
    again = backbones.create(**backbone.config)
    again.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 2, 48, 48)
    assert torch.equal(backbone.eval()(images).pooled, again.eval()(images).pooled)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_huge", {}, "vit_tiny"),
        ("vit_tiny", {"widht": 3}, "widht"),
        ("vit_tiny", {"width": 32, "heads": 3}, "divisible"),
        ("vit_tiny", {"pool": "max"}, "cls or mean"),
        ("beit_base", {"pool": "max"}, "cls or mean"),
        ("resnet18", {"patch_size": 8}, "patch_size"),
        ("resnet18", {"image_size": 8}, "at least 16 px"),
        ("swin_tiny", {"depths": (2, 2), "heads": (2,)}, "one of each"),
        ("swin_tiny", {"width": 18, "heads": (4, 4), "stages": 2}, "divisible"),
        ("d4_vit", {"width": 36}, "take 32"),
        ("d4_vit", {"width": 64, "heads": 3}, "take 72"),
        ("d4_swin", {"window": 3}, "take 2"),
        ("d4_swin", {"heads": [1]}, "one of each"),
        ("vit_tiny", {"depth": 0}, "depth is 0; choose from 1"),
        ("swin_tiny", {"depths": [2, 0, 2, 2]}, "depths is"),
        ("vit_tiny", {"drop_path": 1.0}, "drop_path is 1.0; choose from 0 to 0.99"),
        ("polar_vit", {"radius": 0.0}, "radius is 0.0"),
        ("polar_vit", {"radius": float("nan")}, "radius is nan"),
        ("polar_vit", {"stem": []}, "cannot be built"),
        ("polar_vit", {"radii": 7}, "multiples of 4 and 32"),
        ("polar_vit", {"spacing": "cubic"}, "linear, log"),
        ("polar_vit", {"centre": "left"}, "frame"),
        ("polar_swin", {"window": 3}, "take 2"),
        *[(name, {"stem": (2, 2, 2, 2, 2)}, "take patch_size 32") for name in ("vit_tiny", "d4_vit", "d4_swin")],
    ],
)
def test_a_wrong_backbone_is_one_line(name, options, message):
    with pytest.raises(UserError, match=message):
        backbones.create(name, **{"bands": 3, "image_size": 32, **options})


SWIN = {"patch_size": 4, "window": 4, "width": 32}


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        *[("vit_tiny", {}, size) for size in (20, 4, 33)],
        ("beit_base", {}, 33),
        ("swin_tiny", {**SWIN, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)}, 32),
        ("swin_tiny", {**SWIN, "depths": (2, 2, 2), "heads": (1, 2, 4)}, 40),
        ("swin_tiny", SWIN, 30),
        *[("d4_swin", {**SWIN, "patch_size": 2}, size) for size in (30, 36, 3)],
        ("d4_swin", {**SWIN, "stages": 1}, 50),
    ],
)
def test_an_image_size_that_does_not_fit_is_reported_with_one_that_does(name, options, size, small_backbone):
    with pytest.raises(UserError, match="px") as caught:
        small_backbone(name, image_size=size, **options)
    better = int(str(caught.value).split("take ")[1].split()[0])
    assert small_backbone(name, image_size=better, **options)(torch.randn(1, 3, better, better)).patch_tokens.numel()
    if name == "vit_tiny":
        with pytest.raises(UserError, match=f"take {better}"):
            small_backbone(name)(torch.randn(1, 3, size, size))


def test_a_resnet_takes_any_larger_image_and_no_mask(small_backbone):
    backbone = small_backbone("resnet18", image_size=64)
    for size in (64, 70, 96, 100):
        assert backbone(torch.randn(1, 3, size, size)).patch_tokens.shape[1:3] == backbone.grid(size)
    strides = [small_backbone("resnet18", image_size=size).patch_step(size) for size in (39, 40)]
    assert strides == [16, 32]
    with pytest.raises(UserError, match="vit"):
        backbone(torch.randn(1, 3, 64, 64), torch.zeros(1, 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("name", BACKBONES)
def test_heads_and_decoder_fit_every_backbone(name, small_backbone):
    backbone, images = small_backbone(name), torch.randn(2, 3, 32, 32)
    offset = Target(("x", "y"), "vector")
    for head in (backbone.prediction_head(2), backbone.prediction_head(2, (offset,))):
        assert backbone.predict(head, images).shape == (2, 2)
    assert isinstance(head, torch.nn.Linear) != backbone.invariant
    assert isinstance(backbone.prediction_head(1, TARGETS[1:2]), torch.nn.Linear)  # a scalar has no direction
    assert backbone.pixel_decoder()(backbone(images)).shape == backbone.canvas(images).shape


def test_a_linear_head_standardises_features():
    """In training by the batch, afterwards by its statistics; a linear model of raw features goes in and comes out."""
    head = LinearHead(8, 3)
    features = Features(100 + 0.01 * torch.randn(64, 8), torch.empty(64, 0, 0, 8))  # nearly parallel, as after a fit
    scaled = (features.pooled - features.pooled.mean(0)) / (features.pooled.var(0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(head(features), scaled @ head.weight.T + head.bias, atol=1e-3)
    weight, bias = torch.randn(3, 8), torch.randn(3)
    head.eval().set_linear(weight, bias, features.pooled)
    expected = features.pooled @ weight.T + bias
    assert torch.allclose(head(features), expected, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(head(features), expected, atol=1e-3)
    linear = head.as_linear()
    assert torch.allclose(linear["weight"], weight, atol=1e-3)
    assert torch.allclose(features.pooled @ linear["weight"].T + linear["bias"], expected, atol=1e-2)


@pytest.mark.parametrize(("name", "stem"), [*((name, None) for name in TRANSFORMERS), *STEMS.items()])
def test_masked_patches_are_hidden_and_only_those(name, stem, small_backbone, filled):
    """No pixel of theirs reaches a token, though the convolutions of a stem overlap. Polar patches are the canvas's."""
    backbone = filled(small_backbone(name, **({"stem": stem} if stem else {})))
    images = torch.randn_like(backbone.canvas(torch.zeros(2, 3, 32, 32)))
    backbone.canvas = lambda images: images
    mask = torch.rand(2, *backbone.grid(32)) < 0.4
    hidden = torch.nn.functional.interpolate(mask[:, None].float(), images.shape[2:])
    behind, visible = images + hidden * torch.randn_like(images), images + (1 - hidden) * torch.randn_like(images)
    with torch.no_grad():
        masked = backbone(images, mask).patch_tokens
        assert torch.equal(backbone(behind, mask).patch_tokens, masked)
        assert not torch.allclose(backbone(visible, mask).patch_tokens, masked, atol=1e-3)
        assert torch.equal(backbone(images, torch.zeros_like(mask)).patch_tokens, backbone(images).patch_tokens)
        assert not torch.allclose(backbone(images).patch_tokens, masked, atol=1e-3)
        if hasattr(backbone, "visible"):
            kept = (~mask[:1]).flatten().nonzero().T.expand(2, -1)
            images[1], behind[1] = images[0], behind[0]
            assert torch.equal(backbone.visible(images, kept), backbone.visible(behind, kept))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_is_a_share_of_each_patch(name, small_backbone, filled):
    backbone = filled(small_backbone(name))
    for size in (16, 32, 48):
        attention = backbone.attention(torch.randn(2, 3, size, size))
        assert attention.shape[2:] == backbone.grid(size)
        assert torch.allclose(attention.sum((2, 3)), torch.ones(attention.shape[:2]), atol=1e-5)


@pytest.mark.parametrize("name", ["d4_vit", "d4_swin", "polar_vit", "polar_swin"])
@torch.no_grad()
def test_predictions_transform_with_the_image(name, small_backbone, filled):
    options = {"angles": 64} if "polar" in name else {}  # at four angles cos 2θ is 0
    backbone, images = small_backbone(name, **options).eval(), torch.randn(3, 3, 32, 32)
    head = filled(backbone.prediction_head(5, TARGETS))
    upright = backbone.predict(head, images)
    assert upright.std(0).min() > 1e-4
    for g, transformed in enumerate(d4.apply(images)):
        expected = transform_targets(upright, TARGETS, d4.to_source(g).expand(3, 2, 3))
        assert torch.allclose(backbone.predict(head, transformed), expected, atol=2e-5), g
        moved = (expected - upright).abs().amax(0) > 1e-4
        assert moved.any() == (g > 0)
        assert not moved[2]


@pytest.mark.parametrize("name", ["vit_tiny", "polar_vit", "d4_vit"])
def test_a_batch_of_one_is_refused_in_one_line(name, small_backbone):
    backbone = small_backbone(name, bands=1)
    head = backbone.prediction_head(2).train()
    with pytest.raises(UserError, match="batch_size"):
        head(backbone(torch.randn(1, 1, 32, 32)))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("vit_tiny", 32, {"patch_size": 8}),
        ("vit_tiny", 32, {"patch_size": 8, "stem": [4, 4, 4]}),
        ("swin_tiny", 32, {"patch_size": 2}),
        ("swin_tiny", 32, {"patch_size": 4, "stem": [4, 4]}),
        ("d4_vit", 32, {"patch_size": 8, "stem": [4, 4, 4]}),
        ("resnet18", 32, {}),
        ("resnet18", 160, {}),
    ],
)
def test_a_patch_is_centred_on_the_pixels_that_it_sees(name, size, options, small_backbone):
    """Where blocks add nothing, the gradient of a patch token is centred on the position of the patch."""
    backbone = small_backbone(name, image_size=size, **options).eval()
    for part, weights in backbone.named_parameters():
        if re.search(r"blocks.*(\bproj|fc2)\.weight", part):
            torch.nn.init.zeros_(weights)
    images = torch.randn(16, 3, size, size, requires_grad=True)
    height, width = backbone.grid(size)
    row, column = height // 2, width // 2
    (backbone(images).patch_tokens[:, row, column] * torch.randn(16, backbone.dim)).sum().backward()
    seen = images.grad.square().sum((0, 1))
    place = torch.arange(size).float()
    centre = torch.stack([(seen.sum(0) * place).sum(), (seen.sum(1) * place).sum()]) / seen.sum()
    assert torch.allclose(centre.double(), backbone.patch_centres(size)[row, column], atol=0.03 * size)
    indices = torch.arange(height * width).unflatten(0, (height, width))
    assert torch.equal(backbone.patch_at(backbone.patch_centres(size), size), indices)


def test_a_patch_is_valid_where_half_of_its_pixels_are(small_backbone):
    backbone = small_backbone("vit_tiny", bands=2)
    valid = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 32)
    share = valid.double().unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean((1, 3, 5))
    assert torch.equal(backbone.valid_patches(valid.float(), valid), share >= 0.5)


@pytest.mark.parametrize("option", ["bands", "image_size"])
def test_what_the_data_decide_is_no_option(option):
    with pytest.raises(UserError, match=option):
        BackboneConfig(options={option: 1})
    with pytest.raises(UserError, match="backbone"):
        MethodConfig(options={"backbone": 1})
