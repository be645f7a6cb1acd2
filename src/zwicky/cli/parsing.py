"""From command-line arguments and a recipe to settings."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from zwicky import recipes
from zwicky.errors import UserError

Run = Callable[[Namespace], None]
REQUIRED = object()  # in place of a default
_TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


class Argument(NamedTuple):
    """An argument of a command. An option without a default is required, unless it may be None."""

    name: str  # with two dashes that of an option
    kind: Any  # its type
    help: str
    default: Any = REQUIRED
    more: Mapping[str, Any] = {}  # further keywords of `add_argument`


@dataclass(frozen=True)
class Command:
    """One command of the command line."""

    help: str  # one sentence for the list of commands
    usage: str  # what follows `zwicky COMMAND` in the usage line
    arguments: Sequence[Argument | type]  # a dataclass stands for an option for each of its fields
    run: Run  # does the work with the parsed arguments
    settings: type | None = None  # the dataclass that a recipe fills, if any
    recorded: Sequence[str] = ()  # what the config.yaml of its runs holds besides these settings

    @property
    def setting_names(self) -> set[str]:
        """The settings that a recipe, or the config.yaml of a run, may hold."""
        return {field.name for field in fields(self.settings)}.union(self.recorded) if self.settings else set()

    def takes_recipe(self, argument: str) -> bool:
        """Whether the first argument names a recipe; that of `finetune` may be a run, that of `start` is a folder."""
        first = self.arguments[0]
        name = first.name if self.settings and isinstance(first, Argument) else ""
        return name == "recipe" or (name == "run" and is_recipe(argument))


COMMANDS: dict[str, Command] = {}


def command(
    usage: str, *arguments: tuple | type, settings: type | None = None, recorded: Sequence[str] = ()
) -> Callable[[Run], Run]:
    """Add the function below to COMMANDS by its name, with its docstring as help; see `Command`, `Argument`."""

    def add(run: Run) -> Run:
        known = [argument if isinstance(argument, type) else Argument(*argument) for argument in arguments]
        COMMANDS[run.__name__] = Command(run.__doc__ or "", usage, known, run, settings, recorded)
        return run

    return add


def is_recipe(argument: str | Path) -> bool:
    """Tell a recipe from a run: a run of the same name comes first."""
    named = str(argument) in recipes.names() or str(argument).endswith((".yaml", ".yml"))
    return named and not (Path(argument) / "run.json").exists()


def make_parser(name: str, command: Command) -> ArgumentParser:
    """Return the parser of a command."""
    usage = f"zwicky {name} {command.usage}".rstrip()
    parser = ArgumentParser(prog=f"zwicky {name}", usage=usage, description=command.help, exit_on_error=False)
    if command.settings is not None:
        parser.add_argument("--config", action="config", help="YAML file of settings that override the recipe")
        parser.add_class_arguments(command.settings, fail_untyped=False)
    for argument in command.arguments:
        if isinstance(argument, type):
            parser.add_class_arguments(argument, fail_untyped=False)
            continue
        options = dict(argument.more)
        if argument.default is not REQUIRED or NoneType in get_args(argument.kind):
            options["default"] = None if argument.default is REQUIRED else argument.default
        elif argument.name.startswith("--"):
            options["required"] = True
        parser.add_argument(argument.name, type=argument.kind, help=argument.help, **options)
    return parser


def parse(command: Command, name: str, settings: dict[str, Any] | None, arguments: Sequence[str]) -> Namespace:
    """Parse arguments, which override the settings of a recipe.

    Raises ArgumentError for what the parser rejects, UserError for a group of settings or a value that is null by
    mistake.
    """
    parser = make_parser(name, command)
    if settings is not None:
        arguments = ["--config", yaml.safe_dump(settings, sort_keys=False), *arguments]
    try:
        namespace = parser.parse_args(list(arguments))
    except ArgumentError as error:
        error.message = _reword(" ".join(str(error.message).split()), parser)
        raise
    if command.settings is not None:
        _check_groups(command.settings, namespace)
    return parser.instantiate_classes(namespace)


def _reword(message: str, parser: ArgumentParser) -> str:
    """Put the parser's most frequent complaints in the user's terms."""
    if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
        options = [option for action in parser._actions for option in action.option_strings]
        if close := get_close_matches(unknown[1], options, 1):
            return f"there is no option {unknown[1]}; did you mean {close[0]}?"
    if choice := re.match(r'Parser key "(.+?)": .*Expected a typing.Literal\[(.+?)\].* Got value: (.+)', message):
        return f"{choice[1]} is {choice[3]!r}; choose one of {choice[2]}"
    if listed := re.match(r'Parser key "(.+?)": Expected a <class \'(?:tuple|list)\'>.* Got value: (.+)', message):
        return f"{listed[1]} is {listed[2]!r}, which is no list; write '[{listed[2]}]'"
    if limit := re.match(r'Parser key "(.+?)": Not of type \w+: (\S+) does not conform to restriction v(.+)', message):
        return f"{limit[1]} is {limit[2]}; it must be {limit[3]}"
    if entry := re.match(r'Parser key "(.+?)": .*class_path \'(.+?)\': Option \'(.+?)\' is not accepted', message):
        known = [field.name for field in fields(resolve_name(entry[2]))]
        return f"{entry[1]}: an entry has no setting {entry[3]!r}; it takes {', '.join(known)}"
    if typed := re.match(r'Parser key "(.+?)": (.*Expected an? <class .+) (?:Got|Given) value: (.+)', message):
        names = dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", typed[2]))
        return f"{typed[1]} is {typed[3]!r}; it must be {' or '.join(_TYPE_NAMES.get(name, name) for name in names)}"
    return message


def _check_groups(settings: type, namespace: Namespace, prefix: str = "") -> None:
    """Reject what the parser accepts: null where no null is allowed, and a plain value for a group of settings."""
    for name, expected in get_type_hints(settings).items():
        value, members = namespace[name], get_args(expected)
        if value is None and NoneType not in members and not is_dataclass(expected):
            raise UserError(f"{prefix}{name} is null; give a value or leave it out")
        group: Any = next((kind for kind in (expected, *members) if is_dataclass(kind)), None)
        for key, one in value.items() if group and isinstance(value, dict) else [("", value)]:
            if not isinstance(key, str):
                raise UserError(f"{prefix}{name}: the name {key!r} is a number; write it in quotes")
            path = f"{prefix}{name}.{key}".rstrip(".")
            if is_dataclass(expected) and not isinstance(one, Namespace):
                raise UserError(f"{path} is {one!r}; give its settings by name")
            if group and isinstance(one, Namespace):
                _check_groups(group, one, f"{path}.")


def settings_of(settings: type, namespace: Namespace) -> Any:
    """Return the settings dataclass of a command, filled from the parsed arguments."""
    return settings(**{field.name: namespace[field.name] for field in fields(settings)})


def read_recipe(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the recipe that the first argument of command `name` names, at the size of `--size`.

    UserError if there is no such recipe or size, or the recipe is for another command.
    """
    option = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    option.add_argument("--size")
    settings = recipes.read(arguments[0], option.parse_known_args(arguments)[0].size)
    settings.pop("simulate", None)
    accepting = [other for other, command in COMMANDS.items() if settings.keys() <= command.setting_names]
    if accepting and name not in accepting:
        raise UserError(f"recipe {arguments[0]} is for `zwicky {accepting[0]}`, not `zwicky {name}`; use that command")
    return settings
