"""The fused sum over subhalos against plain caustics, and what both promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zwicky.simulate.render import grid
from zwicky.simulate.subhalos import PROFILES, deflect_fused, deflect_plain, mass_share


def some(images, count, seed):
    """Random subhalos; one lies exactly on a pixel, and an image has fewer than `count`."""
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(-2.5, 2.5, (2, images, count))
    x0[0, 0], y0[0, 0] = 0.05, 0.05
    b = rng.uniform(0.005, 0.2, (images, count))
    b[-1, count // 2 :] = 0
    Rs, tau = 10 ** rng.uniform(-2, 0, (images, count)), 10 ** rng.uniform(-1, 3, (images, count))
    columns = {"x0": x0, "y0": y0, "b": b, "Rs": Rs, "tau": tau}
    return {name: torch.from_numpy(values).float() for name, values in columns.items()}


@pytest.mark.parametrize("profile", list(PROFILES))
def test_fused_is_plain(profile):
    @settings(max_examples=8, derandomize=True)
    @given(st.sampled_from([1, 2, 5, 17]), st.sampled_from([20, 33]), st.integers(0, 2**32 - 1))
    def check(count, size, seed):
        x, y = grid(size, 0.1)
        drawn = some(2, count, seed)
        plain, summed = deflect_plain(profile, x, y, drawn), deflect_fused(profile, x, y, drawn)
        peak = torch.hypot(*plain).amax((1, 2)) + 1e-9
        for one, other in zip(plain, summed, strict=True):
            assert ((one - other).abs().amax((1, 2)) < 1e-5 * peak).all()

    check()


@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_number_of_threads_and_of_images_changes_no_bit(profile, monkeypatch):
    x, y = grid(24, 0.1)
    drawn = some(5, 6, 1)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(torch.stack(deflect_fused(profile, x, y, drawn)))
    alone = deflect_fused(profile, x, y, {name: values[2:3] for name, values in drawn.items()})
    assert torch.equal(*results)
    assert torch.equal(results[0][:, 2:3], torch.stack(alone))


def test_the_mass_share_is_the_integral_of_the_density():
    """Baltz et al. 2009: ρ ∝ 1 / (r (1 + r)² (1 + (r/τ)²)); the mass within a projected radius by quadrature."""
    tau, z = 3.0, np.logspace(-5, 4, 4001)

    def projected(R):
        r = np.hypot(R[:, None], z)
        return 2 * np.trapezoid(1 / (r * (1 + r) ** 2 * (1 + (r / tau) ** 2)), z, axis=1)

    R = np.logspace(-4, 3.5, 3001)
    ring = 2 * np.pi * R * projected(R)
    within = np.concatenate([[0], np.cumsum((ring[1:] + ring[:-1]) / 2 * np.diff(R))])
    places = [1200, 1600, 2000, 2400]
    ours = mass_share(torch.from_numpy(R[places]), torch.ones(1), torch.tensor([tau])).numpy()
    np.testing.assert_allclose(ours, within[places] / within[-1], rtol=2e-3)
