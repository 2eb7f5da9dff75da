"""What an unquoted word of YAML means: the core schema of YAML 1.2.2 (section 10.3.2), and less than it.

YAML 1.1 turned `no` and `on` into booleans, `12:30` into 750 and `010` into 8; here they are the words they
look like (`010` is ten). Numbers are decimal: `0o17` and `0x1F`, numbers for YAML 1.2, stay strings too,
because nobody who writes them here means a number, and a string where a number is due is reported instead of
being guessed at.
"""

import re
from typing import Final, TypeAlias

Plain: TypeAlias = str | int | float | bool | None

_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_FIRST_OF_NUMBERS: Final = frozenset("+-.0123456789")
# More digits than these are no number anyone means, and int() refuses thousands of them.
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,300}")
_FRACTION: Final = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,9})?")


def plain_value(text: str) -> Plain:
    """The value of an unquoted scalar: null, a boolean, a whole number, a fraction, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _FIRST_OF_NUMBERS:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text
