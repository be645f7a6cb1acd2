"""The losses against lightly's, and the oracles of the other tests too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.methods import losses

from .oracles import slow_mim, slow_regions, slow_view_loss

lightly = pytest.importorskip("lightly.loss")


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("local", [0, 3])
def test_view_loss_is_the_double_sum_and_lightlys(batch, local):
    generator = torch.Generator().manual_seed(local)
    student, logits = (torch.rand(n, batch, 16, generator=generator) for n in (2 + local, 2))
    teacher = (logits / 0.04).softmax(-1)
    loss = float(losses.view_loss(student.flatten(0, 1), teacher.flatten(0, 1), batch, 0.1))
    oracle = lightly.DINOLoss(output_dim=16, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    assert loss == pytest.approx(float(oracle(list(logits), list(student), epoch=5)), abs=1e-5)
    assert loss == pytest.approx(slow_view_loss(student, teacher, 0.1), rel=1e-6, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(losses.view_loss(student.flatten(0, 1), teacher.flatten(0, 1), batch, 0.1)) == loss


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grid", [(2, 2), (3, 5)])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_masked_patch_loss_is_the_double_sum_and_lightlys(batch, grid, share):
    generator = torch.Generator().manual_seed(batch + grid[1])
    mask = torch.rand(batch, *grid, generator=generator) < share
    student, logits = (torch.rand(batch, grid[0] * grid[1], 7, generator=generator) * 2 - 1 for _ in range(2))
    teacher, flat = (logits / 0.07).softmax(-1), mask.flatten(1)
    loss = (losses.patch_weights(mask)[mask] * losses.cross_entropy(student[flat], teacher[flat], 0.1)).sum()
    assert float(loss) == pytest.approx(slow_mim(student, teacher, flat, 0.1), rel=1e-6, abs=1e-6)
    if mask.any():
        oracle = lightly.IBOTPatchLoss(output_dim=7, teacher_temp=0.07, student_temp=0.1)
        assert float(loss) == pytest.approx(float(oracle(logits[flat], student[flat], mask)), rel=1e-5)


def made_regions(batch, grid, local, seed, share_valid=1.0, prototypes=6, dim=5):
    """Student and teacher regions with features; local crops have fewer."""
    generator = torch.Generator().manual_seed(seed)
    counts = [grid**2] * 2 + [max(grid // 2, 1) ** 2] * local
    student = [[torch.randn(batch, count, n, generator=generator) for n in (dim, prototypes)] for count in counts]
    teacher = [[torch.randn(batch, grid**2, n, generator=generator) for n in (dim, prototypes)] for _ in range(2)]
    valid = [torch.rand(batch, count, generator=generator) <= share_valid for count in counts]
    return student, [(z, logits.softmax(-1)) for z, logits in teacher], valid


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.sampled_from([1.0, 0.6, 0.0]), st.integers(0, 10**6))
def test_region_loss_is_the_double_sum_in_which_position_plays_no_part(batch, grid, local, share_valid, seed):
    student, teacher, valid = made_regions(batch, grid, local, seed, share_valid)
    loss, entropy = losses.region_loss(student, teacher, valid, 0.1)
    assert float(loss) == pytest.approx(slow_regions(student, teacher, valid, 0.1), rel=1e-5)
    assert loss >= entropy - 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.region_loss(student, teacher, valid, 0.1)[0], loss)
    if share_valid == 1:
        generator = torch.Generator().manual_seed(seed)
        order = [torch.randperm(grid**2, generator=generator) for _ in teacher]
        moved = [(z[:, o], p[:, o]) for (z, p), o in zip(teacher, order, strict=True)]
        scaled = [(3.0 * z, logits) for z, logits in student]  # nor does the length of a feature
        assert torch.allclose(loss, losses.region_loss(scaled, moved, valid, 0.1)[0], rtol=1e-5)
