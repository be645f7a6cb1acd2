"""The command line: parses arguments and calls the packages, which load torch only when a command runs."""

import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from jsonargparse import ArgumentError

from zwicky import __version__
from zwicky.cli import data, learning, surveys  # noqa: F401  which add their commands
from zwicky.cli.parsing import COMMANDS, parse, read_recipe
from zwicky.errors import UserError, format_warning
from zwicky.training.processes import rank, world_size

MULTI_PROCESS = ("pretrain", "finetune")  # commands that torchrun or srun may start


def run(arguments: Sequence[str]) -> None:
    """Run one command, given what follows `zwicky` on the command line.

    Raises UserError for a mistake that the user can fix, ArgumentError for an option or value the parser rejects.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] == "--version":
        print(f"zwicky {__version__}")
        return
    name, rest = arguments[0], list(arguments[1:])
    if name not in COMMANDS:
        close = "".join(f"did you mean {match}? " for match in get_close_matches(name, COMMANDS, 1))
        raise UserError(f"there is no command {name!r}; {close}choose one of {', '.join(COMMANDS)}")
    if world_size() > 1 and name not in MULTI_PROCESS:
        raise UserError(f"{name} runs in one process; start it without torchrun or srun")
    command = COMMANDS[name]
    settings, asks_help = None, not rest or any(argument in ("-h", "--help") for argument in rest)
    if not asks_help and command.takes_recipe(rest[0]):
        settings = read_recipe(name, rest)
        rest[0] = settings.pop("start", None) or rest[0]  # of the config.yaml of `finetune`: the run it started from
    parsed = parse(command, name, settings, rest)
    parsed["given"] = rest
    command.run(parsed)


def main() -> None:
    """Run `zwicky` and exit: 0 done, 2 the user's mistake (one line on standard error), 1 a bug."""
    warnings.formatwarning = format_warning
    try:
        run(sys.argv[1:])
    except UserError as error:
        _exit(str(error))
    except ArgumentError as error:
        _exit(f"{' '.join(str(error.message).split())}; see zwicky {sys.argv[1]} --help")
    except KeyboardInterrupt:
        print("\nzwicky: interrupted; repeat the command to resume from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _exit(message: str) -> None:
    prefix = f"process {rank()}: " if rank() else ""
    print(f"zwicky: {prefix}{message}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    lines = ["usage: zwicky COMMAND ...", "", "Self-supervised learning for strong gravitational lenses.", ""]
    lines += [f"  {name:10s} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "Run 'zwicky COMMAND --help' for details; 'zwicky --version' prints the version."])
