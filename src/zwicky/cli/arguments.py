"""Arguments that several commands take: name, type, help and default, see `parsing.Argument`."""

from pathlib import Path

from jsonargparse.typing import NonNegativeInt

A_RUN = "a run of `zwicky pretrain` or `zwicky finetune`"
A_STORE = "a store written by `zwicky ingest` or `zwicky simulate`, or simulate:POPULATION:N:SEED to render on the fly"
A_SURVEY = (
    "a store, a folder of images in any format that `zwicky ingest` reads, or a file of many: HDF5, Parquet, HATS, ..."
)
OF_STEPS = (
    "time budget: a few steps are timed on this machine and the numbers of steps set to fit; config.yaml keeps them; "
    "default: the recipe's steps"
)

CATALOG = ("--catalog", Path | None, "table of files, labels, ra and dec (degrees), properties")
DATA = ("--data", Path, A_STORE)
MINUTES = ("--minutes", float | None, OF_STEPS)
RAY = ("--ray", str, "auto, or the address of a Ray cluster, to work there", "")
PARALLEL = (("--workers", NonNegativeInt, "local processes; 0: one a core", 1), RAY)
RECIPES = {  # without those of `zwicky start` and `zwicky demo`
    "pretrain": "dino, ibot, esvit, simsiam, byol, lejepa, simmim, mae, beit",
    "finetune": "zwicky-rings (weights that ship), polar-finetune, beit-finetune, rings",
    "benchmark": "substructure, few-labels, polar, proposal, three-classes, model-two, lens-finding, cfhtls, blog, "
    "blog-as-published, methods, equivariance, regression",
}
RESULTS = ("--out", Path | None, "folder for the results; default: the run")
RUN = ("run", Path, A_RUN)
TRAINING = (
    ("--size", str | None, "a size of the recipe; default: its first"),
    DATA,
    MINUTES,
    ("--out", Path, "run directory; resumes if interrupted"),
)
