"""What does a lens off the centre cost? `python benchmarks/offsets.py --data STORE RUN ...`.

The test images of fine-tuned polar runs are shifted by whole pixels to a random side and classified by each run, also
about the centre that it finds in each image, without training again; a run is named by its folder in the table.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from tables import write_csv

from zwicky.data.splits import read_split
from zwicky.rng import numpy_rng
from zwicky.simulate.stream import open_data
from zwicky.training.network import load_network

RESULTS = Path(__file__).parent.parent / "docs" / "tables" / "offsets.csv"
OFFSETS = (0, 1, 2, 4, 8)
CENTRES = ("frame", "brightest", "centroid")


def shifted(images: np.ndarray, offset: int, seed: int = 0) -> np.ndarray:
    """Shift each image [N, bands, H, W] by `offset` px up, down, left or right."""
    sides = numpy_rng(seed).integers(0, 4, len(images))
    pad = np.pad(images, ((0, 0), (0, 0), (offset, offset), (offset, offset)), mode="edge")
    height, width = images.shape[2:]
    result = np.empty_like(images)
    for side, (top, left) in enumerate(((0, offset), (2 * offset, offset), (offset, 0), (offset, 2 * offset))):
        result[sides == side] = pad[sides == side, :, top : top + height, left : left + width]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table to write")
    parser.add_argument("runs", type=Path, nargs="+", help="fine-tuned on one split of the data")
    given = parser.parse_args()
    data, table = open_data(given.data), []
    for run in given.runs:
        network = load_network(run)
        split = read_split(next((run / "splits").glob("*.csv")))
        test = data.cutouts.rows_of(split.ids("test"))
        images = data.cutouts.images[test]
        truth = np.asarray(data.labels.of(data.cutouts.ids[test])) == network.classes[-1]
        for offset, centre in product(OFFSETS, CENTRES):
            network.backbone.centre = centre
            found = network.probabilities(shifted(images, offset))[:, -1]
            row = {
                "run": run.name,
                "offset_px": offset,
                "centre": centre,
                "accuracy": f"{np.mean((found > 0.5) == truth):.4f}",
            }
            row |= {"auc": f"{roc_auc_score(truth, found):.4f}", "tested": len(truth)}
            table.append(row)
            print(row, flush=True)
    write_csv(given.out, table, ["one network a run"], ("zwicky", "torch"))


if __name__ == "__main__":
    main()
