"""The words of a description: which numbers are drawn, and how; read strictly, with the place told of each slip.

A parameter is one word for how it is drawn, with what may stand beside it:

    lens_R: {normal: [0.65, 0.2], between: [0.3, 1.3], unit: arcsec, meaning: half-light radius}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf
from typing import Any

from zwicky.errors import UserError
from zwicky.simulate.population import Parameter
from zwicky.simulate.priors import (
    Annulus,
    Around,
    Choice,
    Constant,
    Distribution,
    EinsteinRadius,
    LogUniform,
    Normal,
    Times,
    Uniform,
)

# How many numbers each word for a distribution takes; None: any.
WORDS: dict[str, int | None] = {
    "value": 1,
    "uniform": 2,
    "log_uniform": 2,
    "annulus": 2,
    "normal": 2,
    "choice": None,
    "einstein_radius": 1,
}


class Words:
    """Reads the words of one description; `source` begins each complaint."""

    def __init__(self, source: str) -> None:
        self.source = source

    def wrong(self, where: str, what: str) -> UserError:
        return UserError(f"{self.source}: {where}: {what}")

    def table(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(where, f"is {value!r}; write names with values, as in `{where.split('.')[-1]}: {{a: …}}`")
        return value

    def only(self, value: Mapping[str, Any], where: str, needed: set[str], allowed: set[str]) -> None:
        unknown, missing = set(value) - needed - allowed, needed - set(value)
        if unknown:
            known = ", ".join(sorted(needed | allowed))
            raise self.wrong(where, f"does not know {', '.join(map(repr, sorted(unknown)))}; it takes {known}")
        if missing:
            raise self.wrong(where, f"lacks {', '.join(sorted(missing))}; add it")

    def number(self, value: Any, where: str) -> float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise self.wrong(where, f"{value!r} is not a number; write one") from None
        if not abs(number) < float("inf"):
            raise self.wrong(where, f"{number} is not finite; write a number")
        return number

    def numbers(self, value: Any, where: str, count: int | None) -> tuple[float, ...]:
        values = value if isinstance(value, list) else [value]
        if (count is not None and len(values) != count) or not values:
            raise self.wrong(where, f"takes {count or 'one or more'} numbers, not {value!r}")
        return tuple(self.number(one, where) for one in values)

    def distribution(self, value: Any, where: str, drawn: set[str], also: set[str]) -> Distribution:
        """drawn: the parameters that are known by then. also: keys that are not the distribution's."""
        table = self.table(value, where)
        words = [word for word in WORDS if word in table]
        if len(words) != 1:
            raise self.wrong(where, f"must say how it is drawn, by one of {', '.join(WORDS)}")
        word = words[0]
        if word == "einstein_radius" and not {"z_lens", "z_source"} <= drawn:
            raise self.wrong(where, "needs z_lens and z_source; put these parameters above")
        fitting = {"normal": {"between"}, "choice": {"weights"}}.get(word, set())
        beside = {"times", "around"} | ({"slope"} if "around" in table else set())
        self.only(table, where, {word}, fitting | also | beside)
        given = self.numbers(table[word], f"{where}.{word}", WORDS[word])
        made = self._plain(word, given, table, where)
        if "times" in table and "around" in table:
            raise self.wrong(where, "has both `times` and `around`; write one of them")
        for key in ("times", "around"):
            if key in table and table[key] not in drawn:
                raise self.wrong(where, f"{key} {table[key]!r}, which is not drawn before it; put that one above")
        if "times" in table:
            return Times(table["times"], made)
        if "around" in table:
            return Around(table["around"], made, self.number(table.get("slope", 1.0), f"{where}.slope"))
        return made

    def _plain(self, word: str, given: tuple[float, ...], table: dict[str, Any], where: str) -> Distribution:
        if word == "value":
            return Constant(given[0])
        if word == "einstein_radius":
            return EinsteinRadius(given[0])
        if word == "choice":
            weights = self.numbers(table["weights"], f"{where}.weights", len(given)) if "weights" in table else None
            weights = weights or (1.0,) * len(given)
            if min(weights) < 0 or sum(weights) == 0:
                raise self.wrong(where, "has weights that are no shares; write numbers above 0")
            return Choice(given, weights)
        if word == "normal":
            mean, deviation = given
            if deviation < 0:
                raise self.wrong(where, f"has the standard deviation {deviation:g}; write 0 or more")
            if "between" not in table:
                return Normal(mean, deviation)
            low, high = self.numbers(table["between"], f"{where}.between", 2)
            if not low < high or _share_between(mean, deviation, low, high) < 1e-4:
                raise self.wrong(where, f"between {low:g} and {high:g} such numbers are not drawn; mend `between`")
            return Normal(mean, deviation, low, high)
        kinds: dict[str, Callable[[float, float], Distribution]] = {
            "uniform": Uniform,
            "log_uniform": LogUniform,
            "annulus": Annulus,
        }
        low, high = given
        if low > high or (word == "log_uniform" and low <= 0) or (word == "annulus" and low < 0):
            raise self.wrong(where, f"{word} from {low:g} to {high:g} cannot be drawn; mend the two numbers")
        return kinds[word](low, high)

    def parameters(self, value: Any, where: str, known: set[str]) -> dict[str, Parameter]:
        """In the order written, which is the order of drawing."""
        found: dict[str, Parameter] = {}
        for name, entry in self.table(value, where).items():
            place = f"{where}.{name}"
            entry = self.table(entry, place)
            drawn = self.distribution(entry, place, known | set(found), {"unit", "meaning"})
            texts = [entry.get(key, "") for key in ("unit", "meaning")]
            if not all(isinstance(text, str) for text in texts):
                raise self.wrong(place, "has a unit or meaning that is no text; write it in quotes")
            found[name] = Parameter(drawn, *texts)
        return found


def _share_between(mean: float, deviation: float, low: float, high: float) -> float:
    """How many of such normal numbers lie in the interval; those outside are drawn again."""
    if deviation == 0:
        return float(low <= mean <= high)
    return (erf((high - mean) / deviation / 2**0.5) - erf((low - mean) / deviation / 2**0.5)) / 2
