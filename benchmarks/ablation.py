"""What each part is worth: `python benchmarks/ablation.py --data STORE --out runs/ablation [settings]`.

The whole is a recipe (`polar` or `lens-finding`) at one number of labels: the polar network, pretrained by SimMIM,
fine-tuned, self-trained and tested on eight views. Each row leaves something out, with the same draws and tested
objects, and is compared in pairs with the whole. `--runs networks short` makes only these of the five runs (networks,
controls, linear, short, hasty) and their rows. Further words are settings of the benchmarks. Runs in OUT resume; the
table is OUT/ablation.csv.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from average import interval_rows
from tables import write_csv

from zwicky import cli, recipes
from zwicky.cli.parsing import parse, settings_of
from zwicky.evaluation.benchmark import benchmark
from zwicky.evaluation.bootstrap import Bootstrap
from zwicky.evaluation.metrics import statistics

WHOLE = ("networks", "simmim-polar-self-training")
LEFT_OUT = {
    "pretraining": ("networks", "polar-self-training"),
    "self-training": ("networks", "simmim-polar-finetune"),
    "pretraining and self-training": ("networks", "polar-supervised"),
    "eight views at test": ("networks", "simmim-polar-self-training-no-tta"),
    "polar coordinates": ("controls", "simmim-hybrid-self-training"),
    "polar coordinates, pretraining and self-training": ("controls", "hybrid-supervised"),
    "polar coordinates and convolutional stem": ("controls", "simmim-vit-self-training"),
    "polar coordinates, stem, pretraining and self-training": ("controls", "vit-supervised"),
    "asinh (linear pixels)": ("linear", WHOLE[1]),
    "three quarters of the steps of fits": ("short", WHOLE[1]),
    "four fifths of the steps of pretraining": ("hasty", WHOLE[1]),
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="store or simulation")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="polar")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--size")
    parser.add_argument("--runs", nargs="+", default=[])
    given, words = parser.parse_known_args()
    one = {"labels": [given.labels], "probes": [], "baselines": [], "convnet": None}
    base = recipes.merge(recipes.read(given.recipe, given.size), one | {"self_training": ["polar"]})
    base["methods"] = {"simmim": base["methods"]["simmim"]}
    controls = {
        "hybrid": {"name": "hybrid_vit", "options": {"patch_size": 4, "stem": [32, 64]}},
        "vit": {"name": "vit_tiny", "options": {"patch_size": 4, "width": 128, "depth": 4, "heads": 2, "pool": "mean"}},
    }
    fits, simmim = base["finetune"]["train"]["max_steps"], base["methods"]["simmim"]["train"]["max_steps"]
    fewer = {"train": {"max_steps": max(fits // 4, 1)}}
    runs = {
        "networks": {"without_tta": True},
        "controls": {"backbones": controls, "self_training": [*controls]},
        "linear": {"normalisation": {"stretch": "linear"}},
        "short": {"finetune": fewer, "scratch": fewer},
        "hasty": {"methods": {"simmim": {"train": {"max_steps": max(simmim // 5, 1)}}}},
    }
    command, cells = cli.COMMANDS["benchmark"], {}
    left_out = {title: arm for title, arm in LEFT_OUT.items() if arm[0] in (given.runs or runs)}
    for name, changes in runs.items():
        if given.runs and name not in given.runs:
            continue
        line = [given.recipe, "--data", given.data, "--out", str(given.out / name), *words]
        settings = recipes.merge(base, changes)
        settings["backbones"] = changes.get("backbones", base["backbones"])  # in place of the polar one, not beside it
        config = settings_of(command.settings, parse(command, "benchmark", settings, line))
        result = benchmark(config, given.data, given.out / name, workers=given.workers)
        arms = {arm for run, arm in [WHOLE, *left_out.values()] if run == name}
        cells |= {(name, arm): own for arm, own in result.cells(result.results["labels"].iloc[0], [*arms]).items()}
    bootstrap = Bootstrap({"/".join(arm): own for arm, own in cells.items()}, config.replicates, config.seed)
    whole, rows = "/".join(WHOLE), []
    for metric in ("accuracy", "auc"):
        estimate = bootstrap.apply(statistics()[metric])
        gaps = {title: estimate.difference("/".join(arm), whole) for title, arm in left_out.items()}
        arms = {title: "/".join(arm) for title, arm in {"nothing": WHOLE, **left_out}.items()}
        found = interval_rows(estimate, arms, gaps)
        rows += [{"left out": title, "metric": metric} | row for title, row in zip(arms, found, strict=True)]
    objects = len({i for own in cells.values() for cell in own for i in cell.ids})
    note = f"{given.labels} labels, {config.draws} draws, {objects} objects tested; 95 % intervals, paired differences"
    write_csv(given.out / "ablation.csv", rows, [note], ["torch"])
    for row in rows:
        print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
