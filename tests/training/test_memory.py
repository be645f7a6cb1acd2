"""Pretraining, fine-tuning, scoring and audit of a store ten times the memory it may take, under a system's limit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from zwicky.data import store as store_module
from zwicky.data.contract import make_table
from zwicky.data.store import StoreWriter, read_metadata
from zwicky.data.tables import Labels, write_labels

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
SHAPE = (3, 64, 64)
GROUP_BYTES = 4 * 2**20
MIXED_BYTES = 24 * 2**20
MEMORY_GB = 0.05  # allowed for pixels
EXTRA = 480 * 2**20  # bytes of writable memory beyond what the libraries begin with: less than the pixels of the store
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# MB by which a large store may take more than a small one: two runs of one size differed by up to 82, and the pixels of
# the large one are 442 more.
MOST = 150

PROGRAM = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch
from zwicky.backbones.config import BackboneConfig
from zwicky.data import store as store_module
from zwicky.data.audit import audit
from zwicky.data.stored_split import stored_split
from zwicky.data.tables import read_labels
from zwicky.evaluation.evaluate import evaluate
from zwicky.methods import MethodConfig
from zwicky.training import batches
from zwicky.training.config import FinetuneConfig, FitConfig, PretrainConfig, TrainConfig
from zwicky.training.finetune import finetune
from zwicky.training.pretrain import pretrain
from zwicky.augment.config import ViewsConfig
path, out, group_bytes, mixed_bytes, memory, extra = sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:])
store_module.ROW_GROUP_BYTES, batches.MIXED_BYTES = int(group_bytes), int(mixed_bytes)
torch.set_num_threads(1)
def status(name):  # in MB
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
limit = int(status("VmData") * 2**20 + extra)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
def done(what):
    print(what, status("VmHWM") - before)
before = status("VmHWM")
cutouts, labels = store_module.open_store(path, memory), read_labels(path)
split = stored_split(path, "holdout", cutouts, labels)
ids = split.ids("train", "unlabelled")
train = dict(batch_size=64, precision="float32", evaluations=2)
views = ViewsConfig(crop=48, image_size=16, local_crops=0)
backbone = BackboneConfig("vit_tiny", {"patch_size": 8, "width": 32, "depth": 1, "heads": 2})
config = PretrainConfig(MethodConfig("simmim"), backbone, views, train=TrainConfig(epochs=1, **train))
pretrain(config, cutouts, cutouts.rows_of(ids), out / "pretrained", labels=labels.of(ids), quiet=True)
done("pretrain")
evaluate(out / "pretrained", cutouts, labels, split, replicates=20)
done("embed")
fit = FitConfig(train=TrainConfig(max_steps=10, **train))
finetune(FinetuneConfig(fit=fit, labels=300), out / "pretrained", cutouts, labels, split, out / "few", quiet=True)
done("finetune")
finetune(FinetuneConfig(fit=fit), out / "pretrained", cutouts, labels, split, out / "all", quiet=True)
done("finetune all")
evaluate(out / "all", cutouts, labels, split, replicates=20)
done("score")
audit(cutouts, labels)
done("audit")
"""


def make_store(path, rows):
    """Noise rounded, so that it packs fast, with a brighter centre for the lenses."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, (500, *SHAPE)).astype(np.float32).round()
    with StoreWriter(path, "gri", SHAPE[1:], "float32") as writer:
        for start in range(0, rows, 500):
            block = np.roll(noise, start // 500, axis=(0, 2))
            block[::2, :, 24:40, 24:40] += 8
            block[:, 0, 0, 0] = np.arange(start, start + 500)  # no two alike
            writer.append(block, make_table([f"id{row:06}" for row in range(start, start + 500)]))
        write_labels(writer.folder, Labels({f"id{row:06}": "non" if row % 2 else "lens" for row in range(rows)}))


def peaks(folder, rows):
    """{step: MB of resident memory gained by its end} of all steps on a store of so many images."""
    make_store(folder / f"{rows}", rows)
    assert read_metadata(folder / f"{rows}")["rows"] == rows
    numbers = map(str, (GROUP_BYTES, MIXED_BYTES, MEMORY_GB, EXTRA))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / f"{rows}"), str(folder / f"runs{rows}"), *numbers],
        capture_output=True,
        text=True,
        env=dict(os.environ, **ONE_THREAD, MALLOC_ARENA_MAX="2", ARROW_DEFAULT_MEMORY_POOL="system"),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()}


def test_a_store_ten_times_the_allowed_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROW_GROUP_BYTES", GROUP_BYTES)
    small, large = peaks(tmp_path, 1500), peaks(tmp_path, 10_500)  # 74 and 516 MB of pixels
    print(small, large)
    assert list(large) == ["pretrain", "embed", "finetune", "finetune all", "score", "audit"]
    assert {step: peak - small[step] for step, peak in large.items() if peak - small[step] > MOST} == {}
