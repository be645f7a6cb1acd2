"""Commands that make and read stores: simulate, ingest, audit, cutouts."""

import shutil
from argparse import Action
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from zwicky.cli.arguments import A_STORE, CATALOG, PARALLEL
from zwicky.cli.parsing import command, settings_of
from zwicky.data.image_format import IngestConfig
from zwicky.errors import UserError
from zwicky.simulate import population_names
from zwicky.survey.config import CutoutsConfig


class _PrintPopulation(Action):
    """Print the YAML of the population named before this option, then exit."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from zwicky.simulate.population import read_population

        if not namespace.population:
            raise UserError(f"write the name of the population before {option_string}")
        print(read_population(namespace.population).text, end="")
        parser.exit()


@command(
    "POPULATION --out STORE [--n N] [--seed S] [--format store|deeplense|fits|hdf5] | POPULATION --print_config",
    ("population", str, f"a shipped population ({', '.join(population_names())}) or a YAML file"),
    (
        "--print_config",
        None,
        "print the population as YAML, to copy and adapt",
        None,
        {"action": _PrintPopulation, "nargs": "?"},
    ),
    ("--n", PositiveInt, "number of images", 1000),
    ("--seed", NonNegativeInt, "random seed; image i depends only on (population, seed, i)", 0),
    ("--device", str, "device to render on: cpu or cuda", "cpu"),
    ("--out", Path, "store or folder to write; resumes if interrupted"),
    (
        "--format",
        Literal["store", "deeplense", "fits", "hdf5"],
        "a store, DeepLense's folders CLASS/NAME.npy, one FITS file an object, or one HDF5 file",
        "store",
    ),
    *PARALLEL,
)
def simulate(args: Namespace) -> None:
    """Simulate lenses and look-alikes."""
    from zwicky.data.store import check_writable
    from zwicky.data.write import write_folder
    from zwicky.simulate.simulation import simulate_store

    check_writable(args.out)
    store = args.out if args.format == "store" else args.out.with_name(f".{args.out.name}.store")
    if store != args.out and store.exists():  # left by an interrupted run
        shutil.rmtree(store)
    options = {name: args[name] for name in ("device", "workers", "ray")}
    simulate_store(args.population, args.n, args.seed, store, quiet=False, **options)
    if store != args.out:
        write_folder(store, args.out, args.format)
        shutil.rmtree(store)
    print(f"{args.n} simulated cutouts in {args.out}")


@command(
    "PATH --out STORE [--catalog TABLE] [options]",
    ("path", Path, "folder of images, class folders, or files of a data set"),
    CATALOG,
    ("--out", Path, "store to write (a new folder)"),
    IngestConfig,
)
def ingest(args: Namespace) -> None:
    """Read a folder of cutouts into a store."""
    from zwicky.data.ingest import ingest

    print(ingest(args.path, args.out, args.catalog, settings_of(IngestConfig, args)).text())


@command("STORE", ("store", Path, A_STORE))
def audit(args: Namespace) -> None:
    """Summarise a store and flag label leakage and shortcuts."""
    from zwicky.data.audit import audit, audit_text
    from zwicky.simulate.stream import open_data

    data = open_data(args.store)
    print(audit_text(audit(data.cutouts, data.labels)))


@command(
    "CATALOG --out FOLDER [--service legacy|hips2fits] [--bands grz] [--size 101] [options]",
    ("catalog", Path, "table of positions, with ids, labels and properties"),
    ("--out", Path, "folder of FITS files; resumes if interrupted"),
    ("--pool", Path | None, "table of galaxies of the same fields, to draw negatives from"),
    CutoutsConfig,
)
def cutouts(args: Namespace) -> None:
    """Fetch cutouts of the objects of a catalogue from a public service."""
    from zwicky.survey.download import download_cutouts

    print(download_cutouts(args.catalog, args.out, settings_of(CutoutsConfig, args), pool=args.pool))
