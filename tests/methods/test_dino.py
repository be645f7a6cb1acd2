"""The self-distillation family (DINO, iBOT, EsViT): what is trained, how teacher and centres move, and DINO's loss."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

from zwicky import methods
from zwicky.methods import losses
from zwicky.methods.dino import Center, PrototypeHead
from zwicky.methods.ema import cosine

from .oracles import slow_view_loss

SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
CASES = [("dino", {}), ("ibot", {}), ("ibot", {"shared_head": False}), ("esvit", {}), ("esvit", {"region_loss": False})]
TEACHERS = [*CASES, ("byol", {})]
family = pytest.mark.parametrize(("name", "options"), CASES)


@pytest.fixture
def make(small_backbone):
    def build(name, options, network="vit_tiny", **more):
        small = {"hidden": 24, "width": 8} if name == "byol" else SMALL
        return methods.create(name, small_backbone(network), **small, **options, **more)

    return build


@pytest.mark.parametrize(("name", "options"), TEACHERS)
def test_the_teacher_starts_as_the_student_and_is_not_trained(name, options, make):
    method = make(name, options)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], teacher[key]) for key in student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not {p.data_ptr() for p in method.teacher.parameters()} & {p.data_ptr() for p in method.student.parameters()}
    assert method.student["backbone"].mask_token.requires_grad == (name == "ibot")
    assert method.backbone is method.teacher["backbone"]


def test_the_teacher_has_no_drop_path(tiny_vit):
    method = methods.create("dino", tiny_vit(drop_path=0.3), **SMALL)

    def rates(network):
        return [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]

    assert max(rates(method.student)) == pytest.approx(0.3)
    assert not any(rates(method.teacher))


@family
def test_gradients_reach_the_student_alone(name, options, make, views_for):
    method = make(name, options)
    method.progress.fill_(0.5)
    method(views_for(method))["loss"].backward()
    grads = {key: p.grad for key, p in method.named_parameters() if p.requires_grad}
    assert all(key.startswith("student.") for key in grads)
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    assert all(g.any() for key, g in grads.items() if key.endswith("prototypes"))
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize(("name", "options"), TEACHERS)
@pytest.mark.parametrize("network", ["vit_tiny", "swin_tiny"])
def test_teacher_and_centres_move_as_in_the_papers(name, options, network, make, views_for):
    method = make(name, options, network, momentum=0.9, **({} if name == "byol" else {"batch_norm": True}))
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    teacher = {key: value.double() for key, value in copy.deepcopy(method.teacher.state_dict()).items()}
    parameters = {key for key, _ in method.teacher.named_parameters()}
    heads = {"center": "head"} if hasattr(method, "center") else {}
    if hasattr(method, "region_center"):
        heads["region_center"] = "head" if options.get("shared_head", name == "ibot") else "region_head"
    centers = {center: torch.zeros(24, dtype=torch.float64) for center in heads}
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


@family
def test_the_temperature_ramps_for_all_targets(name, options, make, views_for):
    """At the end of the ramp every teacher entropy is that of a method built with the end temperature."""
    ramp = make(name, options, teacher_temperature=0.04, teacher_temperature_end=0.2)
    warm = make(name, options, teacher_temperature=0.2, teacher_temperature_end=0.2)
    views = views_for(ramp)
    assert ramp.teacher_temperature == 0.04
    ramp.progress.fill_(0.15)
    assert ramp.teacher_temperature == pytest.approx(0.12)
    ramp.progress.fill_(0.5)
    late, expected = ramp(views), warm(views)
    for metric in [key for key in expected if key.endswith("teacher_entropy")]:
        assert torch.equal(late[metric], expected[metric])


def test_loss_is_that_of_the_networks_one_crop_at_a_time(tiny_vit, make_views):
    # BatchNorm would take the statistics of all crops together.
    temperatures = {"student_temperature": 0.2, "teacher_temperature": 0.05}
    method = methods.create("dino", tiny_vit(), batch_norm=False, **temperatures, **SMALL)
    method.center.value.normal_(0, 0.1)
    views = make_views()
    with torch.no_grad():
        student = [method.student["head"](method.student["backbone"](crop).pooled) for crop in views.crops]
        logits = [method.teacher["head"](method.teacher["backbone"](crop).pooled) for crop in views.crops[:2]]
        teacher = [((row - method.center.value) / 0.05).softmax(-1) for row in logits]
        expected = slow_view_loss(student, teacher, 0.2)
    metrics = method(views)
    assert float(metrics["loss"].detach()) == pytest.approx(expected, abs=1e-5)
    together = torch.cat(teacher)
    assert float(metrics["teacher_entropy"]) == pytest.approx(float(losses.entropy(together)), abs=1e-5)
    assert float(metrics["marginal_entropy"]) == pytest.approx(float(losses.entropy(together.mean(0))), abs=1e-5)


@pytest.mark.parametrize(("name", "options"), [("dino", {}), ("esvit", {})])
def test_frozen_prototypes_do_not_move_decay_or_count(name, options, make, views_for):
    method = make(name, options, freeze_prototypes=0.35)
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


def test_prototypes_start_as_a_linear_layer():
    torch.manual_seed(0)
    prototypes = PrototypeHead(8, 4096, hidden=16, bottleneck=256).prototypes.detach()
    linear = torch.nn.Linear(256, 4096).weight.detach()  # what DINO's code normalises
    assert float(prototypes.std()) == pytest.approx(float(linear.std()), rel=0.01)
    assert float(prototypes.abs().max()) == pytest.approx(float(linear.abs().max()), rel=0.01)


def test_logits_are_cosines():
    torch.manual_seed(0)
    head = PrototypeHead(8, 5, hidden=16, bottleneck=4)
    z = torch.randn(7, 8)
    inner = head.mlp(z)
    expected = torch.stack([F.cosine_similarity(inner, row[None]) for row in head.prototypes], 1)
    assert torch.allclose(head(z), expected, atol=1e-6)
    with torch.no_grad():
        head.prototypes.mul_(7.0)
    assert torch.allclose(head(z), expected, atol=1e-6)


def test_center_is_the_running_mean_of_the_batches():
    means = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    center, by_hand = Center(5, 0.9), torch.zeros(5, dtype=torch.float64)
    for mean in means:
        center.update(mean + torch.tensor([[1.0], [-1.0], [9.0]]), torch.tensor([True, True, False]))
        by_hand = 0.9 * by_hand + 0.1 * mean.double()
    assert torch.allclose(center.value.double(), by_hand, atol=1e-6)
    logits = torch.randn(3, 5)
    assert torch.allclose(center(logits, 0.1), ((logits - by_hand.float()) / 0.1).softmax(-1), atol=1e-6)
