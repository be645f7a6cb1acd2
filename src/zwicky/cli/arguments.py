"""Which words each verb takes."""

from __future__ import annotations

from argparse import Action
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from zwicky import recipes
from zwicky.data.config import IngestConfig
from zwicky.errors import UserError
from zwicky.simulate import population_names


class _PrintPopulation(Action):
    """Prints the description of the population named before it, for a file of one's own, and ends."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from zwicky.simulate.description import read_population

        if not namespace.population:
            raise UserError(f"write the name of the population before {option_string}")
        print(read_population(namespace.population).text, end="")
        parser.exit()


def simulate(parser: ArgumentParser) -> None:
    names = ", ".join(population_names())
    parser.add_argument("population", type=str, help=f"a shipped population ({names}) or a YAML file of your own")
    parser.add_argument(
        "--print_config", action=_PrintPopulation, nargs="?", help="print the population as YAML, to copy and change"
    )
    parser.add_argument("--n", type=int, default=1000, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="image i follows from population, seed and i alone")
    parser.add_argument("--device", type=str, default="cpu", help="where to render: cpu, or cuda where torch has a GPU")
    parser.add_argument("--out", type=Path, required=True, help="the store or folder to write; a killed one goes on")
    parser.add_argument(
        "--format",
        type=Literal["store", "deeplense", "fits", "hdf5"],
        default="store",
        help="a store, DeepLense's folders CLASS/NAME.npy, one FITS an object, or one HDF5 file",
    )


def ingest(parser: ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="folder of images, class folders, or a folder a catalogue describes")
    parser.add_argument(
        "--catalog",
        type=Path | None,
        default=None,
        help="CSV with file names, labels, ra, dec (degrees) and any properties",
    )
    parser.add_argument("--out", type=Path, required=True, help="the store to write (a new folder)")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def _data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="the store, as `zwicky ingest` or `zwicky simulate` wrote it; or simulate:POPULATION:N:SEED, whose images "
        "are made while they are used and not kept",
    )
    _memory(parser)


def _memory(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--memory_gb",
        type=float | None,
        default=None,
        help="read a store with more pixels than this (10^9 bytes) piece by piece rather than into memory, with the "
        "same results; half of the memory that is free unless said",
    )


def _out(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the run directory; one that was interrupted goes on")


def audit(parser: ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="the store to look at, or simulate:POPULATION:N:SEED")
    _memory(parser)


def _recipe(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=str, help=f"a shipped recipe ({', '.join(recipes.names())}) or a YAML file")
    _size(parser)


def _size(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=str | None, default=None, help="one of the recipe's sizes; the first unless said"
    )


def of_recipe(parser: ArgumentParser) -> None:
    _recipe(parser)
    _data(parser)
    _out(parser)


def finetune(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run whose network to start from, or a recipe with a backbone")
    _size(parser)
    _data(parser)
    _out(parser)
    parser.add_argument(
        "--from_scratch", type=bool, default=False, help="the same network from random weights, for comparison"
    )


def evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run of `zwicky pretrain` or `zwicky finetune`")
    _data(parser)
    parser.add_argument("--split", type=str, default="holdout", help="the store's split whose role test is used")


def export(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run of `zwicky pretrain` or `zwicky finetune`")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write the files in")
    parser.add_argument(
        "--format",
        type=Literal["safetensors", "onnx"],
        default="safetensors",
        help="safetensors, which timm reads without zwicky where the architecture is timm's, or onnx",
    )


def verify(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run of `zwicky pretrain` or `zwicky finetune`")
    _data(parser)
    parser.add_argument("--n", type=int, default=64, help="number of cutouts to turn, drawn from the store")
    parser.add_argument("--seed", type=int, default=0, help="which cutouts are drawn")


def report(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the run directory of `zwicky benchmark`")
    parser.add_argument(
        "--data",
        type=Path | None,
        default=None,
        help="the store, for example images; the run's own where it still stands",
    )
    parser.add_argument(
        "--out", type=Path | None, default=None, help="the page to write; report.html in the run unless said"
    )


def demo(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the simulated store and the run")
    parser.add_argument(
        "--size", type=str, default="desk", help="desk (about 15 minutes on two cores) or smoke (one or two)"
    )
