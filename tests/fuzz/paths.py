"""The canonical path and the host of a request, as docs/policy.md describes them.

It reads segment by segment and character by character, unlike the gateway, which matches regular expressions.
Only `paths: strict` is covered.
"""

from typing import Final

from tests.fuzz.wire import DIGITS, HEX_DIGITS, LETTERS, Malformed

_UNRESERVED: Final = DIGITS | LETTERS | frozenset(b"-._~")
_HOST_CHARACTERS: Final = DIGITS | LETTERS | frozenset(b"-_~")
_ESCAPED_CONTROLS: Final = frozenset(b"%%%02X" % octet for octet in (*range(0x20), 0x7F))
_NEVER: Final = frozenset((b"%5C", b"%3B", b"%23", b"%3F")) | _ESCAPED_CONTROLS


def canonical_path(raw: bytes) -> bytes:
    """The path that the gateway matches and forwards. Raises Malformed for a path that readers understand differently.

    An escaped slash inside a segment passes: the route decides on it.
    """
    symbols = [_normalised(symbol) for symbol in _symbols(raw)]
    path = b"".join(symbols)
    symbols = _symbols(path)  # decoding can complete an escape: %252%65 becomes %252e
    if not _NEVER.isdisjoint(symbols) or b"\\" in path or b";" in path:
        raise Malformed("a character that readers understand differently")
    _refuse_double_escapes(symbols)
    segments = _segments(symbols, b"/")
    if any(not segment for segment in segments[:-1]):
        raise Malformed("an empty segment")
    for segment in segments:
        _judge_segment(segment)
    try:
        _decoded(symbols).decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("escapes that are not UTF-8") from None
    return path


def _symbols(raw: bytes) -> list[bytes]:
    """The path as plain characters and escapes. Raises Malformed for any other byte."""
    symbols, at = [], 0
    while at < len(raw):
        size = 3 if raw[at : at + 1] == b"%" else 1
        symbol = raw[at : at + size]
        if size == 3 and not (len(symbol) == 3 and HEX_DIGITS.issuperset(symbol[1:])):
            raise Malformed("a percent sign without two hexadecimal digits")
        if not 0x20 < symbol[0] < 0x7F or symbol == b"#":
            raise Malformed("a control character, a space, a number sign or a byte outside ASCII")
        symbols.append(symbol)
        at += size
    return symbols


def _normalised(symbol: bytes) -> bytes:
    if len(symbol) == 1:
        return symbol
    octet = int(symbol[1:], 16)
    return bytes((octet,)) if octet in _UNRESERVED else symbol.upper()


def _refuse_double_escapes(symbols: list[bytes]) -> None:
    for symbol, first, second in zip(symbols, symbols[1:], symbols[2:], strict=False):
        if symbol == b"%25" and len(first) == len(second) == 1 and HEX_DIGITS.issuperset(first + second):
            raise Malformed("a double escape")


def _segments(symbols: list[bytes], separator: bytes) -> list[list[bytes]]:
    """The symbols between separators. A path begins with a separator, so the part before the first is empty."""
    segments: list[list[bytes]] = [[]]
    for symbol in symbols:
        if symbol == separator:
            segments.append([])
        else:
            segments[-1].append(symbol)
    return segments[1:]


def _judge_segment(segment: list[bytes]) -> None:
    parts = _segments([b"%2F", *segment], b"%2F")
    if len(parts) > 1 and any(not part for part in parts):
        raise Malformed("an escaped slash at an end of its segment, or two in a row")
    for part in parts:
        text = _decoded(part)
        if b"." in text and not text.strip(b". "):
            raise Malformed("a segment of dots")


def _decoded(symbols: list[bytes]) -> bytes:
    return b"".join(symbol if len(symbol) == 1 else bytes((int(symbol[1:], 16),)) for symbol in symbols)


def canonical_host(raw: bytes) -> tuple[bytes, bytes]:
    """The name in lower case and the port of a Host. Raises Malformed.

    Only names and IPv4 addresses are covered: a literal in brackets is refused, so the fuzzer sends none.
    """
    name, _, port = raw.partition(b":")
    name = name.removesuffix(b".")
    labels = name.split(b".")
    if not all(label and _HOST_CHARACTERS.issuperset(label) for label in labels) or len(name) > 253:
        raise Malformed("not a host name")
    if not DIGITS.issuperset(port) or len(port) > 5 or int(port or b"0") > 65535:
        raise Malformed("not a port")
    return name.lower(), port or b"80"
