"""The catalogue: the texts of each configured language, checked against the English ones.

English is the reference: every language has the same keys, and a text has only placeholders of the English text.
A folder of `LANGUAGE.yaml` files replaces shipped texts, or adds a language. A language that is not shipped needs every
text, because a page with a missing text is worse than a gateway that does not start.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from gateway.errors import ConfigurationError, Problem, cannot_read

# Sections, and texts in the innermost ones: texts["mail"]["verify"]["subject"].
Texts = Mapping[str, Any]

SHIPPED: Final = ("en", "de", "fr", "es")
REFERENCE: Final = "en"
MAX_FILE: Final = 256 * 1024  # In bytes.

_FOLDER: Final = Path(__file__).with_name("languages")
# RFC 5646, the forms in use: en, pt-BR, zh-Hant, zh-Hant-TW.
is_language: Final = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?").fullmatch
_placeholders: Final = re.compile(r"\{([a-z_]+)\}").findall
_replaced: Final = re.compile(r"\{([a-z_]+)\}").sub
_MONTHS: Final = "language.months"


class Catalogue:
    """The texts of the configured languages. The first language is the default."""

    def __init__(self, languages: Mapping[str, Texts]) -> None:
        self._languages = languages
        self.languages = tuple(languages)
        self.default = self.languages[0]

    @classmethod
    def load(cls, languages: Sequence[str], folder: Path | None = None) -> "Catalogue":
        """Read the texts of these languages; those in `folder` replace shipped ones.

        Raises ConfigurationError with every problem of the files.
        """
        reference = _shipped(REFERENCE)
        problems: list[Problem] = []
        found = {language: _merged(language, folder, reference, problems) for language in languages}
        if problems:
            raise ConfigurationError(problems)
        return cls({language: _nested(texts) for language, texts in found.items()})

    def texts(self, language: str | None) -> Texts:
        """The texts of a language; those of the default for a language that is not configured."""
        return self._languages.get(language or self.default, self._languages[self.default])


def shipped_text(language: str) -> str:
    """The file of a shipped language, or the English one to begin a translation."""
    name = language if language in SHIPPED else REFERENCE
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of a text. Values are inserted as they are: a brace in a value is no placeholder."""
    return _replaced(lambda found: values[found[1]], text)


def time_text(texts: Texts, moment: datetime) -> str:
    """A time in words, with its zone."""
    language, moment = texts["language"], moment.astimezone(UTC)
    month = language["months"].split()[moment.month - 1]
    date = fill(language["date"], {"day": str(moment.day), "month": month, "year": str(moment.year)})
    return fill(language["time"], {"date": date, "clock": f"{moment:%H:%M}", "zone": "UTC"})


# ---- files


class _File:
    """The texts of one file by dotted key, and the line of each."""

    def __init__(self, path: Path, text: str, loader: Any) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        try:
            self._add(yaml.compose(text, Loader=loader), "")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._report(mark, "", f"is not YAML: {error.problem}")
        except (yaml.YAMLError, RecursionError):
            self._report(None, "", "is not YAML that can be read")

    def problem(self, key: str, message: str) -> Problem:
        return Problem(str(self.path), self.lines.get(key, 1), 1, key, message)

    def _add(self, node: Any, key: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                self._add(value, f"{key}.{name.value}".lstrip("."))
        elif not isinstance(node, yaml.ScalarNode) or not key:
            self._report(node and node.start_mark, key, "must be a text, or a mapping of texts")
        elif key in self.texts:
            self._report(node.start_mark, key, "is repeated")
        else:
            self.texts[key], self.lines[key] = node.value, node.start_mark.line + 1

    def _report(self, mark: Any, key: str, message: str) -> None:
        line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        self.problems.append(Problem(str(self.path), line, column, key, message))


@cache
def _shipped(language: str) -> Mapping[str, str]:
    # The loader of libyaml recurses in C, which only trusted files can be given to.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return _File(_FOLDER / f"{language}.yaml", shipped_text(language), loader).texts


def _merged(
    language: str, folder: Path | None, reference: Mapping[str, str], problems: list[Problem]
) -> Mapping[str, str]:
    """The texts of one language. Appends the problems of its file in `folder`."""
    shipped = _shipped(language) if language in SHIPPED else {}
    path = (folder or Path()) / f"{language}.yaml"
    if folder is None or (shipped and not path.exists()):
        if not shipped:
            known = ", ".join(SHIPPED)
            problems.append(Problem(str(path), 1, 1, "", f"{language} is not shipped (known: {known})"))
        return shipped
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        text = content.decode("utf-8")
    except OSError as error:
        problems.append(Problem(str(path), 1, 1, "", cannot_read(path, error)))
        return shipped
    except UnicodeDecodeError:
        problems.append(Problem(str(path), 1, 1, "", "is not UTF-8"))
        return shipped
    if len(content) > MAX_FILE:
        problems.append(Problem(str(path), 1, 1, "", f"is larger than {MAX_FILE} bytes"))
        return shipped
    own = _File(path, text, yaml.BaseLoader)
    merged = {**shipped, **own.texts}
    problems += own.problems or _differences(own, merged, reference)
    return merged


def _differences(own: _File, merged: Mapping[str, str], reference: Mapping[str, str]) -> Iterator[Problem]:
    for key, text in own.texts.items():
        if key not in reference:
            yield own.problem(key, "is not a text of the gateway")
            continue
        allowed = set(_placeholders(reference[key]))
        for name in sorted(set(_placeholders(text)) - allowed):
            known = ", ".join(f"{{{each}}}" for each in sorted(allowed)) or "none"
            yield own.problem(key, f"{{{name}}} is not a placeholder of this text (known: {known})")
        if key == _MONTHS and len(text.split()) != len(reference[key].split()):
            yield own.problem(key, "must be the names of twelve months, separated by spaces")
    for key in reference:
        if key not in merged:
            yield own.problem(key, "is missing")


def _nested(texts: Mapping[str, str]) -> Texts:
    """Dotted keys as read-only mappings in mappings. Templates of the configuration get them."""
    sections: dict[str, dict[str, str]] = {}
    for key, text in texts.items():
        first, _, rest = key.partition(".")
        sections.setdefault(first, {})[rest] = text
    return MappingProxyType(
        {name: section[""] if "" in section else _nested(section) for name, section in sections.items()}
    )


# The language of a response, from the preferences of the client (RFC 9110 12.5.4).
_MAX_HEADER: Final = 1000  # In characters. Browsers send about 50.
_MAX_RANGES: Final = 30


def preferred_language(languages: Sequence[str], header: str) -> str:
    """The language that the field Accept-Language prefers, by the lookup of RFC 4647 3.4; otherwise the first."""
    by_tag = {language.lower(): language for language in languages}
    for tag in _ranges(header[:_MAX_HEADER]):
        while tag:
            if tag in by_tag:
                return by_tag[tag]
            tag = tag.rpartition("-")[0]
    return languages[0]


def _ranges(header: str) -> Iterator[str]:
    """The ranges of the field by falling weight, without those of weight 0. Malformed ones are skipped."""
    weighted = []
    for number, item in enumerate(header.split(",")[:_MAX_RANGES]):
        tag, _, parameter = item.partition(";")
        weight = _weight(parameter.strip())
        if weight > 0:
            weighted.append((-weight, number, tag.strip().lower()))
    for _, _, tag in sorted(weighted):
        yield tag


def _weight(parameter: str) -> float:
    """A weight from 0 to 1; 1 without a parameter, 0 for a malformed one."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.replace(".", "", 1)
    if name.strip().lower() != "q" or len(value) > len("0.000") or not (digits.isascii() and digits.isdecimal()):
        return 0.0
    return min(float(value), 1.0)
