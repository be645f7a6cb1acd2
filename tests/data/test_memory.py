"""A store larger than the memory a process may take: written, audited, pretrained on and scored under a limit."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

# Writable memory is limited to what the libraries take and 480 MB more; the pixels are 688 MB. Memory-mapped pages of
# the store are not writable, so they do not count: the system can drop them at any time.
PROGRAM = """
import re, resource, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from zwicky.augment.config import ViewsConfig
from zwicky.backbones import BackboneConfig
from zwicky.data.audit import audit
from zwicky.data.labels import Labels, read_labels, write_labels
from zwicky.data.splits import default_split
from zwicky.data.store import StoreWriter, open_store
from zwicky.evaluation.evaluate import evaluate
from zwicky.methods import MethodConfig
from zwicky.training.config import PretrainConfig, TrainConfig
from zwicky.training.pretrain import pretrain

torch.set_num_threads(1)
folder, shape, count = Path(sys.argv[1]), (3, 64, 64), 14_000
used = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 480 * 2**20,) * 2)
rng = np.random.default_rng(0)
ids = [f"id{row:06}" for row in range(count)]
with StoreWriter(folder / "store", "gri", shape[1:], "float32") as writer:
    for start in range(0, count, 500):
        images = rng.normal(0, 4, (500, *shape)).astype(np.float32)
        images[::2, :, 24:40, 24:40] += 8
        writer.append(images, pd.DataFrame({"id": ids[start : start + 500]}))
    write_labels(writer.folder, Labels({name: "non" if row % 2 else "lens" for row, name in enumerate(ids)}))
cutouts, labels = open_store(folder / "store"), read_labels(folder / "store")
assert cutouts.images.nbytes > 650e6
split = default_split(cutouts, labels)
train = TrainConfig(epochs=1, batch_size=64, precision="float32", evaluations=1)
views = ViewsConfig(crop=48, image_size=16, local_crops=0)
backbone = BackboneConfig("vit_tiny", {"patch_size": 8, "width": 32, "depth": 1, "heads": 2})
config = PretrainConfig(MethodConfig("simmim"), backbone, views, train=train)
pretrain(config, cutouts, cutouts.rows_of(split.ids("train")), folder / "run", quiet=True)
evaluate(folder / "run", cutouts, labels, split, replicates=20)
print(audit(cutouts, labels)["objects"])
"""


def test_a_store_larger_than_memory(tmp_path):
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    settings["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "14000"
