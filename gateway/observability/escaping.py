"""Escape untrusted values for one line of text. A client must not be able to end a line, forge another one, or send
escape sequences to a terminal (CWE-117, CWE-150).

For machines, `quoted` returns a JSON string in ASCII. For people, `visible` and `printable` return harmless text
unchanged and escape the rest. Bytes are decoded as Latin-1, so each byte has its own escape: 0xE9 is `\\u00e9`.
"""

import re
from json.encoder import encode_basestring_ascii as quoted
from typing import Final

__all__ = ["printable", "quoted", "visible", "without_tokens"]

# The formats of credentials: a JWT, an API key, a refresh token.
CREDENTIAL: Final = r"(?<![\w-])eyJ[\w-]*\.[\w.-]*|gw[klrs]_[\w-]+"
_CREDENTIAL: Final = re.compile(CREDENTIAL)
# Visible ASCII except the quotation mark and the backslash, which occur in escaped values.
_is_visible: Final = re.compile(r"[!#-\[\]-~]+").fullmatch


def without_tokens(text: str) -> str:
    """Mask credentials in a text, because clients put them into paths and request ids."""
    return _CREDENTIAL.sub("[secret]", text) if "eyJ" in text or "gw" in text else text


def visible(value: str) -> str:
    """One word: the value itself if it is visible ASCII, otherwise a JSON string (also for white space and the empty
    value), so that no value can look like two, or like the next field."""
    return value if _is_visible(value) else quoted(value)


def printable(text: str) -> str:
    """Escape characters that a terminal or log reader would interpret: control characters, line and paragraph
    separators, and invisible ones that change the direction of text."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
