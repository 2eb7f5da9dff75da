"""A minimal PromQL parser that finds the metrics and labels of a query.

It evaluates nothing. Unknown syntax is an error, so that no query passes unchecked.
"""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<duration>\d+(?:ms|[smhdwy])|\$__rate_interval)
      | (?P<number>\d+(?:\.\d+)?)
      | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
      | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){}\[\],])
    )""",
    re.VERBOSE,
)
FUNCTIONS = frozenset(("rate", "increase", "histogram_quantile", "topk", "sum", "min", "max", "count", "avg"))
GROUPING = frozenset(("by", "without"))
OPERATORS = frozenset(("and", "or", "unless"))


class Selector(NamedTuple):
    """A selected metric: label -> (operator, value), and whether it is a range."""

    metric: str
    matchers: dict[str, tuple[str, str]]
    is_range: bool


class Query(NamedTuple):
    """`grouped` are the labels in the grouping of results."""

    selectors: list[Selector]
    grouped: set[str]


def tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not PromQL at {text[at:]!r}")
        assert match.lastgroup is not None
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def parse(text: str) -> Query:
    rest = tokens(text)
    _check_brackets(rest)
    query = Query([], set())
    while rest:
        kind, value = rest.pop(0)
        if kind != "name" or value in OPERATORS:
            continue
        following = rest[0][1] if rest else ""
        if value in GROUPING:
            query.grouped.update(_names(rest))
        elif following == "(" or (value in FUNCTIONS and following in GROUPING):
            if value not in FUNCTIONS:
                raise ValueError(f"{value} is no function that is known here")
        else:
            matchers = _matchers(rest) if following == "{" else {}
            query.selectors.append(Selector(value, matchers, bool(rest) and rest[0][1] == "["))
    return query


def _check_brackets(found: list[tuple[str, str]]) -> None:
    pairs = {")": "(", "}": "{", "]": "["}
    open_ones: list[str] = []
    for kind, value in found:
        if kind != "operator":
            continue
        if value in pairs.values():
            open_ones.append(value)
        elif value in pairs and (not open_ones or open_ones.pop() != pairs[value]):
            raise ValueError(f"{value} closes nothing")
    if open_ones:
        raise ValueError(f"{open_ones[-1]} is not closed")


def _names(rest: list[tuple[str, str]]) -> list[str]:
    """The names in parentheses: `(le, route)`."""
    names = []
    if rest.pop(0)[1] != "(":
        raise ValueError("labels in brackets expected")
    while (token := rest.pop(0))[1] != ")":
        if token[1] != ",":
            names.append(token[1])
    return names


def _matchers(rest: list[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The matchers in braces: `{status="5xx",code!=""}`."""
    found: dict[str, tuple[str, str]] = {}
    rest.pop(0)
    while (token := rest.pop(0))[1] != "}":
        if token[1] == ",":
            continue
        (_, operator), (kind, value) = rest.pop(0), rest.pop(0)
        if token[0] != "name" or kind != "string":
            raise ValueError(f"no matcher: {token[1]}{operator}{value}")
        found[token[1]] = (operator, value[1:-1])
    return found
