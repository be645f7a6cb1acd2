"""The losses against the formula written out, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
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
