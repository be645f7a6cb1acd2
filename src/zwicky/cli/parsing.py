"""From words and a recipe to settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from zwicky import recipes
from zwicky.errors import UserError

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


@dataclass(frozen=True)
class Command:
    """One verb. arguments: adds to a parser; run: does the work with what was parsed."""

    help: str
    usage: str
    arguments: Callable[[ArgumentParser], Any]
    run: Callable[[Namespace], None]
    settings: type | None = None  # the dataclass a recipe fills
    takes_recipe: Callable[[str], bool] = lambda word: False  # whether the first word names a recipe


def parser_of(name: str, command: Command) -> ArgumentParser:
    usage = f"zwicky {name} {command.usage}".rstrip()
    parser = ArgumentParser(prog=f"zwicky {name}", usage=usage, description=command.help, exit_on_error=False)
    if command.settings is not None:
        parser.add_argument("--config", action="config", help="YAML file of settings laid over the recipe")
        parser.add_class_arguments(command.settings, fail_untyped=False)
    command.arguments(parser)
    return parser


def parse(command: Command, name: str, settings: dict[str, Any] | None, words: Sequence[str]) -> Namespace:
    """What the words say, laid over the settings of a recipe."""
    parser = parser_of(name, command)
    if settings is not None:
        words = ["--config", yaml.safe_dump(settings, sort_keys=False), *words]
    try:
        given = parser.parse_args(list(words))
    except ArgumentError as error:
        error.message = _plainly(" ".join(str(error.message).split()), parser)
        raise
    if command.settings is not None:
        _check_groups(command.settings, given)
    return parser.instantiate_classes(given)


def _plainly(message: str, parser: ArgumentParser) -> str:
    """The parser's complaint in words for who typed the mistake, where it is one of the usual ones."""
    if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
        options = [option for action in parser._actions for option in action.option_strings]
        if close := get_close_matches(unknown[1], options, 1):
            return f"there is no option {unknown[1]}; did you mean {close[0]}?"
    if listed := re.match(r'Parser key "(.+?)": Expected a <class \'(?:tuple|list)\'>.* Got value: (.+)', message):
        return f"{listed[1]} is {listed[2]!r}, which is no list; write '[{listed[2]}]'"
    if typed := re.match(r'Parser key "(.+?)": (.*Expected an? <class .+) (?:Got|Given) value: (.+)', message):
        kinds = dict.fromkeys(re.findall(r"Expected an? <class '(\w+)'>", typed[2]))
        return f"{typed[1]} is {typed[3]!r}; it must be {' or '.join(_KINDS.get(kind, kind) for kind in kinds)}"
    return message


def _check_groups(kind: type, given: Namespace, within: str = "") -> None:
    """Refuse what the parser lets pass: null for what has no null, and anything but settings for a group of them."""
    for name, expected in get_type_hints(kind).items():
        value, group = given[name], is_dataclass(expected)
        if group and not isinstance(value, Namespace):
            raise UserError(f"{within}{name} is {value!r}; give its settings by their names")
        if group:
            _check_groups(expected, value, f"{within}{name}.")
        elif value is None and NoneType not in get_args(expected):
            raise UserError(f"{within}{name} is null; give a value or leave it out")


def settings_of(kind: type, given: Namespace) -> Any:
    """The dataclass of a verb's settings, filled."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def read_recipe(commands: Mapping[str, Command], name: str, words: Sequence[str]) -> dict[str, Any]:
    """The settings of the recipe that the first word names, at the size the words ask for."""
    settings = recipes.read(words[0], _option(words, "--size"))
    settings.pop("simulate", None)
    fitting = [verb for verb, command in commands.items() if _fits(command, settings)]
    if fitting and name not in fitting:
        raise UserError(f"recipe {words[0]} is for `zwicky {fitting[0]}`, not `zwicky {name}`; use that or another one")
    return settings


def _fits(command: Command, settings: dict[str, Any]) -> bool:
    """Whether all settings of a recipe are those of this command."""
    return command.settings is not None and set(settings) <= {field.name for field in fields(command.settings)}


def _option(words: Sequence[str], name: str) -> str | None:
    for position, word in enumerate(words):
        if word == name and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
    return None
