"""Schedules at points where their value is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zwicky.methods.schedules import cosine, ramp, warmup_cosine


@pytest.mark.parametrize(
    ("progress", "value"), [(0, 0.996), (0.5, 0.998), (1, 1.0), (1 / 3, 1 - 0.004 * 0.75), (-1, 0.996), (2, 1.0)]
)
def test_momentum_is_half_a_cosine(progress, value):
    assert cosine(0.996, 1.0, progress) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("progress", "value"), [(0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07)])
def test_teacher_temperature_ramps(progress, value):
    assert ramp(0.04, 0.07, progress, 0.3) == pytest.approx(value)


def test_ramp_of_no_length_is_its_end():
    assert ramp(0.04, 0.07, 0.0, 0.0) == 0.07


@pytest.mark.parametrize(("progress", "value"), [(0, 0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1, 0.0)])
def test_learning_rate_warms_up_and_falls(progress, value):
    assert warmup_cosine(1.0, 0.0, progress, 0.1) == pytest.approx(value, abs=1e-12)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_schedules_stay_between_their_ends(start, end, progress, length):
    low, high = min(start, end) - 1e-12, max(start, end) + 1e-12
    assert low <= cosine(start, end, progress) <= high
    assert low <= ramp(start, end, progress, length) <= high
    assert 0 <= warmup_cosine(max(start, end), min(start, end), progress, length) <= high
