"""Commands that use a network: predict, score, similar, grade."""

import re
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from zwicky.cli.arguments import A_RUN, A_SURVEY, RAY, RUN
from zwicky.cli.parsing import REQUIRED, command, settings_of
from zwicky.errors import UserError
from zwicky.grading.config import SessionConfig
from zwicky.survey.config import ScoreConfig


@command(
    "RUN DATA --out TABLE.csv [--features FILE.npy] [--views 1|8]",
    RUN,
    ("data", Path, A_SURVEY),
    ("--out", Path, "CSV to write: id, file, ra, dec, p_CLASS or values"),
    ("--features", Path | None, ".npy file for the pooled features [N, D], float32"),
    (
        "--views",
        Literal[1, 8],
        "8: average over the rotations by 90° and reflections; 1: one view, up to 8 times as fast",
        8,
    ),
)
def predict(args: Namespace) -> None:
    """Apply a network to new cutouts."""
    from zwicky.survey.predict import predict

    count, listed = predict(args.run, args.data, args.out, args.features, args.views == 8)
    print(f"{count} of {count + listed} cutouts in {args.out}" + f"; {listed} set aside" * bool(listed))


@command(
    "RUN [RUN ...] --data DATA --out SCORES [--prevalence P] [--features true] [options]",
    ("runs", Path, f"{A_RUN}; several are an ensemble", REQUIRED, {"nargs": "+"}),
    ("--data", Path, A_SURVEY),
    ("--out", Path, "folder of score tables; resumes if interrupted"),
    ScoreConfig,
    (
        "--training",
        Path | None,
        "store the first run was trained on, to write the distance of each cutout to the training set",
    ),
    ("--workers", NonNegativeInt, "local processes; 0: one a core, or one with a GPU", 0),
    RAY,
    ("--part", str, "k/n: the k-th of n shares of the work, as the task of a job array", ""),
)
def score(args: Namespace) -> None:
    """Score a survey part by part, with one run or an ensemble."""
    from zwicky.survey.score import score

    options = {name: args[name] for name in ("training", "part", "workers", "ray")}
    done = score(args.runs, args.data, args.out, settings_of(ScoreConfig, args), **options)
    if "scored" not in done:
        print(f"{done['left']} parts are left; when all are scored, repeat the command without --part")
        return
    print(f"{done['scored']} of {done['found']} cutouts scored in {args.out}, {done['listed']} set aside")
    if done["candidates"]:
        print(f"{done['candidates']} candidates in {args.out / 'candidates'}")


@command(
    "SCORES --like EXAMPLE [--unlike EXAMPLE] [--out TABLE.csv] [--data DATA] [--run RUN]",
    ("scores", Path, "folder of `zwicky score --features true`"),
    (
        "--like",
        str,
        "example: an id, a position RA,DEC in degrees (write --like=-1.5,2 where it begins with a minus), or a file; "
        "repeatable",
        REQUIRED,
        {"action": "append"},
    ),
    ("--unlike", str, "negative example; repeatable", [], {"action": "append"}),
    ("--out", Path, "table to write, best first", Path("similar.csv")),
    ("--data", Path | None, "the survey, for a page with pictures"),
    ("--run", Path | None, "the first run of the scores, for files"),
    ("--n", PositiveInt, "number of cutouts to find", 100),
)
def similar(args: Namespace) -> None:
    """Find the cutouts of a scored survey that are most like some examples."""
    from zwicky.survey.similar import write_similar

    options = {"data": args.data, "run": args.run, "count": args.n}
    found = write_similar(args.scores, args.like, args.unlike, args.out, **options)
    print(f"{found} cutouts in {args.out}" + f", with pictures in {args.out.with_suffix('.html')}" * bool(args.data))


@command(
    "CANDIDATES --grader NAME [options] | [CANDIDATES] --merge FILE ... --out CATALOGUE",
    ("candidates", Path | None, "store of the images to grade, as of `zwicky score`", None, {"nargs": "?"}),
    ("--grader", str | None, "name of the person who grades"),
    (
        "--out",
        Path | None,
        "file of the judgements; default: CANDIDATES-grades/GRADER.db beside the store, resumed if it exists; "
        "with --merge the catalogue, .csv, .fits or .vot; default: catalogue.csv",
    ),
    (
        "--merge",
        Path,
        "merge these files of judgements, CSVs of other tools or Zooniverse exports into a catalogue",
        [],
        {"nargs": "+"},
    ),
    ("--keys", Path | None, "YAML file of keys that differ, `group: {action: key}`"),
    ("--port", NonNegativeInt, "port on 127.0.0.1; 0: that of last time, or a free one", 0),
    ("--browser", bool, "open the page in the browser", True),
    SessionConfig,
)
def grade(args: Namespace) -> None:
    """Grade cutouts by eye in a local page."""
    from zwicky.data.store import open_store

    if args.merge:
        from zwicky.grading.merge import merge_grades

        cutouts = None if args.candidates is None else open_store(args.candidates)
        print(merge_grades(args.merge, args.out or Path("catalogue.csv"), cutouts))
        return
    if args.candidates is None or not args.grader:
        raise UserError("name the store to grade and the person: zwicky grade CANDIDATES --grader NAME")
    if not re.fullmatch(r"[\w. @-]+", args.grader):
        raise UserError(f"--grader {args.grader!r}: use letters, digits, blanks and any of . _ - @, it names a file")
    try:
        from zwicky.grading.app import read_keys, serve
    except ModuleNotFoundError as error:
        raise UserError(f"zwicky grade needs {error.name}; install it with `pip install 'zwicky[grade]'`") from None
    from zwicky.grading.session import Session

    cutouts, keys = open_store(args.candidates), read_keys(args["keys"])
    session, store = Session(cutouts, settings_of(SessionConfig, args)), args.candidates.resolve()
    out = args.out or store.with_name(f"{store.name}-grades") / f"{args.grader}.db"
    serve(session, out, args.grader, keys, args.port, args.browser)
