"""No trivial number tells a lens from what looks like one, in populations as they ship but sampled once a pixel."""

import pytest
import yaml

from zwicky.data.audit import audit
from zwicky.simulate import population_names
from zwicky.simulate.api import simulate

NATURE = ("total_flux", "colour", "all together")  # may leak in lens finding, as it does in the sky


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in population_names() if n.startswith(("lens-finding", "demo"))])
def test_lenses_have_no_shortcut(tmp_path, name):
    """Upper 95 % bounds of the audit on 2,000 a class and more."""
    (tmp_path / "once.yaml").write_text(yaml.safe_dump({"base": name, "supersampling": 1}))
    cutouts, labels = simulate(str(tmp_path / "once.yaml"), 4200, seed=11)
    found = audit(cutouts, labels)
    assert min(found["labels"]["classes"].values()) >= 2000
    for feature, told in found["shortcuts"]["lens"].items():
        most = 0.65 if name.startswith("lens-finding") and feature.startswith(NATURE) else 0.55
        assert told["high"] <= most, (feature, told)
