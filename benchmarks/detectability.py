"""How much of the substructure could anyone see? `python benchmarks/detectability.py POPULATION ...`.

Noiseless images of each class are fitted by the smooth model of the population: its lens, source, seeing and brightness
are free, by Levenberg and Marquardt's method from the true values. The χ² that is left, in units of the image's own
noise, is the square of the significance with which an observer who knows all but these parameters could tell the image
from that of a smooth lens.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from tables import write_csv

from zwicky.simulate.draw import ParameterBlock, draw_block
from zwicky.simulate.instruments import variance
from zwicky.simulate.population import Population, read_population
from zwicky.simulate.render import render_block

RESULTS = Path(__file__).parent / "results" / "detectability.csv"
POPULATIONS = ["deeplense-repaired-1", "deeplense-repaired-2", "deeplense-repaired-3"]
STEPS = {  # of each free parameter, for its derivative
    **dict.fromkeys(("lens_x", "lens_y", "theta_E", "gamma1", "gamma2", "source_dx", "source_dy", "source_R"), 0.003),
    **dict.fromkeys(("mass_e1", "mass_e2"), 0.005),
    **dict.fromkeys(("slope", "source_e1", "source_e2", "seeing"), 0.01),
    "source_n": 0.02,
}
BOUNDS = {"slope": (1.3, 2.7), "source_R": (0.02, 1.0), "source_n": (0.3, 6.0)}
BOUNDS |= dict.fromkeys(("mass_e1", "mass_e2", "source_e1", "source_e2"), (-0.45, 0.45))
ITERATIONS = 8
AXION = "log10_axion_mass"


def left_over(population: Population, seed: int, block: int) -> tuple[ParameterBlock, np.ndarray]:
    """(parameters, χ² [BLOCK] that the best smooth model leaves) of one block."""
    drawn = draw_block(population, seed, block)
    smooth = replace(population, classes=dict.fromkeys(population.classes, population.classes["no_sub"]))

    def smooth_images(values: dict[str, np.ndarray]) -> np.ndarray:
        found = render_block(smooth, ParameterBlock(drawn.object_class, drawn.values | values, {}))[0].sum(1)
        return found.reshape(len(found), -1).astype(np.float64)

    truth = render_block(population, drawn)[0].sum(1)
    sigma = np.sqrt(variance(truth, population.instrument)).reshape(len(truth), -1).astype(np.float64)
    target = truth.reshape(sigma.shape) / sigma
    values = {name: drawn.values[name].copy() for name in STEPS}
    flux, images = np.ones(len(target)), smooth_images(values) / sigma
    best, damping = ((target - images) ** 2).sum(1), np.full(len(target), 1e-3)
    for _ in range(ITERATIONS):
        slopes = [images]
        for name, step in STEPS.items():
            moved = smooth_images(values | {name: values[name] + step}) / sigma
            slopes.append((moved - images) * (flux / step)[:, None])
        jacobian = np.stack(slopes, -1)
        curvature = np.einsum("npk,npl->nkl", jacobian, jacobian)
        gradient = np.einsum("npk,np->nk", jacobian, target - flux[:, None] * images)
        diagonal = np.einsum("nkk->nk", curvature)
        damped = curvature + damping[:, None, None] * np.eye(len(slopes)) * diagonal[:, None]
        change = np.linalg.solve(damped, gradient[..., None])[..., 0]
        trial = {
            name: np.clip(values[name] + change[:, column], *BOUNDS.get(name, (-np.inf, np.inf)))
            for column, name in enumerate(STEPS, start=1)
        }
        trial_flux, trial_images = flux + change[:, 0], smooth_images(trial) / sigma
        chi2 = ((target - trial_flux[:, None] * trial_images) ** 2).sum(1)
        better = chi2 < best
        values = {name: np.where(better, trial[name], values[name]) for name in STEPS}
        flux, best = np.where(better, trial_flux, flux), np.where(better, chi2, best)
        images = np.where(better[:, None], trial_images, images)
        damping = np.where(better, damping / 5, damping * 8)
    return drawn, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("populations", nargs="*", default=POPULATIONS)
    parser.add_argument("--blocks", type=int, default=3, help="of 64 images")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    given = parser.parse_args()
    table = []
    for name in given.populations:
        found = [left_over(read_population(name), given.seed, block) for block in range(given.blocks)]
        kinds = np.concatenate([drawn.object_class for drawn, _ in found])
        mass = np.concatenate([drawn.values[AXION] for drawn, _ in found])
        chi2 = np.concatenate([one for _, one in found])
        groups = {kind: kinds == kind for kind in ("cdm", "axion")}
        groups |= {f"axion, log10 m {low:g} to {low + 0.5:g}": (mass >= low) & (mass < low + 0.5)
                   for low in (-24, -23.5, -23, -22.5)}  # fmt: skip
        for group, rows in groups.items():
            low, median, high = np.quantile(chi2[rows], [0.1, 0.5, 0.9])
            row = {"population": name, "images": group, "n": int(rows.sum()), "median_chi2": f"{median:.3g}"}
            row |= {"tenth": f"{low:.3g}", "ninetieth": f"{high:.3g}"}
            row |= {f"share_above_{limit}": f"{np.mean(chi2[rows] > limit):.2f}" for limit in (9, 25)}
            table.append(row)
            print(row, flush=True)
    write_csv(given.out, table, ["simulated, noiseless; χ² in units of each image's noise"], ("zwicky", "torch"))


if __name__ == "__main__":
    main()
