"""Path patterns as expressions (RE2), for the mode in which Envoy judges and matches paths itself.

Envoy matches the raw path without normalisation. Expressions equivalent to the checks of `wire/paths.py` first refuse
the paths that the gateway refuses. Patterns then accept each character plain or escaped, so that no spelling evades a
literal.
"""

from typing import Final

from gateway.policy.patterns import Pattern

_QUERY: Final = r"(?:\?.*)?"
_SPACE, _DOT = r"%20", r"(?:\.|%2[eE])"
_UNRESERVED_ESCAPE: Final = r"%(?:2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])"
_HEX_ESCAPED: Final = r"(?:[0-9A-Fa-f]|%3[0-9]|%[46][1-6])"
_PLAIN: Final = (
    r"[!\"$&-.0-:<=>@-\[\]-~]"  # visible, but for `# Visible ASCII except `#`, `%`, `/`, `;`, `?` and the backslash.
)
_TAIL: Final = r"%[89abAB][0-9a-fA-F]"
# RFC 3629 4: valid UTF-8, escaped octet by octet.
_UTF8: Final = "|".join(
    (
        rf"%(?:[cC][2-9a-fA-F]|[dD][0-9a-fA-F]){_TAIL}",
        rf"%[eE]0%[abAB][0-9a-fA-F]{_TAIL}",
        rf"%[eE](?:[1-9a-cA-C]|[eEfF])(?:{_TAIL}){{2}}",
        rf"%[eE][dD]%[89][0-9a-fA-F]{_TAIL}",
        rf"%[fF]0%[9abAB][0-9a-fA-F](?:{_TAIL}){{2}}",
        rf"%[fF][1-3](?:{_TAIL}){{3}}",
        rf"%[fF]4%8[0-9a-fA-F](?:{_TAIL}){{2}}",
    )
)
# Escaped printable ASCII except `#`, `/`, `;`, `?` and `\\`. A percent sign is included.
_ASCII_ESCAPE: Final = r"%(?:2[0-24-9a-eA-E]|3[0-9aAc-eC-E]|4[0-9a-fA-F]|5[0-9abABd-fD-F]|6[0-9a-fA-F]|7[0-9a-eA-E])"
_SEGMENT: Final = rf"(?:{_PLAIN}|{_ASCII_ESCAPE}|{_UTF8})"

ACCEPTED: Final = rf"/(?:{_SEGMENT}+/)*{_SEGMENT}*{_QUERY}"
"""Paths in which every character is allowed (strict mode)."""

_DOTS: Final = rf"(?:{_DOT}|{_SPACE})*{_DOT}(?:{_DOT}|{_SPACE})*"

FORBIDDEN: Final = (
    # A segment of dots, or of dots and spaces.
    rf"[^?]*/{_DOTS}(?:[/?].*)?",
    # A double escape, including one that results from decoding unreserved characters.
    rf"[^?]*%25{_HEX_ESCAPED}{{2}}.*",
)
"""Paths that are refused although every character is allowed."""

HOST: Final = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z_~-]+(?:\.[0-9A-Za-z_~-]+)*\.?)(?::[0-9]{0,5})?"
"""A valid Host."""


def matching(pattern: Pattern) -> str:
    """An expression for all request targets that a pattern matches, with any query."""
    segments = "".join("/" + (_any_segment() if text is None else _literal(text)) for text in pattern.segments)
    rest = r"(?:/[^?]*)?" if pattern.has_rest else "/?"
    if not pattern.segments:
        rest = r"/[^?]*" if pattern.has_rest else "/"
    return f"{segments}{rest}{_QUERY}"


def after(segments: int) -> str:
    """An expression for the first `segments` segments of a path."""
    return rf"^(?:/[^/?]*){{{segments}}}"


def _any_segment() -> str:
    return "[^/?]+"


def _literal(text: bytes) -> str:
    return "".join(map(_character, text))


def _character(octet: int) -> str:
    """An octet, plain if allowed, or escaped with digits in either case."""
    escaped = "%" + "".join(f"[{digit}{digit.lower()}]" if digit.isalpha() else digit for digit in f"{octet:02X}")
    plain = chr(octet)
    if octet < 0x80 and (plain.isalnum() or plain in "-._~!$&'()*+,:=@"):
        return f"(?:{_quoted(plain)}|{escaped})"
    return escaped


def _quoted(plain: str) -> str:
    return plain if plain.isalnum() else f"\\x{ord(plain):02x}"
