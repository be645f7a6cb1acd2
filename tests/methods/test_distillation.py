"""The self-distillation family (DINO, iBOT, EsViT): losses by hand, teachers, centres, prototypes and heads."""

import copy
import dataclasses
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from zwicky.augment.views import Masking
from zwicky.errors import UserError
from zwicky.methods import losses
from zwicky.methods.dino import PrototypeHead
from zwicky.methods.ema import cosine, ema_update

from .oracles import slow_mim, slow_regions, slow_view_loss

TAU_S, TAU_T = 0.2, 0.05
CASES = [("dino", {}), ("ibot", {}), ("ibot", {"shared_head": False}), ("esvit", {})]
family = pytest.mark.parametrize(("name", "options"), CASES)
teachers = pytest.mark.parametrize(("name", "options"), [*CASES, ("byol", {})])


@pytest.fixture
def make(small_backbone, small_method):
    """A function that builds a method, its temperatures other than the defaults and its centres off 0."""

    def build(name, network="vit_tiny", size=32, drop_path=None, **options):
        backbone = small_backbone(network, image_size=size, **({"drop_path": drop_path} if drop_path else {}))
        temperatures = {} if name == "byol" else {"student_temperature": TAU_S, "teacher_temperature": TAU_T}
        method = small_method(name, backbone, **temperatures | options)
        for key, buffer in method.named_buffers():
            if key.endswith("center.value"):
                buffer.normal_(0, 0.1)
        return method

    return build


def features(backbone, crops, masks=()):
    """(pooled, tokens [B, N, D]) of each crop; crops of one size together, as BatchNorm of a ResNet has them."""
    found = []
    for group, mask in ((crops[:2], masks), (crops[2:], ())):
        if group:
            result = backbone(torch.cat(group), mask=torch.cat(mask) if mask else None)
            parts = (value.split(len(group[0])) for value in (result.pooled, result.patch_tokens.flatten(1, 2)))
            found += zip(*parts, strict=True)
    return found


def by_hand(method, views):
    """(view loss, loss of patches or regions, mean logits of valid patches, targets), the losses in loops.

    All summaries pass a head at once, and so do all patches.
    """
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    out_s = features(student["backbone"], views.crops, views.masks)
    out_t, batch = features(teacher["backbone"], views.crops[:2]), len(views)
    logits = student["head"](torch.cat([z for z, _ in out_s])).split(batch)
    targets = ((teacher["head"](torch.cat([z for z, _ in out_t])) - method.center.value) / TAU_T).softmax(-1)
    view = slow_view_loss(logits, targets.split(batch), TAU_S)
    if not hasattr(method, "region_center"):
        return view, None, None, targets
    head, tokens_t = getattr(method, "patch_head", "region_head"), torch.cat([tokens for _, tokens in out_t])
    raw = teacher[head](tokens_t.flatten(0, 1))
    region_targets = ((raw - method.region_center.value) / TAU_T).softmax(-1).unflatten(0, tokens_t.shape[:2])
    backbone = method.backbone
    good = [backbone.valid_patches(*pair).flatten(1) for pair in zip(views.crops, views.valid, strict=True)]
    valid = torch.cat(good[:2])
    if not views.masks:
        student_pairs = [(tokens, student[head](tokens)) for _, tokens in out_s]
        teacher_pairs = list(zip(tokens_t.split(batch), region_targets.split(batch), strict=True))
        region = slow_regions(student_pairs, teacher_pairs, good, TAU_S)
    else:
        masked, region_logits = torch.cat(views.masks).flatten(1), torch.zeros_like(region_targets)
        if masked.any():
            region_logits[masked] = student[head](torch.cat([tokens for _, tokens in out_s[:2]])[masked])
        region = slow_mim(region_logits, region_targets, masked & valid, TAU_S)
    return view, region, raw[valid.flatten()].mean(0), targets


LOSSES = [("dino", network, 32, 2, {}) for network in ("vit_tiny", "polar_vit", "polar_swin")]
LOSSES += [("ibot", network, 32, 1, {}) for network in ("polar_vit", "polar_swin")]
LOSSES += [
    ("ibot", *case, {"shared_head": shared, "batch_norm": norm})
    for case in (("vit_tiny", 32, 2), ("vit_tiny", 16, 0), ("swin_tiny", 32, 1))
    for shared, norm in product((True, False), repeat=2)
]
LOSSES += [
    ("esvit", network, 32, local, {"region_weight": weight})
    for network in ("vit_tiny", "swin_tiny", "resnet18", "polar_vit", "polar_swin")
    for local, weight in ((0, 0.5), (2, 0.5), (2, 0.1))
]


@pytest.mark.parametrize(("name", "network", "size", "local", "options"), LOSSES)
def test_loss_is_the_papers_in_loops(name, network, size, local, options, make, make_views):
    method = make(name, network, size, **options)
    views = make_views(batch=4, local=local, size=size, masking=method.needs.masking)
    with torch.no_grad():
        view, region, mean, targets = by_hand(method, views)
    old = copy.deepcopy(method)
    metrics = {key: value.detach() for key, value in method(views).items()}
    weight = options.get("region_weight", 0)
    expected = view if name == "dino" else view + region if name == "ibot" else (1 - weight) * view + weight * region
    assert float(metrics["loss"]) == pytest.approx(expected, abs=2e-5)
    assert float(metrics["teacher_entropy"]) == pytest.approx(float(losses.entropy(targets)), abs=1e-5)
    assert float(metrics["marginal_entropy"]) == pytest.approx(float(losses.entropy(targets.mean(0))), abs=1e-5)
    if name != "dino":
        assert region > 0
        assert float(metrics["region_teacher_kl"]) > 0
        assert torch.allclose(method.region_center.value, 0.9 * old.region_center.value + 0.1 * mean, atol=1e-6)


@pytest.mark.parametrize(("name", "network"), [("ibot", "vit_tiny"), ("esvit", "vit_tiny"), ("esvit", "resnet18")])
def test_invalid_patches_are_neither_predicted_nor_targets(name, network, make, make_views):
    method = make(name, network, **({"shared_head": False} if name == "ibot" else {}))
    views = make_views(batch=4, masking=method.needs.masking)
    if views.masks:
        views.masks = [mask | (torch.arange(4)[:, None, None] < 3) for mask in views.masks]
    views.valid = [valid.clone() for valid in views.valid]
    views.valid[0][0] = False  # nothing to match in one view of this image, so nothing compared with it counts
    views.valid[0][1, :, :16], views.valid[1][1, :2, :, 16:], views.valid[2][2, :, 8:] = False, False, False
    views.valid[1][2, :2, 8:16] = False  # two bands of three
    views.valid[1][3, :1], views.valid[3][3, :1] = False, False  # one band of three: still valid enough
    with torch.no_grad():
        view, region, mean, _ = by_hand(method, views)
        other = by_hand(method, dataclasses.replace(views, valid=[torch.ones_like(v) for v in views.valid]))[1]
    assert abs(region - other) > 1e-4
    old = method.region_center.value.clone()
    expected = view + region if name == "ibot" else (view + region) / 2
    assert float(method(views)["loss"].detach()) == pytest.approx(expected, abs=2e-5)
    assert torch.allclose(method.region_center.value, 0.9 * old + 0.1 * mean, atol=1e-6)
    views.valid = [torch.zeros_like(v) for v in views.valid]
    metrics = method(views)
    metrics["loss"].backward()
    assert all(torch.isfinite(value) for value in metrics.values())
    assert not any(p.grad.any() for p in method.student["region_head"].parameters())


@pytest.mark.parametrize(("shared_head", "batch_norm", "count"), list(product((True, False), (True, False), (0, 1))))
def test_no_masked_token_adds_exactly_nothing_and_one_is_enough(shared_head, batch_norm, count, make, make_views):
    method = make("ibot", shared_head=shared_head, batch_norm=batch_norm)
    views = make_views(masking=method.needs.masking)
    views.masks = [torch.zeros_like(mask) for mask in views.masks]
    views.masks[1][3, 2, 1] = count > 0
    with torch.no_grad():
        cls, mim, *_ = by_hand(method, views) if count == 0 else (0, 0)
    metrics = method(views)
    metrics["loss"].backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(value).all() for value in [*grads.values(), *metrics.values(), *method.buffers()])
    assert grads["student.backbone.mask_token"].any() == (count > 0)
    if count == 0:
        assert float(metrics["loss"].detach()) == pytest.approx(cls + mim, abs=1e-5)
        assert mim == 0
        assert not any(grads[name].any() for name in grads if "region_head" in name)


def test_ibot_masks_half_of_the_crops_in_blocks_of_a_tenth_to_a_half(make):
    assert make("ibot").needs.masking == Masking((4, 4), (0.1, 0.5), probability=0.5, blocks=True)


def test_the_teacher_sees_everything(make, make_views):
    """What lies behind the mask reaches the targets, and the student's features not at all."""
    method = make("ibot")
    views, pooled = make_views(local=0, masking=method.needs.masking), {"student": [], "teacher": []}
    for side, found in pooled.items():
        getattr(method, side)["backbone"].register_forward_hook(
            lambda _module, _inputs, out, found=found: found.append(out.pooled.detach())
        )
    method(views)
    masked = torch.cat(views.masks).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    views.crops = [c + m * torch.randn_like(c) for c, m in zip(views.crops, masked.split(len(views)), strict=True)]
    method(views)
    assert torch.equal(*pooled["student"])
    assert not torch.allclose(*pooled["teacher"])


@pytest.mark.parametrize(("name", "size"), [("vit_tiny", 8), ("resnet18", 16)])
def test_a_single_region_is_refused(name, size, make):
    with pytest.raises(UserError, match="single region"):
        make("esvit", name, size)
    assert make("esvit", name).region_weight == 0.5


@teachers
def test_the_teacher_starts_as_the_student_and_is_not_trained(name, options, make):
    method = make(name, drop_path=0.3, **options)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not {p.data_ptr() for p in method.teacher.parameters()} & {p.data_ptr() for p in method.student.parameters()}
    assert method.student["backbone"].mask_token.requires_grad == (name == "ibot")
    assert method.backbone is method.teacher["backbone"]
    networks = (method.student, method.teacher)
    rates = [max(part.drop_prob for part in net.modules() if isinstance(part, DropPath)) for net in networks]
    assert rates == pytest.approx([0.3, 0])


@teachers
@pytest.mark.parametrize("network", ["vit_tiny", "swin_tiny", "polar_vit", "polar_swin"])
def test_teacher_and_centres_move_as_in_the_papers(name, options, network, make, views_for):
    method = make(name, network, momentum=0.9, **options, **({} if name == "byol" else {"batch_norm": True}))
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    teacher = {key: value.double() for key, value in copy.deepcopy(method.teacher.state_dict()).items()}
    parameters = {key for key, _ in method.teacher.named_parameters()}
    heads = {"center": "head"} if hasattr(method, "center") else {}
    if hasattr(method, "region_center"):
        heads["region_center"] = "head" if options.get("shared_head", name == "ibot") else "region_head"
    centers = {center: getattr(method, center).value.double() for center in heads}
    for step in range(3):
        views = views_for(method, seed=step)
        with torch.no_grad():
            oracle, forwarded = copy.deepcopy(method.teacher), copy.deepcopy(method)
            forwarded(views)
            features = oracle["backbone"](torch.cat(views.crops[:2]))
            inputs = {"center": features.pooled, "region_center": features.patch_tokens.flatten(0, 2)}
            for center, head in heads.items():
                centers[center] = 0.9 * centers[center] + 0.1 * oracle[head](inputs[center]).double().mean(0)
        optimizer.zero_grad()
        method(views)["loss"].backward()
        optimizer.step()
        method.after_step((step + 1) / 10)
        momentum = cosine(0.9, 1.0, step / 10)
        student, buffers = method.student.state_dict(), forwarded.teacher.state_dict()
        for key, value in teacher.items():  # the teacher keeps the BatchNorm statistics of its own activations
            average = momentum * value + (1 - momentum) * student[key].double()
            teacher[key] = average if key in parameters else buffers[key].double()
    for key, value in method.teacher.state_dict().items():
        assert torch.allclose(value.double(), teacher[key], atol=1e-6), key
    for center, value in centers.items():
        assert torch.allclose(getattr(method, center).value.double(), value, atol=1e-5), center
        assert value.any()
    assert float(method.progress) == pytest.approx(0.3)


def test_an_average_that_sees_no_data_averages_the_buffers_too():
    target, source = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    source.load_state_dict({name: 5 * torch.ones_like(value) for name, value in source.state_dict().items()})
    ema_update(target, source, 0.75, buffers=True)
    values = {name: value.item() for name, value in target.state_dict().items()}
    assert values == {"weight": 2, "bias": 1.25, "running_mean": 1.25, "running_var": 2, "num_batches_tracked": 5}


@family
def test_the_temperature_ramps_for_all_targets(name, options, make, views_for):
    """At the end of the ramp every teacher entropy is that of a method built with the end temperature."""
    ramp = make(name, **options, teacher_temperature=0.04, teacher_temperature_end=0.2)
    warm = make(name, **options, teacher_temperature=0.2, teacher_temperature_end=0.2)
    views = views_for(ramp)
    assert ramp.teacher_temperature == 0.04
    ramp.progress.fill_(0.15)
    assert ramp.teacher_temperature == pytest.approx(0.12)
    ramp.progress.fill_(0.5)
    late, expected = ramp(views), warm(views)
    for metric in [key for key in expected if key.endswith("teacher_entropy")]:
        assert torch.equal(late[metric], expected[metric])


@pytest.mark.parametrize("name", ["dino", "esvit"])
def test_frozen_prototypes_do_not_move_decay_or_count(name, make, views_for):
    method = make(name, freeze_prototypes=0.35)
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=1e-2, weight_decay=0.1)
    prototypes = [p for key, p in method.student.named_parameters() if key.endswith("prototypes")]
    before = [p.detach().clone() for p in prototypes]
    for step in range(4):
        optimizer.zero_grad()
        method(views_for(method, seed=step))["loss"].backward()
        method.before_step()
        optimizer.step()
        method.after_step(0.1 * (step + 1))
        assert all(torch.equal(p, old) for p, old in zip(prototypes, before, strict=True))
        assert not any(p in optimizer.state for p in prototypes)
    method(views_for(method, seed=9))["loss"].backward()
    method.before_step()
    optimizer.step()
    assert all((p != old).any() for p, old in zip(prototypes, before, strict=True))
    assert len(prototypes) == (2 if name == "esvit" else 1)
    never = make(name, freeze_prototypes=0.0)
    never(views_for(never))["loss"].backward()
    never.before_step()
    assert all(p.grad is not None for p in never.parameters() if p.requires_grad)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_logits_are_cosines_in_float32(bfloat16):
    torch.manual_seed(0)
    head = PrototypeHead(8, 5, hidden=16, bottleneck=4)
    z = torch.randn(7, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        inner = head.mlp(z)
        expected = torch.stack([F.cosine_similarity(inner.float(), row[None]) for row in head.prototypes], 1)
        assert torch.allclose(head(z), expected, atol=1e-6)
        with torch.no_grad():
            head.prototypes.mul_(7.0)
        assert torch.allclose(head(z), expected, atol=1e-6)
