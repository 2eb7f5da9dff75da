"""YAML 1.2 scalars: unquoted numbers, booleans and null, and strings."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.yaml import plain_value
from tests.settings.reading import settings_of

STRINGS = [
    "no", "No", "NO", "yes", "Yes", "on", "On", "off", "OFF", "y", "n", "t", "f", "true!", "nul", "nULL", "tRUE",
    "none", "None", "undefined", "12:30", "190:20:30", "1_000", "0o17", "0x1F", "0b101", "1,5", "1.2.3",
    "1.2.3.4", "10s", "64KiB", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "+", "-", ".", "..", "-.", "e3",
    "1e", "1e+", ".e3", "inf", "nan", "Infinity", "NaN", ".infinity", "0x", "-0x1", "~~", "=", "<<",
]  # fmt: skip
NUMBERS = [
    ("0", 0),
    ("-1", -1),
    ("+12", 12),
    ("010", 10),
    ("1.5", 1.5),
    (".5", 0.5),
    ("5.", 5.0),
    ("-1e3", -1000.0),
    ("1.5E-2", 0.015),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("+.Inf", math.inf),
]
OTHERS = [
    ("", None),
    ("~", None),
    ("null", None),
    ("Null", None),
    ("NULL", None),
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("false", False),
    ("False", False),
    ("FALSE", False),
]


@pytest.mark.parametrize("text", STRINGS)
def test_a_word_stays_a_string(text: str) -> None:
    assert plain_value(text) == text


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_a_number(text: str, value: float) -> None:
    found = plain_value(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), OTHERS)
def test_a_word_of_the_core_schema_has_its_value(text: str, value: bool | None) -> None:
    assert plain_value(text) is value


def test_nan_is_no_number_that_anything_accepts() -> None:
    assert math.isnan(plain_value(".nan"))  # type: ignore[arg-type]


def test_thousands_of_digits_are_a_string() -> None:
    assert isinstance(plain_value("9" * 5000), str)
    assert isinstance(plain_value("9" * 5000 + ".5"), str)


# The regular expressions of YAML 1.2.2, 10.3.2, without those for octal and hexadecimal numbers.
NULL = r"null|Null|NULL|~|"
BOOLEAN = r"true|True|TRUE|false|False|FALSE"
WHOLE = r"[-+]?[0-9]+"
FRACTION = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
WORDS = st.text(alphabet="0123456789abcdefxonyesffultrINA+-.:_~<= ", max_size=8)
OLD_WORDS = st.sampled_from(STRINGS) | st.from_regex(
    r"[-+]?0[0-7_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+|0b[01]+|0x[0-9a-f]+|[0-9]{4}-[0-9]{2}-[0-9]{2}|yes|No|on|OFF",
    fullmatch=True,
)


@given(WORDS | OLD_WORDS)
def test_a_word_has_the_meaning_of_the_core_schema(text: str) -> None:
    kinds = {NULL: type(None), BOOLEAN: bool, WHOLE: int, FRACTION: float}
    expected = next((kind for pattern, kind in kinds.items() if re.fullmatch(pattern, text)), str)

    assert type(plain_value(text)) is expected


@given(OLD_WORDS)
def test_values_that_yaml_1_1_converts_are_strings_or_decimal_numbers(text: str) -> None:
    value = plain_value(text)

    assert value == (int(text) if re.fullmatch(WHOLE, text) else text)


VISIBLE = st.characters(max_codepoint=0x2FFF, exclude_categories=("C", "Z"))


@given(st.text(VISIBLE, min_size=1) | OLD_WORDS)
def test_a_quoted_scalar_is_the_string_it_holds(text: str) -> None:
    quoted = "'" + text.replace("'", "''").replace("${", "$${") + "'"

    assert settings_of(f"tokens: {{issuer: {quoted}}}").tokens.issuer == text
