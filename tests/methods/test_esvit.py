"""EsViT: its loss from the networks one crop and one region at a time, on transformers and a ResNet."""

import copy
import dataclasses

import pytest
import torch

from zwicky import methods
from zwicky.errors import UserError

from .oracles import slow_regions, slow_view_loss

SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
TAU_S, TAU_T = 0.2, 0.05


def made(backbone, batch_norm=False, **options):
    options |= {"student_temperature": TAU_S, "teacher_temperature": TAU_T, "batch_norm": batch_norm}
    return methods.create("esvit", backbone, **SMALL, **options)


def by_hand(method, views):
    """(L_V, L_R, mean region logits), in loops; networks run once a size of crops, heads on one crop at a time."""
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    out_t = [teacher["backbone"](torch.cat(views.crops[:2]))]  # batch statistics of ResNet are those of a size
    sizes = [views.crops[:2], *([views.crops[2:]] if views.crops[2:] else [])]
    out_s = [student["backbone"](torch.cat(crops)) for crops in sizes]
    batch = len(views)
    z_t, z_s = ([s for f in each for s in f.pooled.split(batch)] for each in (out_t, out_s))
    r_t, r_s = ([r.flatten(1, 2) for f in each for r in f.patch_tokens.split(batch)] for each in (out_t, out_s))

    p = [((teacher["head"](z) - method.center.value) / TAU_T).softmax(-1) for z in z_t]
    view = slow_view_loss([student["head"](z) for z in z_s], p, TAU_S)
    logits_t = [teacher["region_head"](r) for r in r_t]
    targets = [((logits - method.region_center.value) / TAU_T).softmax(-1) for logits in logits_t]
    logits_s = [student["region_head"](r) for r in r_s]
    sides = [round(r.shape[1] ** 0.5) for r in r_s]
    good = [views.patch_valid(v, (n, n)).flatten(1) for v, n in enumerate(sides)]
    pairs = (list(zip(*each, strict=True)) for each in ((r_s, logits_s), (r_t, targets)))
    region = slow_regions(*pairs, good, TAU_S)
    valid_logits = torch.cat([logits[each] for logits, each in zip(logits_t, good[:2], strict=True)])
    return view, region, valid_logits.mean(0)


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny", "resnet18"])
@pytest.mark.parametrize(("local", "weight"), [(0, 0.5), (2, 0.5), (2, 0.1)])
def test_loss_is_the_papers_in_loops(name, local, weight, small_backbone, make_views):
    method = made(small_backbone(name), **({} if weight == 0.5 else {"region_weight": weight}))
    method.center.value.normal_(0, 0.1)
    method.region_center.value.normal_(0, 0.1)
    views = make_views(batch=3, local=local)
    with torch.no_grad():
        view, region, mean = by_hand(method, views)
    old = method.region_center.value.clone()
    metrics = method(views)
    assert float(metrics["loss"].detach()) == pytest.approx((1 - weight) * view + weight * region, abs=2e-5)
    assert float(metrics["region_teacher_kl"]) > 0
    assert torch.allclose(method.region_center.value, 0.9 * old + 0.1 * mean, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
def test_invalid_regions_are_neither_students_nor_targets(name, small_backbone, make_views):
    method = made(small_backbone(name))
    views = make_views(batch=4, local=2)
    views.valid = [valid.clone() for valid in views.valid]
    views.valid[0][0] = False  # nothing to match in one view of this image, so nothing compared with it counts
    views.valid[0][1, :, :16], views.valid[1][1, :2, :, 16:], views.valid[2][2, :, 8:] = False, False, False
    views.valid[3][3, :1] = False  # one band of three: still valid enough
    with torch.no_grad():
        view, region, mean = by_hand(method, views)
        _, other, _ = by_hand(method, dataclasses.replace(views, valid=[torch.ones_like(v) for v in views.valid]))
    assert abs(region - other) > 1e-4
    old = method.region_center.value.clone()
    assert float(method(views)["loss"].detach()) == pytest.approx((view + region) / 2, abs=2e-5)
    assert torch.allclose(method.region_center.value, 0.9 * old + 0.1 * mean, atol=1e-6)
    views.valid = [torch.zeros_like(v) for v in views.valid]
    metrics = method(views)
    metrics["loss"].backward()
    assert all(torch.isfinite(value) for value in metrics.values())
    assert not any(p.grad.any() for p in method.student["region_head"].parameters())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_without_the_region_loss_it_is_dino(batch_norm, small_backbone, make_views):
    options = {**SMALL, "batch_norm": batch_norm}
    ours = methods.create("esvit", small_backbone("swin_tiny"), region_loss=False, **options)
    dino = methods.create("dino", small_backbone("swin_tiny"), **options)
    assert ours.state_dict().keys() == dino.state_dict().keys()
    ours.load_state_dict(dino.state_dict())
    views = make_views()
    a, b = ours(views), dino(views)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("name", "size"), [("vit_tiny", 8), ("resnet18", 16)])
def test_a_single_region_is_refused(name, size, small_backbone):
    with pytest.raises(UserError, match="single region"):
        made(small_backbone(name, image_size=size))
    assert made(small_backbone(name, image_size=32)).region_loss
    assert not made(small_backbone(name, image_size=size), region_loss=False).region_loss
