"""Values of strangers, made fit for one line of text: what a caller sends must never end a line, start another one,
or reach a terminal as an escape sequence (CWE-117, CWE-150).

Two ways. For machines, `quoted`: a JSON string in ASCII. For persons, `visible` and `printable`: as it is while it is
harmless, else escaped. Bytes are read as Latin-1, so that every byte has one escape of its own: 0xE9 is `\\u00e9`.
"""

import re
from json.encoder import encode_basestring_ascii as quoted
from typing import Final

__all__ = ["printable", "quoted", "visible", "without_tokens"]

# What is a credential by its looks: a JWT, an API key, a refresh token.
CREDENTIAL: Final = r"(?<![\w-])eyJ[\w-]*\.[\w.-]*|gw[kr]_[\w-]+"
_CREDENTIAL: Final = re.compile(CREDENTIAL)
# Visible ASCII but for the quotation mark and the backslash, which mark an escaped value.
_is_visible: Final = re.compile(r"[!#-\[\]-~]+").fullmatch


def without_tokens(text: str) -> str:
    """The text without the credentials that callers put where they do not belong: into a path, into a request id."""
    return _CREDENTIAL.sub("[secret]", text) if "eyJ" in text or "gw" in text else text


def visible(value: str) -> str:
    """One word: the value itself if it is visible ASCII throughout, else (white space and the empty value too) as a
    JSON string, so that no value can look like two or like the next field."""
    return value if _is_visible(value) else quoted(value)


def printable(text: str) -> str:
    """Prose: all but the characters that a terminal or a log reader would act on, which are escaped. That takes in
    control characters, line and paragraph separators, and the invisible ones that change the direction of text."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
