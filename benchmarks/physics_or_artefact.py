"""What tells the classes of the substructure set apart? `python benchmarks/physics_or_artefact.py --data STORE`.

One reader, the radial × azimuthal modes with a logistic regression on 300 labels, reads the set with parts hidden or
changed; then simulated twins of it in which either the mass within the ring, or its structure, or both differ.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from tables import write_csv

from zwicky.data.rings import MODES, RADII, ring_modes, robust_scale
from zwicky.rng import numpy_rng
from zwicky.simulate.draw import block_rng, draw_block
from zwicky.simulate.instruments import add_noise
from zwicky.simulate.population import Population, read_population
from zwicky.simulate.render import render_block, to_eight_bit
from zwicky.simulate.stream import open_data
from zwicky.training.linear_probe import fit_logistic

RESULTS = Path(__file__).parent.parent / "docs" / "tables" / "physics-or-artefact.csv"
LABELS, DRAWS, TESTED = 300, 5, 1394
HEAVIER = 1.09  # ring radius with and without substructure in the set, as measured on complete rings
BAND = {"fwhm": 0.4, "zero_point": 22.5, "sky_brightness": 99, "exposure_time": 2000, "read_noise": 20}
TWIN = {
    "base": "deeplense-legacy-1",
    "description": "twins of the substructure set",
    "size": 75,
    "noise": "instrument",
    "instrument": {
        "name": "twin",
        "pixel_scale": 0.14,
        "bands": {"I": BAND},
    },
    "common": {
        "theta_E": {"normal": [1.28, 0.09], "between": [0.9, 1.7]},
        "source_dx": {"uniform": [-0.7, 0.7]},
        "source_dy": {"uniform": [-0.7, 0.7]},
        "lens_R": {"value": 0.5},
        "lens_n": {"value": 2},
        "lens_e1": {"value": 0},
        "lens_e2": {"value": 0},
    },
    "light": {"lens": {"band": "I", "magnitude": {"value": 18.3}}},
}
SHAPES = {"lens": "sersic_lens", "arc": "sersic_source"}
POINTS = {"number": 93, "slope": -0.9, "mass_min": 1.0e6, "mass_max": 1.0e10, "r_min": 0.25, "r_max": 2}
STRUCTURES = {
    "subhalos": (["sie", "shear", "point_subhalos"], {"fixed_number": POINTS}),
    "vortex": (["sie", "shear", "vortex"], {"axion_vortex": {"compensated": False, "mass": 1.0e11}}),
}


def read(features: np.ndarray, truth: np.ndarray, changed: np.ndarray | None = None) -> dict[str, str]:
    """Mean and scatter over draws of AUC and accuracy of the reader with `LABELS` labels, on the rest."""
    scores = []
    for draw in range(DRAWS):
        rows = numpy_rng(draw).permutation(len(truth))
        fit, test = rows[:LABELS], rows[LABELS:][-TESTED:]
        scaler = StandardScaler().fit(features[fit])
        model, _ = fit_logistic(scaler.transform(features[fit]), truth[fit], draw)
        tested = features if changed is None else changed
        found = model.predict_proba(scaler.transform(tested[test]))[:, 1]
        called = found > 0.5
        rates = [called[truth[test] == label].mean() for label in (0, 1)]
        scores.append([roc_auc_score(truth[test], found), np.mean(called == truth[test]), *rates])
    mean, scatter = np.mean(scores, 0), np.std(scores, 0, ddof=1)
    names = ("auc", "accuracy", "first_called_second", "second_called_second")
    return {"auc_scatter": f"{scatter[0]:.3f}"} | {n: f"{v:.3f}" for n, v in zip(names, mean, strict=True)}


def modes(images: np.ndarray) -> np.ndarray:
    """Log power [N, RADII, m] of one band."""
    centre, scale = robust_scale(images, 0)
    blocks = [ring_modes(images[i : i + 500], centre, scale) for i in range(0, len(images), 500)]
    return np.concatenate(blocks).reshape(len(images), RADII, MODES)


def zoomed(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Magnify each image [N, 1, H, W] about its centre."""
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.from_numpy(1 / factors).float()
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    pixels = torch.from_numpy(images.astype(np.float32))
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).numpy()


def polar(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, radius and angle of the pixels about the centre."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x, y, np.hypot(x, y), np.arctan2(y, x)


def hidden(images: np.ndarray, where: np.ndarray, sky: float) -> np.ndarray:
    """Set pixels to the sky; `where` is [H, W] or [N, H, W]."""
    return np.where(where if where.ndim == 2 else where[:, None], np.float32(sky), images)


def ring_radius(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radius of the brightest ring (px), and the dipole of the light outside the centre (px)."""
    x, y, radius, _ = polar(images.shape[-1])
    inner = images.shape[-1] * 9 / 150
    light = np.where(radius > inner, np.clip(images[:, 0].astype(np.float32) - 2, 0, None), 0)
    total = light.sum((1, 2))
    dipole = np.hypot((light * x).sum((1, 2)), (light * y).sum((1, 2))) / total
    bins = radius.astype(int).ravel()
    profile = np.stack([np.bincount(bins, image.ravel()) for image in images[:, 0]]) / np.bincount(bins)
    low, high = round(inner * 4 / 3), images.shape[-1] // 3
    peak = profile[:, low:high].argmax(1) + low
    before, at, after = (profile[np.arange(len(images)), peak + step] for step in (-1, 0, 1))
    return peak + 0.5 + 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-6), dipole


def read_set(images: np.ndarray, truth: np.ndarray, add: Callable[..., None]) -> None:
    """Read the set as it is, in parts, and changed."""
    every = modes(images)

    def part(title: str, features: np.ndarray) -> None:
        add(title, read(features.reshape(len(truth), -1), truth))

    part("all modes", every)
    for title, keep in (("m = 0", [0]), ("m = 1", [1]), ("m = 0, 1", [0, 1]), ("m = 2 to 8", range(2, 9))):
        part(f"only {title}", every[:, :, list(keep)])
    side = images.shape[-1]
    for first in range(0, 20, 4):
        low, high = (round(edge * side / 2 / RADII) for edge in (first, first + 4))
        part(f"only radii {low} to {high} px", every[:, first : first + 4])
        part(f"without radii {low} to {high} px", np.delete(every, range(first, first + 4), axis=1))
    rng, (_, _, radius, angle) = numpy_rng(0), polar(side)
    sky = float(np.median(images))
    start = rng.uniform(-np.pi, np.pi, len(images))[:, None, None].astype(np.float32)
    for width in (90, 180):
        wedge = np.mod(angle.astype(np.float32) - start, 2 * np.pi) < np.radians(width)
        part(f"a sector of {width} degrees hidden", modes(hidden(images, wedge, sky)))
    part("centre hidden, 9 px", modes(hidden(images, radius < 9, sky)))
    for sigma in (2, 4, 8):
        part(f"blurred, sigma {sigma} px", modes(gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma))))
    part("less its blur, sigma 2 px", modes(images - gaussian_filter(images.astype(np.float32), (0, 0, 2, 2))))
    part("brightness times 0.4 to 1", modes(np.rint(images * rng.uniform(0.4, 1, (len(images), 1, 1, 1)))))
    random_zoom = zoomed(images, rng.uniform(0.8, 1.2, len(images)))
    part("zoomed by 0.8 to 1.2", modes(random_zoom))
    part("zoomed by 0.8 to 1.2, centre hidden", modes(hidden(random_zoom, radius < 11, sky)))
    ring, dipole = ring_radius(images)
    complete = dipole < 3
    means = [f"{np.median(ring[complete & (truth == label)]):.1f} px" for label in (0, 1)]
    found = {"auc": f"{roc_auc_score(truth[complete], ring[complete]):.3f}"}
    add(f"radius of {complete.sum()} complete rings alone; medians {means[0]} and {means[1]}", found)
    for factor in (1 / HEAVIER, 1.0, HEAVIER):
        title = f"fitted as it is, tested images magnified by {factor:.2f}"
        changed = modes(zoomed(images, np.full(len(images), factor))).reshape(len(truth), -1)
        add(title, read(every.reshape(len(truth), -1), truth, changed))


def population(settings: dict) -> Population:
    """Return the population of some settings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twin.yaml"
        path.write_text(yaml.safe_dump(settings))
        return read_population(str(path))


def simulated(one: Population, count: int, host: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images and classes of `count` objects; `host` changes their parameters before they are rendered."""
    images, kinds = [], []
    for block in range(-(-count // 64)):
        drawn = draw_block(one, 3, block)
        if host is not None:
            drawn = replace(drawn, values=drawn.values | {"theta_E": host(drawn)})
        light = render_block(one, drawn)[0].sum(1)
        exposure = drawn.values["exposure"] if one.noise == "deeplense-1" else None
        images.append(add_noise(light, one.instrument, block_rng(one, 3, block, "noise"), exposure))
        kinds.append(drawn.object_class)
    return np.concatenate(images), np.concatenate(kinds)


def twins(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and classes of the twins: no_sub, heavier, and each structure on the same host and on a lighter."""
    smooth = {"label": "no_sub", "fraction": 1, "layers": SHAPES, "deflectors": ["sie", "shear"]}
    classes = {"no_sub": smooth, "heavier": smooth | {"label": "sub"}, "cdm": None, "axion": None}
    for name, (deflectors, substructure) in STRUCTURES.items():
        common = smooth | {"label": "sub", "deflectors": deflectors, "substructure": substructure}
        classes |= {name: common, f"{name}, equal mass": common}

    def host(drawn) -> np.ndarray:
        theta, kind = drawn.values["theta_E"], drawn.object_class
        # On average points have the mass profile of an isothermal sphere; so has a line, within its ends.
        points = np.nansum(drawn.lists["subhalo_theta_E"] ** 2, 1) / POINTS["r_max"]
        line = drawn.values["vortex_theta_E"] ** 2 / np.maximum(drawn.values["vortex_half_length"], theta)
        added = np.where(np.char.startswith(kind, "vortex"), line, points)
        theta = np.where(np.char.endswith(kind, "equal mass"), theta - added, theta)
        return np.where(kind == "heavier", HEAVIER * theta, theta)

    return simulated(population(TWIN | {"classes": classes}), count, host)


def compare(images: np.ndarray, kinds: np.ndarray, name: str) -> dict[str, str]:
    """Read no_sub against one class, and the ratio of the radii of their complete rings."""
    rows = np.flatnonzero((kinds == "no_sub") | (kinds == name))
    truth = (kinds[rows] == name).astype(int)
    found = read(modes(images[rows]).reshape(len(rows), -1), truth)
    ring, dipole = ring_radius(to_eight_bit(images[rows]) if images.dtype != np.uint8 else images[rows])
    complete = dipole < 3 * images.shape[-1] / 150
    medians = [np.median(ring[complete & (truth == label)]) for label in (0, 1)]
    return found | {"ring_ratio": f"{medians[1] / medians[0]:.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the store of the substructure set; left out, only the simulations")
    parser.add_argument("--images", type=int, default=1000, help="simulated images a class")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()
    columns = "data images auc auc_scatter accuracy first_called_second second_called_second ring_ratio".split()
    table = []

    def add(data: str, title: str, found: dict[str, str]) -> None:
        table.append(dict.fromkeys(columns, "") | {"data": data, "images": title} | found)
        print(table[-1], flush=True)

    if given.data:
        data = open_data(given.data)
        names = np.asarray(data.labels.of(data.cutouts.ids))
        images = data.cutouts.images[np.arange(len(names))]
        truth = (names == data.labels.classes[-1]).astype(int)
        read_set(images, truth, lambda title, found: add("substructure", title, found))
    images, kinds = twins(6 * given.images)
    for name in [kind for kind in np.unique(kinds) if kind != "no_sub"]:
        add("twins, 8 bit", name, compare(to_eight_bit(images), kinds, name))
    for name in ("deeplense-legacy-1", "deeplense-repaired-1"):
        images, kinds = simulated(read_population(name), 3 * given.images)
        for form, pixels in (("float", images), ("8 bit", to_eight_bit(images))):
            for kind in ("cdm", "axion"):
                add(f"{name}, {form}", kind, compare(pixels, kinds, kind))
    notes = [f"modes and a logistic regression on {LABELS} labels, means over {DRAWS} draws, at most {TESTED} tested"]
    write_csv(given.out, table, notes, ("zwicky", "torch"))


if __name__ == "__main__":
    main()
