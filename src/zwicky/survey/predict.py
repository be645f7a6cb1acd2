"""`zwicky predict`: one network applied to new cutouts, in one table."""

from pathlib import Path

import numpy as np
import pandas as pd

from zwicky.data.ingest import main_reason
from zwicky.errors import UserError
from zwicky.io import replacing, write_array, write_set_aside
from zwicky.progress import StepProgress
from zwicky.survey.parts import SurveyData
from zwicky.training.network import load_network
from zwicky.training.task import columns_of


def predict(
    run: Path, data: Path, out: Path, features: Path | None = None, turns: bool = True, quiet: bool = False
) -> tuple[int, int]:
    """Write a CSV of id, file, ra, dec and `p_CLASS` for each class, or a column for each regressed value.

    Args:
        run: directory of a fine-tuned network, or of a pretrained one, which has features alone.
        data: a store, a folder of images, or a file of many.
        out: the CSV; what cannot be scored is listed in `NAME_set_aside.csv` beside it.
        features: `.npy` file of the pooled features [N, D] float32, in the order of the CSV.
        turns: average over the eight rotations and reflections.
        quiet: show no progress.

    Returns:
        (number of cutouts in the CSV, number of those set aside).

    Raises:
        UserError: Nothing can be scored, or the run has neither a head nor `features` to write.
    """
    network = load_network(run)
    if network.head is None and features is None:
        raise UserError(f"{run} has no head yet; run `zwicky finetune` on it, or ask for its --features")
    names = [f"p_{name}" for name in network.classes] or columns_of(network.targets)
    survey = SurveyData.open(data, network)
    vectors, listed, count = [], list(survey.listed), 0
    with replacing(out) as temporary, StepProgress("predict", len(survey.parts), 0, 0, quiet, "part") as progress:
        for part in survey.parts:
            before = count
            for block in survey.blocks(part):
                listed += block.listed
                table = block.table[["id", *["file"] * bool(part.units), "ra", "dec"]]
                if network.head is None:
                    found = network.features(block.images, turns=turns)
                else:
                    found, outputs = network.features_and_outputs(block.images, turns=turns)
                    values = network.to_probabilities(outputs) if network.classes else outputs
                    table = pd.concat([table, pd.DataFrame(values, columns=names)], axis=1)
                table.to_csv(temporary, mode="a" if count else "w", header=not count, index=False)
                if features is not None:
                    vectors.append(found)
                count += len(table)
            progress.advance(count - before)
        if not count:
            if not listed:
                raise UserError(f"nothing in {data} can be scored: it is empty")
            reason, times = main_reason(listed)
            raise UserError(f"nothing in {data} can be scored: {times} of {len(listed)} because: {reason}")
        if features is not None:
            write_array(features, np.concatenate(vectors))
    aside = out.with_name(f"{out.stem}_set_aside.csv")
    if listed:
        write_set_aside(aside, listed)
    else:
        aside.unlink(missing_ok=True)
    return count, len(listed)
