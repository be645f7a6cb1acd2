"""Two images of one lens with two sources."""

import numpy as np
import pytest
import yaml

from zwicky.data.splits import holdout_split
from zwicky.simulate.api import simulate_population
from zwicky.simulate.draw import draw_block, truth_columns
from zwicky.simulate.population_yaml import read_population
from zwicky.simulate.render import render_block

SOURCE = {"source_dx", "source_dy", "source_R", "source_n", "source_e1", "source_e2", "arc_redness"}
SEEN = {"arc_mag_g", "arc_mag_r", "arc_mag_i", "arc_snr", "magnification", "lens_snr", "red_snr", "blue_snr"}
SEEN |= {"source_mag_g", "source_mag_r", "source_mag_i"}  # follow from the source, or from all light together


@pytest.fixture
def small(tmp_path):
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump({"base": "lensiam-pairs", "size": 24, "supersampling": 1}))
    return str(tmp_path / "pairs.yaml")


def test_the_two_images_share_the_lens_and_differ_in_the_source(small):
    cutouts, _ = simulate_population(small, 131, seed=4)
    assert cutouts.column("pair_id").tolist() == [cutouts.ids[row - row % 2] for row in range(131)]
    assert {"theta_E", "gamma1", "lens_x", "lens_mag_r", "lens_mag_g", "seeing", "red1_angle"} <= set(cutouts.truth)
    for name in set(cutouts.truth) - {"object_class", "pair_id"}:
        first, second = cutouts.column(name)[:130].reshape(-1, 2).T
        if name in SOURCE | SEEN:
            assert (first != second).all(), name
        else:
            np.testing.assert_array_equal(first, second, name)
            assert len(set(first)) > 60 or name in ("red1_weight", "blue1_weight"), name  # but lenses differ
    assert "pair_id" in truth_columns(read_population(small))


def test_light_of_the_lens_is_the_same_and_the_arcs_are_not(small):
    population = read_population(small)
    light, _ = render_block(population, draw_block(population, 0, 0))
    lens, arc = (light[:, list(population.light).index(name)].reshape(-1, 2, 3, 24, 24) for name in ("lens", "arc"))
    np.testing.assert_array_equal(lens[:, 0], lens[:, 1])
    assert (np.abs(arc[:, 0] - arc[:, 1]).max((1, 2, 3)) > 0.05 * arc.max((1, 2, 3, 4))).all()


def test_a_split_keeps_pairs_together(small):
    cutouts, labels = simulate_population(small, 60)
    roles = holdout_split(cutouts, labels, seed=0).roles
    assert all(roles[one] == roles[other] for one, other in cutouts.ids.reshape(-1, 2))
    assert set(roles.values()) == {"train", "validation", "test"}
