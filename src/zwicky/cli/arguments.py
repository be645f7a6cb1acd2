"""The arguments of each command, beside the settings that its recipe fills."""

from argparse import Action
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from zwicky import recipes
from zwicky.cli.parsing import Parser
from zwicky.data.image_format import IngestConfig
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.simulate import population_names
from zwicky.survey.config import CutoutsConfig, ScoreConfig

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


def simulate(parser: Parser) -> None:
    """Add the arguments of `zwicky simulate`."""
    names = ", ".join(population_names())
    parser.add("population", str, f"a shipped population ({names}) or a YAML file")
    parser.add_argument(
        "--print_config", action=_PrintPopulation, nargs="?", help="print the population as YAML, to copy and adapt"
    )
    parser.add("--n", PositiveInt, "number of images", 1000)
    parser.add("--seed", NonNegativeInt, "random seed; image i depends only on (population, seed, i)", 0)
    parser.add("--device", str, "device to render on: cpu or cuda", "cpu")
    parser.add("--out", Path, "store or folder to write; resumes if interrupted")
    parser.add(
        "--format",
        Literal["store", "deeplense", "fits", "hdf5"],
        "a store, DeepLense's folders CLASS/NAME.npy, one FITS file an object, or one HDF5 file",
        "store",
    )
    _parallel(parser)


def ingest(parser: Parser) -> None:
    """Add the arguments of `zwicky ingest`."""
    parser.add("path", Path, "folder of images, class folders, or files of a data set")
    parser.add("--catalog", Path | None, "table of files, labels, ra and dec (degrees), properties")
    parser.add("--out", Path, "store to write (a new folder)")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def audit(parser: Parser) -> None:
    """Add the arguments of `zwicky audit`."""
    parser.add("store", Path, DATA_HELP)


def train(parser: Parser) -> None:
    """Add the arguments that `zwicky pretrain` and `zwicky benchmark` share."""
    parser.add("recipe", str, f"a shipped recipe ({', '.join(recipes.names())}) or a YAML file")
    _training(parser)


def pretrain(parser: Parser) -> None:
    """Add the arguments of `zwicky pretrain`."""
    train(parser)
    parser.add("--targets", list[str], "numbers to be regressed later, as for finetune: some with them are tested", [])


def benchmark(parser: Parser) -> None:
    """Add the arguments of `zwicky benchmark`."""
    train(parser)
    _parallel(parser)


def finetune(parser: Parser) -> None:
    """Add the arguments of `zwicky finetune`."""
    parser.add("run", Path, "pretrained run to start from, or a recipe that names a backbone")
    _training(parser)
    parser.add("--from_scratch", bool, "train the same network from random weights, for comparison", False)
    parser.add(
        "--grades",
        Path | None,
        "catalogue of `zwicky grade --merge`: learn its grades too; the random stratum stays out",
    )


def evaluate(parser: Parser) -> None:
    """Add the arguments of `zwicky evaluate`."""
    parser.add("run", Path, f"{RUN_HELP}; with --grades the folder of `zwicky score`")
    parser.add("--data", Path | None, f"{DATA_HELP}; or a folder of cutouts")
    parser.add("--catalog", Path | None, "table of files, labels, ra and dec of such a folder")
    parser.add(
        "--split",
        str | None,
        "split whose test objects are used, of the run, else of the store; default: holdout where the data are "
        "those of the run or have such a split, else all labelled objects",
    )
    parser.add(
        "--grades",
        Path | None,
        "grades of the candidates of a survey, for purity and completeness: catalogue.csv or grades.csv",
    )
    parser.add("--known", Path | None, "table of known lenses, with ids or positions")
    parser.add("--out", Path | None, "folder for the results; default: the run")


def export(parser: Parser) -> None:
    """Add the arguments of `zwicky export`."""
    parser.add("run", Path, RUN_HELP)
    parser.add("--out", Path, "folder to write the files to")
    parser.add(
        "--format",
        Literal["safetensors", "onnx"],
        "safetensors (timm loads it where the architecture is timm's) or onnx",
        "safetensors",
    )


def verify(parser: Parser) -> None:
    """Add the arguments of `zwicky verify`."""
    parser.add("run", Path, RUN_HELP)
    parser.add("--data", Path, DATA_HELP)
    parser.add("--n", PositiveInt, "number of cutouts to rotate and reflect", 64)
    parser.add("--seed", NonNegativeInt, "random seed of the choice of cutouts", 0)
    parser.add("--out", Path | None, "folder for the results; default: the run")


def report(parser: Parser) -> None:
    """Add the arguments of `zwicky report`."""
    parser.add("run", Path, "run directory of `zwicky benchmark`")
    parser.add("--data", Path | None, "store for example images; default: the store of the run")
    parser.add("--out", Path | None, "page to write; default: report.html in the run")


def demo(parser: Parser) -> None:
    """Add the arguments of `zwicky demo`."""
    parser.add("--out", Path, "folder for the simulated store and the run", Path("demo"))
    parser.add("--size", str, "desk (minutes on two cores) or smoke", "desk")
    _minutes(parser)


def predict(parser: Parser) -> None:
    """Add the arguments of `zwicky predict`."""
    parser.add("run", Path, RUN_HELP)
    parser.add("data", Path, SURVEY_HELP)
    parser.add("--out", Path, "CSV to write: id, file, ra, dec, p_CLASS or values")
    parser.add("--features", Path | None, ".npy file for the pooled features [N, D], float32")
    parser.add(
        "--views",
        Literal[1, 8],
        "8: average over the rotations by 90° and reflections; 1: one view, up to 8 times as fast",
        8,
    )


def score(parser: Parser) -> None:
    """Add the arguments of `zwicky score`."""
    parser.add("runs", Path, f"{RUN_HELP}; several are an ensemble", nargs="+")
    parser.add("--data", Path, SURVEY_HELP)
    parser.add("--out", Path, "folder of score tables; resumes if interrupted")
    parser.add_class_arguments(ScoreConfig, fail_untyped=False)
    parser.add(
        "--training",
        Path | None,
        "store the first run was trained on, to write the distance of each cutout to the training set",
    )
    _parallel(parser, 0, "local processes; 0: one a core, or one with a GPU")
    parser.add("--part", str, "k/n: the k-th of n shares of the work, as the task of a job array", "")


def similar(parser: Parser) -> None:
    """Add the arguments of `zwicky similar`."""
    parser.add("scores", Path, "folder of `zwicky score --features true`")
    examples = "an id, a position RA,DEC in degrees (write --like=-1.5,2 where it begins with a minus), or a file"
    parser.add("--like", str, f"example: {examples}; repeatable", action="append")
    parser.add("--unlike", str, "negative example; repeatable", [], action="append")
    parser.add("--out", Path, "table to write, best first", Path("similar.csv"))
    parser.add("--data", Path | None, "the survey, for a page with pictures")
    parser.add("--run", Path | None, "the first run of the scores, for files")
    parser.add("--n", PositiveInt, "number of cutouts to find", 100)
    parser.add("--index_above", NonNegativeInt, "cutouts beyond which an index of faiss, if installed, is used", 10**7)


def cutouts(parser: Parser) -> None:
    """Add the arguments of `zwicky cutouts`."""
    parser.add("catalog", Path, "table of positions, with ids, labels and properties")
    parser.add("--out", Path, "folder of FITS files; resumes if interrupted")
    parser.add("--pool", Path | None, "table of galaxies of the same fields, to draw negatives from")
    parser.add_class_arguments(CutoutsConfig, fail_untyped=False)


def grade(parser: Parser) -> None:
    """Add the arguments of `zwicky grade`."""
    parser.add("candidates", Path | None, "store of the images to grade, as of `zwicky score`", nargs="?")
    parser.add("--grader", str | None, "name of the person who grades")
    parser.add(
        "--out",
        Path | None,
        "file of the judgements; default: CANDIDATES-grades/GRADER.db beside the store, resumed if it exists; "
        "with --merge the catalogue, .csv, .fits or .vot; default: catalogue.csv",
    )
    parser.add(
        "--merge",
        Path,
        "merge these files of judgements, CSVs of other tools or Zooniverse exports into a catalogue",
        [],
        nargs="+",
    )
    parser.add("--keys", Path | None, "YAML file of keys that differ, `group: {action: key}`")
    parser.add("--port", NonNegativeInt, "port on 127.0.0.1; 0: that of last time, or a free one", 0)
    parser.add("--browser", bool, "open the page in the browser", True)
    parser.add_class_arguments(SessionConfig, fail_untyped=False)


def start(parser: Parser) -> None:
    """Add the arguments of `zwicky start`, beside the settings of a benchmark."""
    parser.add("path", Path, "folder of cutouts, one file of many, or a store")
    parser.add("--catalog", Path | None, "table of files, labels, ra and dec (degrees), properties")
    parser.add("--minutes", float, "time budget for everything, in minutes", 20.0)
    parser.add("--out", Path | None, "folder to write, default zwicky-FOLDER; resumes if interrupted")
    parser.add_class_arguments(IngestConfig, fail_untyped=False)


def _training(parser: Parser) -> None:
    parser.add("--size", str | None, "a size of the recipe; default: its first")
    parser.add("--data", Path, DATA_HELP)
    _minutes(parser)
    parser.add("--out", Path, "run directory; resumes if interrupted")


def _parallel(parser: Parser, workers: int = 1, text: str = "local processes; 0: one a core") -> None:
    parser.add("--workers", NonNegativeInt, text, workers)
    parser.add("--ray", str, "auto, or the address of a Ray cluster, to work there", "")


def _minutes(parser: Parser) -> None:
    parser.add(
        "--minutes",
        float | None,
        "time budget: a few steps are timed on this machine and the numbers of steps set to fit; config.yaml "
        "keeps them; default: the recipe's steps",
    )
