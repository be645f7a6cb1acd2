"""Small populations and stores of galaxies that several tests simulate."""

import pytest
import yaml

SERSIC_PARAMETERS = {
    "lens_x": {"value": 0.1},
    "lens_y": {"value": -0.2},
    "lens_e1": {"value": 0.0},
    "lens_e2": {"value": 0.0},
    "lens_R": {"uniform": [0.4, 0.6], "unit": "arcsec", "meaning": "half-light radius"},
    "lens_n": {"value": 1.0},
}


@pytest.fixture
def one_galaxy():
    """The description of one round galaxy as DES sees it in r."""
    return {
        "description": "one galaxy",
        "instrument": "des",
        "bands": ["r"],
        "size": 8,
        "common": {"seeing": {"value": 1}, **SERSIC_PARAMETERS},
        "light": {"lens": {"band": "r", "magnitude": {"normal": [20.0, 1.0]}}},
        "classes": {"galaxy": {"label": "galaxy", "fraction": 1, "layers": {"lens": "sersic_lens"}}},
    }


@pytest.fixture
def write_population(tmp_path):
    """A function that writes a description and returns its path as a name."""

    def write(description, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(description if isinstance(description, str) else yaml.safe_dump(description, sort_keys=False))
        return str(path)

    return write
