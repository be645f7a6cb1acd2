"""iBOT: its loss from the networks one crop and one token at a time, and what the teacher sees."""

import copy
import dataclasses

import pytest
import torch

from zwicky import methods

from .oracles import slow_mim, slow_view_loss

SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
TAU_S, TAU_T = 0.2, 0.05


def made(backbone, batch_norm=False, **options):
    options |= {"student_temperature": TAU_S, "teacher_temperature": TAU_T, "batch_norm": batch_norm}
    return methods.create("ibot", backbone, **SMALL, **options)


def resized(views, size):
    """The same views with crops of `size` px and half of it."""
    crops = [torch.nn.functional.interpolate(c, size=size if c.shape[-1] == 32 else size // 2) for c in views.crops]
    return type(views)(crops, views.to_source, views.valid, views.rows, 2, None, views.masks)


def by_hand(method, views):
    """(L_[CLS], L_MIM, mean patch logits) in loops; all summaries pass a head at once, and so do all patches."""
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    patch = method.patch_head
    count = len(views.crops)
    out_t = [teacher["backbone"](crop) for crop in views.crops[:2]]
    out_s = [student["backbone"](views.crops[v], mask=views.masks[v] if v < 2 else None) for v in range(count)]
    cls_t = teacher["head"](torch.cat([f.pooled for f in out_t])).split(len(views))
    cls_s = student["head"](torch.cat([f.pooled for f in out_s])).split(len(views))
    p = [((logits - method.center.value) / TAU_T).softmax(-1) for logits in cls_t]
    cls = slow_view_loss(cls_s, p, TAU_S)

    patch_t = teacher[patch](torch.cat([f.patch_tokens.flatten(0, 2) for f in out_t]))
    targets = ((patch_t - method.region_center.value) / TAU_T).softmax(-1)
    masked = torch.cat(views.masks).flatten(1)  # [2B, N]
    logits = torch.zeros_like(targets)
    if masked.any():
        tokens = torch.cat([f.patch_tokens.flatten(0, 2) for f in out_s[:2]])
        logits[masked.flatten()] = student[patch](tokens[masked.flatten()])
    good = torch.cat([views.patch_valid(v, out_t[0].patch_tokens.shape[1:3]) for v in range(2)]).flatten(1)
    mim = slow_mim(*(x.unflatten(0, masked.shape) for x in (logits, targets)), masked & good, TAU_S)
    return cls, mim, patch_t[good.flatten()].mean(0)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shared_head", [True, False])
@pytest.mark.parametrize(("name", "size", "local"), [("vit_tiny", 32, 2), ("vit_tiny", 16, 0), ("swin_tiny", 32, 1)])
def test_loss_is_the_papers_in_loops(name, size, local, shared_head, batch_norm, small_backbone, make_views):
    method = made(small_backbone(name, image_size=size), shared_head=shared_head, batch_norm=batch_norm)
    method.center.value.normal_(0, 0.1)
    method.region_center.value.normal_(0, 0.1)
    views = make_views(local=local, masking=method.needs.masking)
    views = views if size == 32 else resized(views, size)
    with torch.no_grad():
        cls, mim, mean = by_hand(method, views)
    old = method.region_center.value.clone()
    metrics = method(views)
    assert mim > 0
    assert float(metrics["loss"].detach()) == pytest.approx(cls + mim, abs=2e-5)
    assert torch.allclose(method.region_center.value, 0.9 * old + 0.1 * mean, atol=1e-6)


def test_invalid_patches_are_neither_predicted_nor_targets(small_backbone, make_views):
    method = made(small_backbone())
    views = make_views(masking=method.needs.masking)
    views.masks = [mask | (torch.arange(len(views))[:, None, None] < 3) for mask in views.masks]
    for view in range(2):
        valid = views.valid[view].clone()
        valid[0] = False  # an image of which nothing is valid
        valid[1, :, :16] = False
        valid[2, :2, 8:16] = False  # two of three bands
        valid[2, :1, :8] = False  # one of three: those still count
        views.valid[view] = valid
    with torch.no_grad():
        cls, mim, mean = by_hand(method, views)
        _, other, _ = by_hand(method, dataclasses.replace(views, valid=[torch.ones_like(v) for v in views.valid]))
    assert abs(mim - other) > 1e-3
    old = method.region_center.value.clone()
    metrics = method(views)
    assert float(metrics["loss"].detach()) == pytest.approx(cls + mim, abs=2e-5)
    assert torch.allclose(method.region_center.value, 0.9 * old + 0.1 * mean, atol=1e-6)


@pytest.mark.parametrize("shared_head", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("count", [0, 1])
def test_no_masked_token_adds_exactly_nothing_and_one_is_enough(
    shared_head, batch_norm, count, small_backbone, make_views
):
    method = made(small_backbone(), shared_head=shared_head, batch_norm=batch_norm)
    views = make_views(masking=method.needs.masking)
    views.masks = [torch.zeros_like(mask) for mask in views.masks]
    views.masks[1][3, 2, 1] = count > 0
    with torch.no_grad():
        cls, mim, _ = by_hand(method, views) if count == 0 else (0, 0, 0)
    metrics = method(views)
    metrics["loss"].backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(value).all() for value in [*grads.values(), *metrics.values(), *method.buffers()])
    assert grads["student.backbone.mask_token"].any() == (count > 0)
    if count == 0:
        assert float(metrics["loss"].detach()) == pytest.approx(cls + mim, abs=1e-5)
        assert mim == 0
        assert not any(grads[name].any() for name in grads if "region_head" in name)


def test_the_teacher_sees_everything(small_backbone, make_views):
    """What lies behind the mask reaches the targets, and the student's features not at all."""
    method = made(small_backbone())
    views = make_views(local=0, masking=method.needs.masking)
    out_s = {}
    for side in ("student", "teacher"):
        getattr(method, side)["backbone"].register_forward_hook(
            lambda _module, _inputs, out, side=side: out_s.__setitem__(side, out.pooled.detach())
        )
    method(views)
    before = dict(out_s)
    masked = torch.cat(views.masks).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    views.crops = [c + m * torch.randn_like(c) for c, m in zip(views.crops, masked.split(len(views)), strict=True)]
    method(views)
    assert torch.equal(before["student"], out_s["student"])
    assert not torch.allclose(before["teacher"], out_s["teacher"])
