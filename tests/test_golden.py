"""A handful of numbers of the whole pipeline, recorded in golden.json, so that a change of any of them is deliberate.

`python tests/test_golden.py` records them anew; a commit that does so says why.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from zwicky import cli, open_store

RECORD = Path(__file__).with_name("golden.json")
VIT = {"name": "vit_tiny", "options": {"patch_size": 4, "width": 32, "depth": 2, "heads": 2}}
SWIN = {"name": "swin_tiny", "options": {"patch_size": 2, "window": 2, "width": 16, "depths": [2, 2], "heads": [1, 2]}}
D4 = {"name": "d4_vit", "options": {"patch_size": 4, "width": 32, "depth": 2, "heads": 2}}
POLAR = {"name": "polar_vit", "options": {"width": 32, "depth": 2, "radii": 8, "angles": 64, "stem": [8, 16, 16]}}
HEAD = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
PRETRAININGS = {
    "dino": (VIT, HEAD, 2),
    "esvit": (SWIN, HEAD, 0),
    "ibot": (D4, HEAD, 0),
    "simmim": (POLAR, {}, 0),
    "simsiam": ({"name": "resnet18"}, {"width": 16, "bottleneck": 8}, 0),
}
LOOP = {"max_steps": 6, "min_steps": 0, "batch_size": 16, "evaluations": 1, "precision": "float32"}


def last_loss(run: Path) -> float:
    return float(pd.read_csv(run / "metrics.csv")["loss"].iloc[-1])


def measure(folder: Path) -> dict[str, float]:
    """Run every stage at the smallest size and return its numbers by name."""
    numbers = {}
    for population, n in (("demo-lenses", 120), ("deeplense-repaired-1", 12)):
        store = folder / population
        cli.run(["simulate", population, "--n", str(n), "--seed", "3", "--out", str(store)])
        numbers[f"simulate {population}"] = float(open_store(store).images[:].astype(np.float64).std())
    store = str(folder / "demo-lenses")
    for method, (backbone, options, local_crops) in PRETRAININGS.items():
        recipe, run = folder / f"{method}.yaml", folder / method
        views = {"crop": 16, "local_crops": local_crops, "local_size": 8}
        settings = {"method": {"name": method, "options": options}, "backbone": backbone, "views": views, "train": LOOP}
        recipe.write_text(yaml.safe_dump(settings))
        cli.run(["pretrain", str(recipe), "--data", store, "--out", str(run)])
        numbers[f"pretrain {method}"] = last_loss(run)
    loop = [f"--fit.train.{name}={value}" for name, value in LOOP.items()]
    for name, start, arguments in (
        ("classes", "dino", ["--labels=40"]),
        ("numbers", "simmim", ["--labels=30", "--targets=[theta_E, 'spin2:lens_e1/lens_e2']"]),
    ):
        run = folder / name
        cli.run(["finetune", str(folder / start), "--data", store, "--out", str(run), *arguments, *loop])
        numbers[f"finetune {name}"] = last_loss(run)
    cli.run(["evaluate", str(folder / "classes"), "--data", store])
    results = pd.read_csv(folder / "classes" / "results.csv").set_index("metric")["value"]
    return numbers | {f"evaluate {metric}": float(results[metric]) for metric in ("auc", "nll")}


@pytest.mark.slow
def test_numbers_are_those_recorded(tmp_path):
    """Within what other processors round differently over a few steps of training."""
    numbers, recorded = measure(tmp_path), json.loads(RECORD.read_text())
    assert numbers == pytest.approx(recorded, rel=1e-2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        RECORD.write_text(json.dumps(measure(Path(folder)), indent=2) + "\n")
