"""The command line. It turns words into calls and nothing else; torch is loaded only when a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from jsonargparse import ArgumentError

from zwicky import __version__
from zwicky.cli.commands import COMMANDS
from zwicky.cli.parsing import parse, read_recipe
from zwicky.errors import UserError
from zwicky.training.launch import rank, world

SHARED = ("pretrain", "finetune")  # what several processes can do together
TIME_TO_SPEAK = 3.0  # seconds a later process leaves the first to say what is wrong and end them all


def run(words: Sequence[str]) -> None:
    """Run one command; raises UserError or ArgumentError for the user's mistakes."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"zwicky {__version__}")
        return
    name, rest = words[0], list(words[1:])
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; choose one of {', '.join(COMMANDS)}")
    if world() > 1 and name not in SHARED:
        raise UserError(f"{name} runs in one process; start it without torchrun or srun")
    command = COMMANDS[name]
    helping = not rest or any(word in ("-h", "--help") for word in rest)
    settings = read_recipe(COMMANDS, name, rest) if not helping and command.takes_recipe(rest[0]) else None
    command.run(parse(command, name, settings, rest))


def main() -> None:
    """Entry point: exit 0 done, 2 the user's mistake in one line, 1 ours."""
    try:
        run(sys.argv[1:])
    except UserError as error:
        _refuse(str(error))
    except ArgumentError as error:
        _refuse(f"{' '.join(str(error.message).split())}; see zwicky {sys.argv[1]} --help")
    except KeyboardInterrupt:
        print("\nzwicky: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _refuse(mistake: str) -> NoReturn:
    if rank() > 0:
        time.sleep(TIME_TO_SPEAK)
        mistake = f"process {rank()}: {mistake}"
    print(f"zwicky: {mistake}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    lines = ["usage: zwicky COMMAND …", "", "Self-supervised learning for strong gravitational lenses.", ""]
    lines += [f"  {name:10s} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "zwicky COMMAND --help explains each; zwicky --version says which this is."])
