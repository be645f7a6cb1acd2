"""Mistakes and damage met by the commands: exit 2 and one line, never a traceback, and nothing is run.

`CASES` holds them by name: each lays out its folder and gives the words of a command. Files that `zwicky ingest` reads
have their own, in tests/cutouts/test_bad_input.py; `test_at_least_a_hundred` counts what is here alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from zwicky import cli, recipes
from zwicky.data import store as stores
from zwicky.data.contract import make_cutouts
from zwicky.data.store import StoreWriter, open_store
from zwicky.data.tables import Labels, Split, read_labels, read_split, write_labels, write_split
from zwicky.errors import UserError
from zwicky.training import checkpoint, provenance
from zwicky.training.network import load_network

OPTIONS = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2}
LOOP = {"max_steps": 2, "min_steps": 0, "batch_size": 16, "precision": "float32", "evaluations": 1}
DINO = {"name": "dino", "options": {"prototypes": 16, "hidden": 16, "bottleneck": 8}}
PRETRAIN = {
    "method": DINO,
    "backbone": {"name": "vit_tiny", "options": OPTIONS},
    "views": {"crop": 16, "local_crops": 1, "local_size": 8},
    "train": LOOP,
}
BENCHMARK = {
    "labels": [20],
    "draws": 1,
    "backbones": {"vit": {"name": "vit_tiny", "options": OPTIONS}},
    "methods": {"dino": {"method": DINO, "views": PRETRAIN["views"], "train": LOOP}},
    "label_views": {"crop": 16, "global_scale": [1.0, 1.0], "blur": 0.0, "noise": 0.0},
    "finetune": {"train": LOOP},
    "scratch": {"train": LOOP},
    "probes": ["knn"],
    "replicates": 20,
}


class Payload:
    """A pickle of this, unpickled, would leave a folder."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, ("payload",)


def pixels(count: int = 60, bands: int = 2, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    width = np.where(np.arange(count) % 2, 2.0, 4.0)[:, None, None]
    image = 10 * np.exp(-(x**2 + y**2) / (2 * width**2))
    return (image[:, None] + rng.normal(0, 1, (count, bands, size, size))).astype(np.float32)


def write_store(path: Path, images: np.ndarray, names: str = "gr", labels: bool = True, **columns) -> Path:
    cutouts = make_cutouts(images, list(names), **{"pixel_scale": [0.2] * len(images)} | columns)
    with StoreWriter(path, cutouts.bands, cutouts.size, "float32") as writer:
        if len(images):
            writer.append(cutouts.images, cutouts.table)
        if labels:
            known = {i: "lens" if row % 2 else "nonlens" for row, i in enumerate(cutouts.ids)}
            write_labels(writer.folder, Labels(known, "made"))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store of two parts, and finished runs of pretrain, finetune and benchmark."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "ROW_GROUP_BYTES", 40_000)
        patch.setattr(stores, "PART_ROW_GROUPS", 2)
        write_store(folder / "store", pixels())
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(BENCHMARK))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.run(pretrain())
        cli.run(finetune())
        cli.run(benchmark())
    return folder


# Words of commands that succeed on what `made` holds.


def pretrain(*more: str, store: str = "store", out: str = "started") -> list[str]:
    return ["pretrain", "pretrain.yaml", "--data", store, "--out", out, *more]


def finetune(*more: str, run: str = "started", store: str = "store", out: str = "tuned") -> list[str]:
    loop = [f"--fit.train.{name}={value}" for name, value in LOOP.items()]
    labels = [] if any(word.startswith("--labels") for word in more) else ["--labels=20"]
    return ["finetune", run, "--data", store, "--out", out, *labels, *loop, *more]


def benchmark(*more: str, store: str = "store", out: str = "compared") -> list[str]:
    return ["benchmark", "benchmark.yaml", "--data", store, "--out", out, *more]


def evaluate(run: str = "tuned", store: str = "store", *more: str) -> list[str]:
    return ["evaluate", run, "--data", store, *more]


CASES: dict[str, Callable[[], list[str]]] = {}


def case(name: str, words: list[str], *prepare: Callable[[], object]) -> None:
    """Add a case: in a folder with copies of all that `made` holds, prepare, then give these words to zwicky."""

    def lay_out() -> list[str]:
        for step in prepare:
            step()
        return words

    assert name not in CASES
    CASES[name] = lay_out


def write(path: str, content: str | bytes) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(path: str, share: float = 0.6) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: int(share * Path(path).stat().st_size)])


def remove(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def edit(path: str, **changes: object) -> Callable[[], object]:
    """Change keys of a JSON or YAML file; None takes a key out."""

    def change() -> None:
        held = yaml.safe_load(Path(path).read_text()) | changes
        held = {name: value for name, value in held.items() if value is not None}
        Path(path).write_text(json.dumps(held) if path.endswith("json") else yaml.safe_dump(held))

    return change


def reparquet(path: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[], object]:
    """Change the table in every Parquet file of a store, or in one file."""

    def rewrite() -> None:
        files = sorted(Path(path).glob("part-*.parquet")) if Path(path).is_dir() else [Path(path)]
        for file in files:
            table = pq.read_table(file)
            pq.write_table(change(table), file)

    return rewrite


def described(**changes: object) -> Callable[[], object]:
    """Change what a store says of itself; None takes a key out."""

    def change(table: pa.Table) -> pa.Table:
        held = json.loads(table.schema.metadata[b"zwicky"]) | changes
        held = {name: value for name, value in held.items() if value is not None}
        return table.replace_schema_metadata({"zwicky": json.dumps(held)})

    return reparquet("store", change)


def tensors(change: Callable[[dict], dict], run: str = "tuned") -> Callable[[], object]:
    path = f"{run}/network.safetensors"
    return lambda: save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)


def fresh_store(*arguments: object, **columns: object) -> Callable[[], object]:
    return lambda: write_store(Path("other"), *arguments, **columns)


def links(one: str, other: str) -> Callable[[], object]:
    return lambda: (Path(one).symlink_to(other), Path(other).symlink_to(one))


def interrupted(kind: str) -> Callable[[], object]:
    """Make the run of a finished command look like one that was stopped after its last checkpoint."""
    return lambda: _unfinish(kind)


def _unfinish(kind: str) -> None:
    held = json.loads(Path(kind, "run.json").read_text())
    Path(kind, "run.json").write_text(json.dumps(held | {"finished": None}))


# ------------------------------------------------------------------------------------------------------- stores

for name, words in {
    "audit": ["audit", "store"],
    "pretrain": pretrain(out="new"),
    "finetune": finetune(out="new"),
    "benchmark": benchmark(out="new"),
    "evaluate": evaluate(),
    "verify": ["verify", "tuned", "--data", "store"],
}.items():
    case(f"{name}: a part of the store is missing", words, lambda: next(Path("store").glob("part-00001*")).unlink())
    case(
        f"{name}: a part of the store is cut short", words, lambda: cut(str(next(Path("store").glob("part-00001*"))))()
    )
    case(f"{name}: the store is of a newer schema", words, described(schema_version=99))
    case(f"{name}: the store is a folder of other things", words, remove("store"), lambda: os.mkdir("store"))
    case(f"{name}: the store is a file", words, remove("store"), write("store", "ra,dec"))
    case(f"{name}: the store is a loop of links", words, remove("store"), links("store", "round"))

AUDIT = ["audit", "store"]
case("store: a part is empty", AUDIT, write("store/part-00000-of-00002.parquet", ""))
case("store: a part is text", AUDIT, write("store/part-00000-of-00002.parquet", "ra,dec\n1,2"))
case("store: its schema version is text", AUDIT, described(schema_version="one"))
case("store: says no bands", AUDIT, described(bands=None))
case("store: says no size", AUDIT, described(size=None))
case("store: says a type of pixels there is not", AUDIT, described(dtype="complex64"))
case("store: says three bands and has two", AUDIT, described(bands=["g", "r", "i"]))
case("store: says no bands at all", AUDIT, described(bands=[]))
case("store: its bands are a number", AUDIT, described(bands=5))
case("store: its size is negative", AUDIT, described(size=[-16, 16]))
case("store: its size is text", AUDIT, described(size="large"))
case("store: its size is huge", AUDIT, described(size=[10**7, 10**7]))
case("store: its truth is a number", AUDIT, described(truth=3))
case(
    "store: says nothing readable",
    AUDIT,
    reparquet("store", lambda table: table.replace_schema_metadata({"zwicky": "{"})),
)
case(
    "store: says a list",
    AUDIT,
    reparquet("store", lambda table: table.replace_schema_metadata({"zwicky": "[1]"})),
)
case("store: of a stranger", AUDIT, reparquet("store", lambda table: table.replace_schema_metadata({})))
case("store: lacks the images", AUDIT, reparquet("store", lambda table: table.drop_columns("image")))
case("store: lacks a column", AUDIT, reparquet("store", lambda table: table.drop_columns("pixel_hash")))
case(
    "store: parts of two stores",
    AUDIT,
    fresh_store(pixels(10, size=8)),
    lambda: shutil.copy(next(Path("other").glob("part*")), "store/part-00000-of-00002.parquet"),
)
case(
    "store: its images are text",
    AUDIT,
    reparquet("store", lambda t: t.set_column(t.schema.get_field_index("image"), "image", pa.array(["x"] * len(t)))),
)
case("audit: labels are damaged", AUDIT, cut("store/_labels.parquet"))
case("pretrain: labels are damaged", pretrain(out="new"), cut("store/_labels.parquet"))
case(
    "finetune: labels lack a column",
    finetune(out="new"),
    lambda: pq.write_table(pa.table({"id": ["a"]}), "store/_labels.parquet"),
)
case(
    "benchmark: labels are lists",
    benchmark(out="new"),
    lambda: pq.write_table(
        pa.table({"id": ["x"], "label": [["a", "b"]], "source": ["x"], "time": [""]}), "store/_labels.parquet"
    ),
)
case(
    "finetune: labels of other objects",
    finetune(out="new"),
    lambda: _labels({"x": "a", "y": "b"}),
    remove("store/_splits"),
)
case("finetune: one class", finetune(out="new"), lambda: _labels("one"))
case("finetune: no labels", finetune(out="new"), remove("store/_labels.parquet"))
case("finetune: more labels than there are", finetune("--labels=4000", out="new"))
case("finetune: a negative number of labels", finetune("--labels=-5", out="new"))
case("finetune: one label", finetune("--labels=1", out="new"))
case("benchmark: one class", benchmark(out="new"), lambda: _labels("one"))
case("benchmark: no labels", benchmark(out="new"), remove("store/_labels.parquet"))
case("evaluate: no labels, so no test", evaluate(), remove("store/_labels.parquet"), remove("store/_splits"))
case("evaluate: a class it never saw", evaluate(), lambda: _labels("strange"))
case("finetune: targets the store lacks", finetune("--targets=[theta_E]", out="new"))
case("finetune: a target of no kind", finetune("--targets=[tensor:a/b]", out="new"))
case("finetune: a target that is text", finetune("--targets=[survey]", out="new"))


def _labels(how: object) -> None:
    known = dict(how) if isinstance(how, dict) else read_labels("store").values
    if how == "one":
        known = dict.fromkeys(known, "lens")
    if how == "strange":
        known = dict.fromkeys(known, "quasar")
    write_labels("store", Labels(known, "made"))


SPLIT = "store/_splits/holdout.parquet"
for name, words in {"pretrain": pretrain(out="new"), "finetune": finetune(out="new"), "evaluate": evaluate()}.items():
    case(f"{name}: the split is damaged", words, cut(SPLIT))
    case(f"{name}: the split knows a role there is not", words, lambda: _split(lambda role: "judge"))
case("evaluate: a split there is not", evaluate("tuned", "store", "--split", "mine"))
case("evaluate: a split outside the store", evaluate("tuned", "store", "--split", "../../made"))
case("evaluate: a split without test objects", evaluate(), lambda: _split(lambda role: "train"))
case("evaluate: the test was learnt from", evaluate(), lambda: _split(lambda role: "test"))
case("pretrain: a split without training objects", pretrain(out="new"), lambda: _split(lambda role: "test"))
case("pretrain: a split of one object", pretrain(out="new"), lambda: _split(lambda role: "test", "train"))
case("finetune: a split without training objects", finetune(out="new"), lambda: _split(lambda role: "validation"))
case(
    "pretrain: a split of other objects",
    pretrain(out="new"),
    lambda: write_split("store/_splits", Split("holdout", {"x": "train", "y": "train"})),
)


def _split(role: Callable[[str], str], first: str = "") -> None:
    held = read_split(SPLIT)
    ids = list(held.roles)
    roles = {name: role(held.roles[name]) for name in ids}
    if first:
        roles[ids[0]] = first
    table = {"id": ids, "role": list(roles.values()), "group": [""] * len(ids)}
    pq.write_table(pa.table(table), SPLIT)


for name, words in {
    "pretrain": pretrain(store="other", out="new"),
    "benchmark": benchmark(store="other", out="new"),
    "finetune": finetune(store="other", out="new"),
}.items():
    case(f"{name}: NaN everywhere", words, fresh_store(np.full((60, 2, 16, 16), np.nan, np.float32)))
    case(f"{name}: infinite everywhere", words, fresh_store(np.full((60, 2, 16, 16), np.inf, np.float32)))
    case(f"{name}: no rows", words, fresh_store(pixels(0)))
    case(f"{name}: one image", words, fresh_store(pixels(1)))
    case(f"{name}: one pixel", words, fresh_store(pixels(60, size=1)))
    case(f"{name}: images smaller than the crop", words, fresh_store(pixels(60, size=8)))
for name, words in {
    "finetune": finetune(store="other", out="new"),
    "evaluate": evaluate("tuned", "other"),
    "verify": ["verify", "tuned", "--data", "other"],
}.items():
    case(f"{name}: other bands", words, fresh_store(pixels(), "gi"))
    case(f"{name}: bands in another order", words, fresh_store(pixels(), "rg"))
    case(f"{name}: another number of bands", words, fresh_store(pixels(bands=3), "gri"))
    case(f"{name}: another pixel scale", words, fresh_store(pixels(), pixel_scale=[0.4] * 60))
case("verify: a store of one image", ["verify", "tuned", "--data", "other"], fresh_store(pixels(1)))
case("verify: no images asked for", ["verify", "tuned", "--data", "store", "--n", "0"])
case("verify: a negative seed", ["verify", "tuned", "--data", "store", "--seed", "-1"])

# --------------------------------------------------------------------------------------------------------- runs

for name, words in {
    "finetune": finetune(run="tuned", out="new"),
    "evaluate": evaluate(),
    "export": ["export", "tuned", "--out", "exported"],
    "verify": ["verify", "tuned", "--data", "store"],
}.items():
    case(f"{name}: the network's description is cut short", words, cut("tuned/network.json"))
    case(f"{name}: the weights are cut short", words, cut("tuned/network.safetensors"))
    case(f"{name}: the weights are NaN", words, tensors(lambda t: {k: v * float("nan") for k, v in t.items()}))
    case(f"{name}: the network is of a newer schema", words, edit("tuned/network.json", schema_version=99))
    case(f"{name}: the run is a store", [word.replace("tuned", "store") for word in words])
    case(f"{name}: the run is a benchmark", [word.replace("tuned", "compared") for word in words])

EXPORT, NETWORK = ["export", "tuned", "--out", "exported"], "tuned/network.json"
case("network: a list", EXPORT, write(NETWORK, "[]"))
case("network: a number", EXPORT, write(NETWORK, "5"))
case("network: null", EXPORT, write(NETWORK, "null"))
case("network: not UTF-8", EXPORT, write(NETWORK, b"\xff\xfe{}"))
case("network: nested deeper than any parser goes", EXPORT, write(NETWORK, "[" * 100_000))
case("network: a number of a million digits", EXPORT, write(NETWORK, '{"backbone": ' + "9" * 10**6 + "}"))
case("network: its schema version is text", EXPORT, edit(NETWORK, schema_version="one"))
case("network: a backbone there is not", EXPORT, edit(NETWORK, backbone={"name": "vgg", "bands": 2, "image_size": 16}))
case("network: a backbone without bands", EXPORT, edit(NETWORK, backbone={"name": "vit_tiny"}))
case("network: the backbone is text", EXPORT, edit(NETWORK, backbone="vit_tiny"))
for name, value in {"text": "two", "zero": 0, "negative": -2, "60,000": 60_000, "a fraction": 2.5}.items():
    whole = {"name": "vit_tiny", "image_size": 16, **OPTIONS}
    case(f"network: bands are {name}", EXPORT, edit(NETWORK, backbone={**whole, "bands": value}))
for name, value in {"zero": 0, "negative": -8, "a fraction": 0.5, "text": "8", "17": 17, "a list": [8]}.items():
    backbone = {"name": "vit_tiny", "bands": 2, "image_size": 16, **OPTIONS}
    case(f"network: the patch is {name}", EXPORT, edit(NETWORK, backbone={**backbone, "patch_size": value}))
for name, value in {"depth": 10**9, "width": 10**12, "heads": 0}.items():
    case(f"network: {name} is {value}", EXPORT, edit(NETWORK, backbone={**backbone, name: value}))
case("network: loads other weights", EXPORT, edit(NETWORK, backbone={**backbone, "pretrained": "/etc/passwd"}))
case("network: no normalisation", EXPORT, edit(NETWORK, normalisation=None))
case("network: an empty normalisation", EXPORT, edit(NETWORK, normalisation={}))
case("network: the normalisation is text", EXPORT, edit(NETWORK, normalisation="asinh"))
case("network: the head is text", EXPORT, edit(NETWORK, head="two"))
case("network: the head has a billion outputs", EXPORT, edit(NETWORK, head=10**12))
case("network: the head has other outputs than classes", EXPORT, edit(NETWORK, classes=["a", "b", "c"]))
case("network: views of an unknown kind", EXPORT, edit(NETWORK, views={"zoom": 3}))
case("network: views are a list", EXPORT, edit(NETWORK, views=[1]))
case("network: the crop is text", evaluate(), edit(NETWORK, views={"crop": "large"}))
case("network: the temperature is 0", evaluate(), edit(NETWORK, temperature=0))
case("network: the temperature is text", evaluate(), edit(NETWORK, temperature="warm"))
case("network: no temperature", evaluate(), edit(NETWORK, temperature=None))
case("network: the scale is text", evaluate(), edit(NETWORK, pixel_scale="small"))
case("network: the bands are a number", evaluate(), edit(NETWORK, bands=2))
case("network: targets of no kind", evaluate(), edit(NETWORK, targets=[{"columns": ["a"], "kind": "tensor"}]))
case("network: targets without columns", evaluate(), edit(NETWORK, targets=[{}]))
WEIGHTS = "tuned/network.safetensors"
case("weights: missing", EXPORT, remove(WEIGHTS))
case("weights: empty", EXPORT, write(WEIGHTS, ""))
case("weights: text", EXPORT, write(WEIGHTS, "no weights"))
case("weights: a folder", EXPORT, remove(WEIGHTS), lambda: os.mkdir(WEIGHTS))
case("weights: a huge header", EXPORT, write(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"))
case("weights: a pickle with a payload", EXPORT, write(WEIGHTS, pickle.dumps(Payload())))
case("weights: a torch file with a payload", EXPORT, lambda: torch.save(Payload(), WEIGHTS))
case("weights: none", EXPORT, lambda: save_file({}, WEIGHTS))
case("weights: one is missing", EXPORT, tensors(lambda held: dict(list(held.items())[1:])))
case("weights: one too many", EXPORT, tensors(lambda held: {**held, "backbone.extra": torch.zeros(3)}))
case("weights: another shape", EXPORT, tensors(lambda held: {name: value.flatten() for name, value in held.items()}))
case("weights: of a stranger", EXPORT, tensors(lambda held: {f"model.{name}": value for name, value in held.items()}))
case("weights: infinite", evaluate(), tensors(lambda held: {name: value / 0 for name, value in held.items()}))
case("seen: cut short", evaluate(), cut("tuned/seen.parquet"))
case("seen: other columns", evaluate(), lambda: pq.write_table(pa.table({"x": [1]}), "tuned/seen.parquet"))
case("seen: text", finetune(run="tuned", out="new"), write("tuned/seen.parquet", "nobody"))
case("evaluate: a run without a network", evaluate("empty"), lambda: os.mkdir("empty"))
case("export: onto a file", ["export", "tuned", "--out", "store/_labels.parquet"])
case("finetune: a recipe there is not", finetune(run="mine.yaml", out="new"))
case("finetune: the run is a file", finetune(run="pretrain.yaml", out="new"))

LAST = "started/checkpoint/last.pt"
case("checkpoint: cut short", pretrain(), interrupted("started"), cut(LAST))
case("checkpoint: empty", pretrain(), interrupted("started"), write(LAST, ""))
case("checkpoint: text", pretrain(), interrupted("started"), write(LAST, "no checkpoint"))
case("checkpoint: a payload", pretrain(), interrupted("started"), lambda: torch.save(Payload(), LAST))
case("checkpoint: a bare payload", pretrain(), interrupted("started"), write(LAST, pickle.dumps(Payload())))
case("checkpoint: a list", pretrain(), interrupted("started"), lambda: torch.save([1, 2], LAST))
case("checkpoint: nothing in it", pretrain(), interrupted("started"), lambda: torch.save({}, LAST))
case("checkpoint: a folder", pretrain(), interrupted("started"), remove(LAST), lambda: os.mkdir(LAST))


def checkpointed(**changes: object) -> Callable[[], object]:
    return lambda: torch.save(torch.load(LAST, weights_only=True) | changes, LAST)


case("checkpoint: of another network", pretrain(), interrupted("started"), checkpointed(method={"w": torch.zeros(2)}))
case("checkpoint: weights are text", pretrain(), interrupted("started"), checkpointed(method="heavy"))
case(
    "checkpoint: the optimiser of another",
    pretrain(),
    interrupted("started"),
    checkpointed(optimizer={"state": {}, "param_groups": []}),
)
case("checkpoint: steps are text", pretrain(), interrupted("started"), checkpointed(steps="many"))
case("checkpoint: more steps than there are", pretrain(), interrupted("started"), checkpointed(steps=10**6))
case("checkpoint: rows are a number", pretrain(), interrupted("started"), checkpointed(rows=3, steps=1))

for name, words in {"started": pretrain(), "tuned": finetune(), "compared": benchmark()}.items():
    case(f"{name}: run.json is cut short", words, cut(f"{name}/run.json"))
    case(f"{name}: run.json is a list", words, write(f"{name}/run.json", "[]"))
    case(f"{name}: run.json is of a newer schema", words, edit(f"{name}/run.json", schema_version=99))
    case(f"{name}: run.json is of another kind", words, edit(f"{name}/run.json", kind="party"))
    case(f"{name}: config.yaml is missing", words, remove(f"{name}/config.yaml"))
    case(f"{name}: config.yaml is a list", words, write(f"{name}/config.yaml", "- 1"))
    case(
        f"{name}: config.yaml runs something",
        words,
        write(f"{name}/config.yaml", "!!python/object/apply:os.mkdir [payload]"),
    )
    case(f"{name}: other settings", [*words, "--seed", "7"])
case("started: run.json lacks a key", pretrain(), edit("started/run.json", seconds=None))
case("started: its schema version is text", pretrain(), edit("started/run.json", schema_version="one"))
case("started: its seconds are text", pretrain(), edit("started/run.json", seconds="long"))
case("started: other data", pretrain(store="other"), fresh_store(pixels(50)))
case("pretrain: into a folder of other things", pretrain(out="store"))
case("pretrain: into a file", pretrain(out="pretrain.yaml"))
case("pretrain: below a file", pretrain(out="pretrain.yaml/run"))
case("pretrain: into a loop of links", pretrain(out="loop"), links("loop", "round"))

# ------------------------------------------------------------------------------------------------------ benchmark

case("report: no benchmark", ["report", "started"])
case("report: results are empty", ["report", "compared"], write("compared/results.csv", ""))
case("report: results are binary", ["report", "compared"], write("compared/results.csv", bytes(range(256))))
case("report: results are a header", ["report", "compared"], write("compared/results.csv", "arm,labels,draw\n"))
case("report: results of other columns", ["report", "compared"], write("compared/results.csv", "a,b\n1,2\n"))
case(
    "report: results are a folder",
    ["report", "compared"],
    remove("compared/results.csv"),
    lambda: os.mkdir("compared/results.csv"),
)
case("report: onto a folder", ["report", "compared", "--out", "store"])
case("report: below a file", ["report", "compared", "--out", "pretrain.yaml/page.html"])
case(
    "report: the store is damaged", ["report", "compared", "--data", "store"], cut("store/part-00000-of-00002.parquet")
)


def redo(*prepare: Callable[[], object]) -> tuple[Callable[[], object], ...]:
    """A benchmark that has lost its last cells and its end, so that it goes on with what is prepared."""
    return lambda: _unfinish("compared"), remove("compared/summary.csv"), *prepare


def in_cell(how: Callable[[str], Callable[[], object]], name: str) -> Callable[[], object]:
    return lambda: how(str(next(Path("compared/cells").glob(f"*/{name}"))))()


case("benchmark: a cell's result is cut short", benchmark(), *redo(in_cell(cut, "result.json")))
case(
    "benchmark: a cell's result is a list", benchmark(), *redo(in_cell(lambda path: write(path, "[1]"), "result.json"))
)
case("benchmark: a cell's predictions are cut short", benchmark(), *redo(in_cell(cut, "predictions.parquet")))
case("benchmark: a cell's predictions are gone", benchmark(), *redo(in_cell(remove, "predictions.parquet")))


def frozen(content: bytes) -> Callable[[], object]:
    """Other frozen features, and the cell that reads them undone."""

    def change() -> None:
        path = next(Path("compared/pretrain").glob("*/features.npy"))
        path.write_bytes(content)
        for cell in Path("compared/cells").glob("*knn*"):
            shutil.rmtree(cell)

    return change


case("benchmark: frozen features are text", benchmark(), *redo(frozen(b"no array")))
case("benchmark: frozen features are a pickle", benchmark(), *redo(frozen(pickle.dumps(Payload()))))
case(
    "benchmark: its pretraining lost its network",
    benchmark(),
    *redo(frozen(b"")),
    lambda: (
        [p.unlink() for p in Path("compared/pretrain").glob("*/network.json")]
        and [p.unlink() for p in Path("compared/pretrain").glob("*/features.npy")]
    ),
)

# -------------------------------------------------------------------------------------------------------- ingest

INGEST = ["ingest", "in", "--out", "new"]


def files(count: int = 12, size: tuple[int, ...] = (8, 9)) -> Callable[[], object]:
    def make() -> None:
        os.mkdir("in")
        for number in range(count):
            np.save(f"in/{number:02d}.npy", np.full(size, number, np.float32))

    return make


case("ingest: an empty folder", INGEST, lambda: os.mkdir("in"))
case("ingest: a folder of a loop of links", INGEST, lambda: os.mkdir("in"), links("in/a", "in/b"))
case("ingest: a file of no kind", ["ingest", "pretrain.yaml", "--out", "new"])
case("ingest: the folder is a loop of links", INGEST, links("in", "round"))
case("ingest: onto a store", ["ingest", "in", "--out", "store"], files())
case("ingest: onto a file", ["ingest", "in", "--out", "pretrain.yaml"], files())
case("ingest: two names for one band", [*INGEST, "--bands", "[g]"], files(size=(2, 8, 9)))
case("ingest: a band without a name", [*INGEST, "--bands", "['']"], files())
case("ingest: a pixel scale of 0", [*INGEST, "--pixel_scale", "0"], files())
case("ingest: a pixel scale that is no number", [*INGEST, "--pixel_scale", "nan"], files())
case("ingest: a size of 0", [*INGEST, "--size", "0"], files())
case("ingest: a size of a billion", [*INGEST, "--size", "1000000000"], files())
case("ingest: workers that are text", [*INGEST, "--workers", "many"], files())
CATALOG = [*INGEST, "--catalog", "list.csv"]
for name, content in {
    "is missing": None,
    "is empty": "",
    "has no rows": "file,label\n",
    "is binary": bytes(range(256)) * 4,
    "is a pickle with a payload": pickle.dumps(Payload()),
    "is UTF-16": "file,label\n00.npy,a\n".encode("utf-16"),
    "names no files": "ra,dec\n1,2\n",
    "names other files": "file\nx.npy\ny.npy\n",
    "has a column twice": "file,ra,RA\n00.npy,1,2\n",
    "has rows longer than its header": "file,label\n00.npy,a,b,c\n",
    "has a line without an end of its quote": 'file,label\n"00.npy,a\n' + "x" * 200_000,
    "holds NUL": "file,label\n00.npy,a\0\n",
}.items():
    case(f"ingest: the catalogue {name}", CATALOG, files(), *([] if content is None else [write("list.csv", content)]))
case("ingest: the catalogue is a folder", CATALOG, files(), lambda: os.mkdir("list.csv"))
case("ingest: the catalogue is a loop of links", CATALOG, files(), links("list.csv", "round"))

# -------------------------------------------------------------------------------------------------------- recipes

for name, content in {
    "runs something": "seed: !!python/object/apply:os.mkdir [payload]",
    "refers to itself": "train: &a {lr: *a}",
    "is a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"b{n}: &b{n} [{','.join(['*a'] * 9)}]" for n in range(9)),
    "is a bomb within an option": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"b{n}: &b{n} [{','.join([f'*b{n - 1}' if n else '*a'] * 9)}]" for n in range(9))
    + "\nmethod: {name: dino, options: {prototypes: *b8}}",
    "has a key twice of two kinds": "train: {lr: 0.1}\ntrain: 5",
    "has null for a group": "train: null",
    "has text for a group within a group": "views: {crop: {a: 1}}",
    "has a date for a number": "seed: 2024-01-01",
    "has a number for a group": "train: 5",
    "has a list for a group": "views: [1, 2]",
    "has text for a list": "views: {global_scale: wide}",
    "has three bounds": "views: {global_scale: [0.1, 0.5, 1.0]}",
    "has bounds the wrong way round": "views: {global_scale: [1.0, 0.5]}",
    "has a share above 1": "train: {warmup: 3}",
    "has NaN": "train: {lr: .nan}",
    "has infinity": "train: {epochs: .inf}",
    "has null for a number": "seed: null",
    "has a key that is a list": "? [a, b]\n: 1",
    "has a key that is a number": "5: 1",
    "has an unknown group": "optimiser: {name: sgd}",
    "has an unknown method": "method: {name: dinosaur}",
    "has an option the method lacks": "method: {name: dino, options: {speed: 3}}",
    "has an option of another type": "method: {name: dino, options: {prototypes: many}}",
    "has no prototypes": "method: {name: dino, options: {prototypes: 0}}\nviews: {local_size: 8}",
    "has a mask ratio of 1": "method: {name: mae, options: {mask_ratio: 1.0}}",
    "has an unknown backbone": "backbone: {name: vgg}",
    "has a patch that does not divide": "backbone: {name: vit_tiny, options: {patch_size: 5}}",
    "has a width that heads do not divide": "backbone: {name: vit_tiny, options: {patch_size: 8, width: 33, heads: 2}}",
    "has a backbone option of another type": "backbone: {name: vit_tiny, options: {patch_size: 8, depth: deep}}",
    "has weights that are no file": "backbone: {name: vit_tiny, pretrained: ./nowhere.safetensors}",
    "has a crop larger than the images": "views: {crop: 64}",
    "has a crop of 0": "views: {crop: 0, local_size: 8}",
    "has local crops of 0": "views: {crop: 16, local_size: 0}",
    "has local crops that patches do not divide": "views: {crop: 16, local_size: 9}",
    "reddens bands it does not know": "views: {crop: 16, local_crops: 0, reddening: 0.1}",
    "has a negative seed": "seed: -1",
    "has a huge seed": "seed: 99999999999999999999999",
    "has sizes that are a list": "sizes: [a, b]",
    "has sizes that are text": "sizes: big",
    "has a size that is a number": "sizes: {smoke: 3}",
    "has a method for labels": "method: {name: supervised, options: {classes: 2}}",
    "has softening of 0": "normalisation: {softening: 0}",
    "has a tab": "train:\n\tlr: 1",
}.items():
    case(
        f"recipe: {name}",
        ["pretrain", "mine.yaml", "--data", "odd" if "redden" in name else "store", "--out", "new"],
        write("mine.yaml", content),
        *([lambda: write_store(Path("odd"), pixels(), "xy")] if "redden" in name else []),
    )

for name, words in {
    "simulate: a negative number": ["simulate", "demo-lenses", "--n", "-3", "--out", "new"],
    "simulate: a negative seed": ["simulate", "demo-lenses", "--seed", "-1", "--out", "new"],
    "simulate: onto a store": ["simulate", "demo-lenses", "--n", "2", "--out", "store"],
    "simulate: a number that is text": ["simulate", "demo-lenses", "--n", "few", "--out", "new"],
    "benchmark: labels that are text": benchmark("--labels=[many]", out="new"),
    "benchmark: no labels asked for": benchmark("--labels=[]", out="new"),
    "benchmark: no draws": benchmark("--draws=0", out="new"),
    "benchmark: a baseline there is not": benchmark("--baselines=[oracle]", out="new"),
    "benchmark: shares above 1": benchmark("--design.fractions=[0.9,0.9,0.9]", out="new"),
    "benchmark: one fold": benchmark("--design.kind=folds", "--design.folds=1", out="new"),
    "benchmark: more folds than objects": benchmark("--design.kind=folds", "--design.folds=500", out="new"),
    "benchmark: no replicates": benchmark("--replicates=0", out="new"),
    "benchmark: tests a column there is not": benchmark("--design.kind=folds", "--design.test_where={x: y}", out="new"),
    "benchmark: compares with a network there is not": benchmark("--compare_with=vgg", out="new"),
    "demo: a size there is not": ["demo", "--size", "full"],
    "export: a format there is not": ["export", "tuned", "--out", "new", "--format", "pickle"],
    "no command": ["fly"],
    "a number of labels that is a list": finetune("--labels=[1,2]", out="new"),
}.items():
    case(name, words)


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """A copy of `made`, which is where commands run."""
    folder = tmp_path / "made"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line(copy, name, capsys, monkeypatch):
    words = CASES[name]()
    monkeypatch.setattr(sys, "argv", ["zwicky", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith(("warning: ", "["))]  # of steps that went well
    assert caught.value.code == 2, error
    assert len(lines) == 1, error
    assert lines[0].startswith("zwicky: ")
    assert len(lines[0]) < 600
    assert not Path("payload").exists()


def test_at_least_a_hundred():
    assert len(CASES) >= 100


def test_the_words_are_right_without_the_damage(copy, capsys):
    """Or the cases above would fail for another reason than they say."""
    for words in (
        ["audit", "store"],
        pretrain(),
        finetune(),
        benchmark(),
        evaluate(),
        ["verify", "tuned", "--data", "store"],
    ):
        cli.run(words)
    for words in (["report", "compared"], ["export", "tuned", "--out", "exported"], finetune(run="tuned", out="new")):
        cli.run(words)
    _unfinish("started"), _unfinish("compared")
    for words in (pretrain(), benchmark()):
        cli.run(words)
    files()()
    Path("list.csv").write_text("file,label\n" + "".join(f"{n:02d}.npy,{'ab'[n % 2]}\n" for n in range(12)))
    cli.run(["ingest", "in", "--out", "ingested", "--catalog", "list.csv"])


# ------------------------------------------------------------------------------------------------------- fuzzing

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """Some bytes changed, a piece doubled, or the end cut off."""
    held = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(held) - 1) | st.integers(0, min(600, len(held) - 1)))
        held[place] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(held)))
    how = data.draw(st.sampled_from(["as it is", "as it is", "cut", "doubled"]))
    if how == "doubled":
        held[start:start] = held[start : start + 50]
    return bytes(held[:start] if how == "cut" else held)


def read_all(path: str) -> Callable[[], object]:
    """What reads a file of the folder `made`."""
    name = Path(path).name
    if "store" in path:
        return {"_labels.parquet": lambda: read_labels("store"), "holdout.parquet": lambda: read_split(path)}.get(
            name, lambda: open_store("store")
        )
    if name == "last.pt":
        return lambda: checkpoint.load(Path(path))
    if name == "seen.parquet":
        return lambda: provenance.read(Path("tuned"))
    if name == "results.csv":
        return lambda: cli.run(["report", "compared"])
    return (lambda: cli.run(pretrain())) if "started" in path else lambda: load_network(Path("tuned"))


@pytest.mark.parametrize(
    "path",
    ["tuned/network.json", "tuned/network.safetensors", "tuned/seen.parquet", LAST, "started/run.json"]
    + ["started/config.yaml", SPLIT, "store/_labels.parquet", "store/part-00000-of-00002.parquet"],
)
def test_mutated_files_are_read_or_refused(copy, path):
    """Read as they are, or refused in one line; anything else that is raised fails the test."""
    content, reader = Path(path).read_bytes(), read_all(path)

    @FUZZ
    @given(st.data())
    def mutate(data: st.DataObject) -> None:
        Path(path).write_bytes(mutated(data, content))
        with contextlib.suppress(UserError):
            reader()

    mutate()
    assert not Path("payload").exists()


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({}) | st.just([1])
groups = st.sampled_from(
    ["method", "backbone", "views", "normalisation", "train", "split", "seed", "sizes", "simulate"]
)
keys = st.sampled_from(
    ["name", "options", "lr", "crop", "global_scale", "batch_size", "stretch", "rotation", "a", "split"]
)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@FUZZ
@given(settings=st.dictionaries(groups | st.text(max_size=5), values, max_size=4))
def test_recipes_of_any_shape_are_read_or_refused(tmp_path_factory, settings):
    """Up to the store, which is not there: nothing is trained."""
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    refused(["pretrain", str(path), "--data", "nowhere", "--out", "new"])


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", ["dino", "demo"])
def test_mutated_recipes_are_read_or_refused(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_bytes(mutated(data, (recipes.FOLDER / f"{name}.yaml").read_bytes()))
    refused(["benchmark" if name == "demo" else "pretrain", str(path), "--data", "nowhere", "--out", "new"])


def refused(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zwicky", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert caught.value.code == 2
