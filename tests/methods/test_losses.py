"""The losses against the formula written out, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.methods import losses


def slow_loss(student, teacher, temperature):
    """−(1/|P|) Σ over pairs of different crops of (1/B) Σ_b Σ_k p_t log p_s, in plain double precision."""
    total, pairs = 0.0, 0
    for g, target in enumerate(teacher):
        for v, logits in enumerate(student):
            if v == g:
                continue
            pairs += 1
            for b in range(len(logits)):
                row = [float(x) / temperature for x in logits[b].double()]
                top = max(row)
                norm = top + math.log(sum(math.exp(x - top) for x in row))
                total -= sum(float(p) * (x - norm) for p, x in zip(target[b].double(), row, strict=True)) / len(logits)
    return total / pairs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("prototypes", [2, 17])
@pytest.mark.parametrize("local", [0, 1, 4])
@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.1, 0.04), (1.0, 0.5)])
def test_view_loss_is_the_double_sum(batch, prototypes, local, tau_s, tau_t):
    generator = torch.Generator().manual_seed(batch + prototypes + local)
    student = [torch.rand(batch, prototypes, generator=generator) * 2 - 1 for _ in range(2 + local)]
    logits = [torch.rand(batch, prototypes, generator=generator) * 2 - 1 for _ in range(2)]
    center = torch.rand(prototypes, generator=generator) * 0.1
    teacher = [losses.teacher_probabilities(row, center, tau_t) for row in logits]
    slow_teacher = [((row.double() - center.double()) / tau_t).softmax(-1) for row in logits]
    expected = slow_loss(student, slow_teacher, tau_s)
    # The softmax itself stays float32, so its error grows with 1/τ_t.
    assert float(losses.view_cross_entropy(student, teacher, tau_s)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("local", [0, 3])
def test_view_loss_is_lightlys(local):
    lightly = pytest.importorskip("lightly.loss")
    generator = torch.Generator().manual_seed(local)
    student = [torch.rand(4, 16, generator=generator) for _ in range(2 + local)]
    logits = [torch.rand(4, 16, generator=generator) for _ in range(2)]
    theirs = lightly.DINOLoss(output_dim=16, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    expected = theirs(logits, student, epoch=5)
    teacher = [losses.teacher_probabilities(row, torch.zeros(16), 0.04) for row in logits]
    assert float(losses.view_cross_entropy(student, teacher, 0.1)) == pytest.approx(float(expected), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 3), st.integers(0, 10**6))
def test_loss_minus_entropy_is_a_divergence(batch, prototypes, local, seed):
    """The cross-entropy is at least the teacher's entropy, with equality where the student says the same."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.randn(batch, prototypes, generator=generator)
    teacher = [torch.softmax(same, -1)] * 2
    entropy = losses.entropy(torch.cat(teacher))
    assert torch.allclose(losses.view_cross_entropy([same] * (2 + local), teacher, 1.0), entropy, atol=1e-5)
    student = [torch.randn(batch, prototypes, generator=generator) for _ in range(2 + local)]
    assert losses.view_cross_entropy(student, teacher, 1.0) >= entropy - 1e-5


def slow_mim(student, teacher, mask, temperature):
    """−(1/B) Σ_b (1/max(1, |M_b|)) Σ_(i∈M_b) p_i · log p_s,i, one token at a time; [B, N, K] each, mask [B, N]."""
    total = 0.0
    for logits, targets, hidden in zip(student.double(), teacher.double(), mask, strict=True):
        picked = [i for i in range(len(hidden)) if hidden[i]]
        terms = [-(targets[i] * (logits[i] / temperature).log_softmax(-1)).sum() for i in picked]
        total += float(sum(terms)) / max(1, len(picked)) / len(mask)
    return total


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (3, 5)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_masked_patch_loss_is_the_double_sum_and_lightlys(batch, grid, share):
    generator = torch.Generator().manual_seed(batch + grid[1])
    tokens, prototypes = grid[0] * grid[1], 7
    mask = torch.rand(batch, *grid, generator=generator) < share
    student, logits = (torch.rand(batch, tokens, prototypes, generator=generator) * 2 - 1 for _ in range(2))
    center = torch.rand(prototypes, generator=generator) * 0.1
    teacher = losses.teacher_probabilities(logits, center, 0.07)
    weights, where = losses.mask_weights(mask), mask.flatten(1)
    found = (weights[mask] * losses.cross_entropy(student[where], teacher[where], 0.1)).sum()
    assert float(found) == pytest.approx(slow_mim(student, teacher, where, 0.1), rel=1e-6, abs=1e-6)
    if not mask.any():
        assert float(found) == 0
        return
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.IBOTPatchLoss(output_dim=prototypes, teacher_temp=0.07, student_temp=0.1)
    expected = theirs(logits[where] - center, student[where], mask)  # its own centre starts at 0
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def slow_regions(student, teacher, z_s, z_t, temperature):
    """EsViT's double sum, one pair of views, image and region at a time."""
    total, pairs = 0.0, 0
    for g in range(len(teacher)):
        for v in range(len(student)):
            if v == g:
                continue
            pairs += 1
            batch, regions = student[v].shape[:2]
            for b in range(batch):
                for i in range(regions):
                    cosines = [float(F.cosine_similarity(z_s[v][b, i], z, dim=0)) for z in z_t[g][b]]
                    target = teacher[g][b, cosines.index(max(cosines))].double()
                    log_p = (student[v][b, i].double() / temperature).log_softmax(-1)
                    total -= float((target * log_p).sum()) / regions / batch
    return total / pairs


def made_regions(batch, grid, local, seed, prototypes=6, dim=5):
    """Student logits, teacher probabilities, and the features both are matched by; local crops have fewer regions."""
    generator = torch.Generator().manual_seed(seed)
    counts = [grid**2] * 2 + [max(grid // 2, 1) ** 2] * local
    student = [torch.randn(batch, count, prototypes, generator=generator) for count in counts]
    teacher = [torch.randn(batch, grid**2, prototypes, generator=generator).softmax(-1) for _ in range(2)]
    z_s = [torch.randn(batch, count, dim, generator=generator) for count in counts]
    z_t = [torch.randn(batch, grid**2, dim, generator=generator) for _ in range(2)]
    return student, teacher, z_s, z_t


def everywhere(student):
    return [torch.ones(logits.shape[:2], dtype=torch.bool) for logits in student]


def matches_of(z_s, z_t):
    return [{g: losses.most_similar(s, t) for g, t in enumerate(z_t) if g != v} for v, s in enumerate(z_s)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [1, 2, 4])
@pytest.mark.parametrize("local", [0, 1, 3])
def test_region_loss_is_the_double_sum(batch, grid, local):
    student, teacher, z_s, z_t = made_regions(batch, grid, local, seed=batch + grid + local)
    found = losses.region_cross_entropy(student, teacher, matches_of(z_s, z_t), 0.1, everywhere(student))
    assert float(found) == pytest.approx(slow_regions(student, teacher, z_s, z_t, 0.1), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 10**6))
def test_position_plays_no_part_in_the_region_loss(batch, grid, local, seed):
    student, teacher, z_s, z_t = made_regions(batch, grid, local, seed)
    loss = losses.region_cross_entropy(student, teacher, matches_of(z_s, z_t), 0.1, everywhere(student))
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(grid**2, generator=generator) for _ in teacher]
    moved = [p[:, o] for p, o in zip(teacher, order, strict=True)], [z[:, o] for z, o in zip(z_t, order, strict=True)]
    scaled = [3.0 * z for z in z_s]  # nor does the length of a feature
    again = losses.region_cross_entropy(student, moved[0], matches_of(scaled, moved[1]), 0.1, everywhere(student))
    assert torch.allclose(loss, again, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 10**6))
def test_region_loss_is_never_below_the_entropy_of_its_targets(batch, grid, local, seed):
    student, teacher, z_s, z_t = made_regions(batch, grid, local, seed)
    matches = matches_of(z_s, z_t)
    entropy = losses.region_entropy(teacher, matches, everywhere(student))
    assert losses.region_cross_entropy(student, teacher, matches, 0.1, everywhere(student)) >= entropy - 1e-5
    alone = [{g: j for g, j in match.items() if g == (v + 1) % 2} for v, match in enumerate(matches)]
    told = [losses.matched(teacher, match).log() for match in alone]
    # A student that says what its only target says has exactly that entropy.
    assert torch.allclose(
        losses.region_cross_entropy(told, teacher, alone, 1.0, everywhere(told)),
        losses.region_entropy(teacher, alone, everywhere(told)),
        atol=1e-5,
    )


def test_center_follows_the_batch_means():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(7, 5, generator=generator)
    center, by_hand = torch.zeros(5), torch.zeros(5, dtype=torch.float64)
    for mean in means:
        losses.update_center(center, mean, 0.9)
        by_hand = 0.9 * by_hand + 0.1 * mean.double()
    assert torch.allclose(center.double(), by_hand, atol=1e-6)


def test_entropy_of_known_distributions():
    assert float(losses.entropy(torch.full((3, 8), 1 / 8))) == pytest.approx(math.log(8), rel=1e-6)
    assert float(losses.entropy(torch.eye(8))) == 0


def test_losses_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.randn(4, 8).bfloat16()
        teacher = losses.teacher_probabilities(logits, torch.zeros(8), 0.04)
        assert teacher.dtype == torch.float32
        assert losses.view_cross_entropy([logits, logits], [teacher, teacher], 0.1).dtype == torch.float32
