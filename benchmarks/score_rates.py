"""Cutouts a second from disk to score file, for each format and network: `python benchmarks/score_rates.py`.

N cutouts of 3 × 64 × 64 float32 noise are scored by networks of random weights, one view, one worker of one thread, in
one part, from files that the system has in its memory. Seconds are those of the processor, so that other work on the
machine counts little; two cores score twice as many in two workers. The faster of two.

Measured apart on the same cutouts: reading alone (`SurveyData.blocks`; FITS files have a celestial WCS), preparing
(normalisation and window), and the network, in batches of 64 and 256 images; the rest writes tables and chooses
candidates. `ceiling` is what the network alone could do if it were nothing but one large matrix product in its
precision: the rate of that product over `mflop_per_cutout`, counted by `torch.utils.flop_counter`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from astropy.io import fits
from tables import write_csv
from torch.utils.flop_counter import FlopCounterMode

from zwicky import backbones
from zwicky.augment.config import ViewsConfig
from zwicky.augment.normalise import Normalisation
from zwicky.augment.views import eval_views
from zwicky.data.cutouts import batches, make_table
from zwicky.data.store import write_store
from zwicky.survey.config import ScoreConfig
from zwicky.survey.parts import SurveyData
from zwicky.survey.score import score
from zwicky.training.distributed import use_bf16
from zwicky.training.network import Network, load_network, save_network

RESULTS = Path(__file__).parent / "results" / "score_rates.csv"
BANDS, SIZE = ("g", "r", "i"), 64
POSITION = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 32.5, "CRPIX2": 32.5, "CRVAL1": 150.1, "CRVAL2": 2.2}
POSITION |= {"CD1_1": -7.28e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 7.28e-5}  # as cutout services write them
NETWORKS = {
    "ViT-tiny/8, 6 blocks": ("vit_tiny", {"patch_size": 8, "depth": 6}),  # of the recipes
    "ViT-tiny/8, 12 blocks": ("vit_tiny", {"patch_size": 8}),
    "ViT-tiny/16, 6 blocks": ("vit_tiny", {"patch_size": 16, "depth": 6}),
    "ResNet-18": ("resnet18", {}),
}


def _store(path: Path, images: np.ndarray) -> Path:
    write_store(images, make_table([f"o{row}" for row in range(len(images))]), path / "store", bands=BANDS)
    return path / "store"


def _hdf5(path: Path, images: np.ndarray) -> Path:
    with h5py.File(path / "images.hdf5", "w") as file:
        file.create_dataset("images", data=images, chunks=(21, *images.shape[1:])).attrs["bands"] = list(BANDS)
    return path / "images.hdf5"


def _parquet(path: Path, images: np.ndarray) -> Path:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    pq.write_table(pa.table({"image": tensors}), path / "images.parquet", row_group_size=512, compression="none")
    return path / "images.parquet"


def _npy(path: Path, images: np.ndarray) -> Path:
    np.save(path / "images.npy", images)
    return path / "images.npy"


def _fits(path: Path, images: np.ndarray) -> Path:
    header = fits.Header({f"BAND{number}": band for number, band in enumerate(BANDS)} | POSITION)
    for row, image in enumerate(images):
        fits.PrimaryHDU(image, header).writeto(path / f"{row}.fits")
    return path


FORMATS = {"store": _store, "npy": _npy, "hdf5": _hdf5, "parquet": _parquet, "fits, one a file": _fits}


def _seconds(function: Callable[..., object], *arguments: object) -> float:
    """Processor seconds, the fewer of two."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        function(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds)


def _save_network(name: str, images: np.ndarray, run: Path) -> None:
    torch.manual_seed(0)
    architecture, options = NETWORKS[name]
    backbone = backbones.create(architecture, bands=3, image_size=SIZE, **options)
    views, normalisation = ViewsConfig(crop=SIZE, image_size=SIZE), Normalisation.fit(images, BANDS)
    network = Network(backbone, normalisation, views, BANDS, head=backbone.prediction_head(2))
    network.classes = ("nonlens", "lens")
    run.mkdir()
    save_network(run, network)


def _ceiling(dtype: torch.dtype) -> float:
    """FLOP/s of one product of 4,096 × 1,024 × 1,024 on one thread."""
    a, b = torch.randn(4096, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return 2 * 4096 * 1024**2 / min(_seconds(torch.mm, a, b) for _ in range(3))


def _measure(name: str, images: np.ndarray, folder: Path) -> list[dict[str, object]]:
    """The rows of one network."""
    count, run = len(images), folder / "run"
    _save_network(name, images, run)
    network, config, rows = load_network(run), ScoreConfig(views=1, part_size=count), []
    with FlopCounterMode(display=False) as flops:
        network.outputs(images[:64], turns=False)
    per_cutout = flops.get_total_flops() / 64
    precision = torch.bfloat16 if use_bf16("auto", network.backbone) else torch.float32
    common = {"network": name, "mflop_per_cutout": round(per_cutout / 1e6)}
    common |= {"precision": str(precision).removeprefix("torch."), "ceiling": round(_ceiling(precision) / per_cutout)}
    alone = {size: _seconds(network.outputs, images, size, False) for size in (256, 64)}
    common |= {f"network_in_batches_of_{size}": round(count / seconds) for size, seconds in alone.items()}

    def prepare() -> None:
        for part in batches(count, 64):
            eval_views(torch.from_numpy(images[part]), network.views, network.normalisation)

    def read(survey: SurveyData) -> None:
        for part in survey.parts:
            for _ in survey.blocks(part):
                pass

    def write_scores(data: Path) -> None:
        with tempfile.TemporaryDirectory() as out:
            score([run], data, Path(out) / "scores", config, workers=1, quiet=True)

    preparing = _seconds(prepare)
    for kind, write in FORMATS.items():
        path = folder / kind.split(",")[0]
        path.mkdir()
        data = write(path, images)
        survey = SurveyData.open(data, network, count)  # reads a sample of 200 files, however many there are
        reading, total = _seconds(read, survey), _seconds(write_scores, data)
        shares = {"reading": reading, "preparing": preparing, "network": alone[64] - preparing}
        rates = {"reading_alone": round(count / reading), "disk_to_scores": round(count / total)}
        rates |= {f"share_{part}": round(seconds / total, 3) for part, seconds in shares.items()}
        rows.append({"format": kind} | common | rates)
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1024)
    count = parser.parse_args().n
    torch.set_num_threads(1)
    images, rows = np.random.default_rng(0).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32), []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(name, images, Path(folder))
    notes = [f"cutouts per processor second of one thread; {count} of 3 x 64 x 64 float32, one view, files in memory"]
    write_csv(RESULTS, rows, notes, ["torch", "numpy", "pyarrow", "h5py"])


if __name__ == "__main__":
    main()
