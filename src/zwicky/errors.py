"""The exception for mistakes that the user can fix, the check of numbers that raises it, and the line of a warning."""

from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: what is wrong, where, and how to fix it.

    The command line prints it without a traceback and exits with 2.
    """


def format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """Return a Python warning as the one line that the command line shows."""
    return f"warning: {message}\n"


def check_limits(what: str, options: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise UserError for the first number among the options, alone or in a list, that is outside its limits.

    `limits` maps names of options to their lowest and highest value; others may have any. `what` begins the message.
    """
    for option, value in options.items():
        several = value if isinstance(value, list | tuple) else [value]
        numbers = [one for one in several if isinstance(one, int | float)]
        if option in limits and not all(limits[option][0] <= number <= limits[option][1] for number in numbers):
            low, high = limits[option]
            raise UserError(f"{what}{option} is {value}; choose from {low} to {high}")
