"""The arguments of each command, beside the settings that its recipe fills."""

from argparse import Action
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt

from zwicky import recipes
from zwicky.data.image_format import IngestConfig
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.simulate import population_names
from zwicky.survey.config import ScoreConfig

DATA_HELP = (
    "a store written by `zwicky ingest` or `zwicky simulate`, or simulate:POPULATION:N:SEED to render on the fly"
)
SURVEY_HELP = (
    "a store, a folder of images in any format that `zwicky ingest` reads, or a file of many: HDF5, Parquet, HATS, ..."
)
RUN_HELP = "a run of `zwicky pretrain` or `zwicky finetune`"


class _PrintPopulation(Action):
    """Print the YAML of the population named before this option, then exit."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from zwicky.simulate.population import read_population

        if not namespace.population:
            raise UserError(f"write the name of the population before {option_string}")
        print(read_population(namespace.population).text, end="")
        parser.exit()


def simulate(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky simulate`."""
    names = ", ".join(population_names())
    parser.add_argument("population", type=str, help=f"a shipped population ({names}) or a YAML file")
    parser.add_argument(
        "--print_config", action=_PrintPopulation, nargs="?", help="print the population as YAML, to copy and adapt"
    )
    parser.add_argument("--n", type=PositiveInt, default=1000, help="number of images")
    parser.add_argument(
        "--seed", type=NonNegativeInt, default=0, help="random seed; image i depends only on (population, seed, i)"
    )
    parser.add_argument("--device", type=str, default="cpu", help="device to render on: cpu or cuda")
    parser.add_argument("--out", type=Path, required=True, help="store or folder to write; resumes if interrupted")
    parser.add_argument(
        "--format",
        type=Literal["store", "deeplense", "fits", "hdf5"],
        default="store",
        help="a store, DeepLense's folders CLASS/NAME.npy, one FITS file an object, or one HDF5 file",
    )


def ingest(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky ingest`."""
    parser.add_argument("path", type=Path, help="folder of images, class folders, or files of a data set")
    parser.add_argument(
        "--catalog", type=Path | None, default=None, help="table of files, labels, ra and dec (degrees), properties"
    )
    parser.add_argument("--out", type=Path, required=True, help="store to write (a new folder)")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def audit(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky audit`."""
    parser.add_argument("store", type=Path, help=DATA_HELP)


def train(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky pretrain` and `zwicky benchmark`."""
    parser.add_argument("recipe", type=str, help=f"a shipped recipe ({', '.join(recipes.names())}) or a YAML file")
    _size(parser)
    _data(parser)
    _minutes(parser)
    _run(parser)


def finetune(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky finetune`."""
    parser.add_argument("run", type=Path, help="pretrained run to start from, or a recipe that names a backbone")
    _size(parser)
    _data(parser)
    _minutes(parser)
    _run(parser)
    parser.add_argument(
        "--from_scratch", type=bool, default=False, help="train the same network from random weights, for comparison"
    )
    parser.add_argument(
        "--grades",
        type=Path | None,
        default=None,
        help="catalogue of `zwicky grade --merge`: learn its grades too; the random stratum stays out",
    )


def evaluate(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky evaluate`."""
    parser.add_argument("run", type=Path, help=f"{RUN_HELP}; with --grades the folder of `zwicky score`")
    parser.add_argument("--data", type=Path | None, default=None, help=f"{DATA_HELP}; or a folder of cutouts")
    parser.add_argument(
        "--catalog", type=Path | None, default=None, help="table of files, labels, ra and dec of such a folder"
    )
    parser.add_argument(
        "--split",
        type=str | None,
        default=None,
        help="split whose test objects are used, of the run, else of the store; default: holdout where the data are "
        "those of the run or have such a split, else all labelled objects",
    )
    parser.add_argument(
        "--grades",
        type=Path | None,
        default=None,
        help="grades of the candidates of a survey, for purity and completeness: catalogue.csv or grades.csv",
    )
    parser.add_argument("--known", type=Path | None, default=None, help="table of known lenses, with ids or positions")
    _results(parser)


def export(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky export`."""
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files to")
    parser.add_argument(
        "--format",
        type=Literal["safetensors", "onnx"],
        default="safetensors",
        help="safetensors (timm loads it where the architecture is timm's) or onnx",
    )


def verify(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky verify`."""
    parser.add_argument("run", type=Path, help=RUN_HELP)
    _data(parser)
    parser.add_argument("--n", type=PositiveInt, default=64, help="number of cutouts to rotate and reflect")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="random seed of the choice of cutouts")
    _results(parser)


def report(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky report`."""
    parser.add_argument("run", type=Path, help="run directory of `zwicky benchmark`")
    parser.add_argument(
        "--data", type=Path | None, default=None, help="store for example images; default: the store of the run"
    )
    parser.add_argument("--out", type=Path | None, default=None, help="page to write; default: report.html in the run")


def demo(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the simulated store and the run")
    parser.add_argument("--size", type=str, default="desk", help="desk (about 15 minutes on two cores) or smoke (1-2)")


def predict(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky predict`."""
    parser.add_argument("run", type=Path, help=RUN_HELP)
    parser.add_argument("data", type=Path, help=SURVEY_HELP)
    parser.add_argument("--out", type=Path, required=True, help="CSV to write: id, file, ra, dec, p_CLASS or values")
    parser.add_argument(
        "--features", type=Path | None, default=None, help=".npy file for the pooled features [N, D], float32"
    )
    _views(parser)


def score(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky score`."""
    parser.add_argument("runs", type=Path, nargs="+", help=f"{RUN_HELP}; several are an ensemble")
    parser.add_argument("--data", type=Path, required=True, help=SURVEY_HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder of score tables; resumes if interrupted")
    parser.add_class_arguments(ScoreConfig, fail_untyped=False)
    parser.add_argument(
        "--training",
        type=Path | None,
        default=None,
        help="store the first run was trained on, to write the distance of each cutout to the training set",
    )
    _parallel(parser)
    parser.add_argument(
        "--part", type=str, default="", help="k/n: the k-th of n shares of the work, as the task of a job array"
    )


def similar(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky similar`."""
    parser.add_argument("scores", type=Path, help="folder of `zwicky score --features true`")
    examples = "an id, a position RA,DEC in degrees (write --like=-1.5,2 where it begins with a minus), or a file"
    parser.add_argument("--like", type=str, action="append", required=True, help=f"example: {examples}; repeatable")
    parser.add_argument("--unlike", type=str, action="append", default=[], help="negative example; repeatable")
    parser.add_argument("--out", type=Path, default=Path("similar.csv"), help="table to write, best first")
    parser.add_argument("--data", type=Path | None, default=None, help="the survey, for a page with pictures")
    parser.add_argument("--run", type=Path | None, default=None, help="the first run of the scores, for files")
    parser.add_argument("--n", type=PositiveInt, default=100, help="number of cutouts to find")


def _parallel(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=NonNegativeInt, default=0, help="local processes; 0: one a core, or one with a GPU"
    )
    parser.add_argument("--ray", type=str, default="", help="auto, or the address of a Ray cluster, to work there")


def _views(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        type=Literal[1, 8],
        default=8,
        help="8: average over the rotations by 90° and reflections; 1: one view, up to 8 times as fast",
    )


def grade(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky grade`."""
    parser.add_argument(
        "candidates",
        type=Path | None,
        nargs="?",
        default=None,
        help="store of the images to grade, as of `zwicky score`",
    )
    parser.add_argument("--grader", type=str | None, default=None, help="name of the person who grades")
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="file of the judgements; default: CANDIDATES-grades/GRADER.db beside the store, resumed if it exists; "
        "with --merge the catalogue, .csv, .fits or .vot; default: catalogue.csv",
    )
    parser.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        default=[],
        help="merge these files of judgements, CSVs of other tools or Zooniverse exports into a catalogue",
    )
    parser.add_argument(
        "--keys", type=Path | None, default=None, help="YAML file of keys that differ, `group: {action: key}`"
    )
    parser.add_argument(
        "--port", type=NonNegativeInt, default=0, help="port on 127.0.0.1; 0: that of last time, or a free one"
    )
    parser.add_argument("--browser", type=bool, default=True, help="open the page in the browser")
    parser.add_class_arguments(SessionConfig, fail_untyped=False)


def start(parser: ArgumentParser) -> None:
    """Add the arguments of `zwicky start`, beside the settings of a benchmark."""
    parser.add_argument("path", type=Path, help="folder of cutouts, one file of many, or a store")
    parser.add_argument(
        "--catalog", type=Path | None, default=None, help="table of files, labels, ra and dec (degrees), properties"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="time budget for everything, in minutes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; resumes if interrupted")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def _size(parser: ArgumentParser) -> None:
    parser.add_argument("--size", type=str | None, default=None, help="a size of the recipe; default: its first")


def _data(parser: ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help=DATA_HELP)


def _minutes(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--minutes",
        type=float | None,
        default=None,
        help="time budget: a few steps are timed on this machine and the numbers of steps set to fit; config.yaml "
        "keeps them; default: the recipe's steps",
    )


def _results(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path | None, default=None, help="folder for the results; default: the run")


def _run(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="run directory; resumes if interrupted")
