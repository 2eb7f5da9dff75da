"""The canonical path, computed once from the raw bytes of the request target.

The result is matched *and* forwarded, so that no two components can disagree about it: serious bypasses of gateway
rules came from two components that read one path differently (CVE-2026-33494, CVE-2021-29492, CVE-2025-66490).

    1. The form: origin-form, or absolute-form of http(s), whose authority is returned (RFC 9112 3.2).
    2. The query is split off at the first `?` and forwarded unchanged.
    3. Percent-encoded unreserved characters are decoded, other escapes upper-cased (RFC 3986 6.2.2).
    4. Relaxed mode merges empty segments.
    5. Paths that a downstream reader could take for another path are refused.

Nothing is repaired by guessing: a dot segment is refused, not resolved.
"""

import re
from binascii import a2b_qp
from collections.abc import Iterator
from itertools import islice, product
from typing import Final, NamedTuple, NewType

from gateway.errors import Refusal

CanonicalPath = NewType("CanonicalPath", bytes)


class RequestTarget(NamedTuple):
    """A parsed request target.

    `query` is the part after `?`, unchanged: None without a `?`, b"" for a `?` at the end. `authority` is the raw
    authority of an absolute-form target, None for origin-form. `has_encoded_slash` marks a path with `%2F`, which only
    a route that keeps it can match.
    """

    path: CanonicalPath
    query: bytes | None
    has_encoded_slash: bool
    authority: bytes | None


# The common case, matched once without backtracking: segments of plain characters, each with at least one other than a
# dot. Pchar of RFC 3986 3.3 without `%` and `;`; in the query everything but control characters, space and `#`.
_PLAIN_PATH: Final = rb"(?:/\.*+[!$&-\-0-9:=@-Z_a-z~][!$&-.0-9:=@-Z_a-z~]*+)++/?+|/"
_PLAIN: Final = re.compile(_PLAIN_PATH)
_PLAIN_WITH_QUERY: Final = re.compile(rb"(%b)\?([^\x00-\x20#\x7f]*+)" % _PLAIN_PATH)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)

_PERCENT: Final = ord("%")
_QUESTION_MARK: Final = ord("?")
_NEVER_IN_A_TARGET: Final = re.compile(rb"[\x00-\x20#\x7f]")
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_SLASHES: Final = re.compile(rb"//+")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HEX_DIGITS: Final = "0123456789abcdefABCDEF"
# Each escape without its `%`: the octet, and its canonical form (RFC 3986 6.2.2.1 and 6.2.2.2).
_OCTETS: Final = {
    f"{high}{low}".encode(): bytes((int(high + low, 16),)) for high, low in product(_HEX_DIGITS, repeat=2)
}
_NORMALISED: Final = {
    digits: octet if octet[0] in _UNRESERVED else b"%" + digits.upper() for digits, octet in _OCTETS.items()
}

# Patterns that a canonical path must not contain, with the reasons. The first match gives the reason.
_ALWAYS: Final = (
    (rb"\\|%5C", "a backslash, which some servers read as a slash"),
    (rb"%[01]|%7F", "an escaped control character"),
    (rb"/%2F|%2F(?:[/;]|\Z)", "an escaped slash at an end of its segment"),
    (rb"%2F%2F", "two escaped slashes in a row"),
)
_IN_STRICT_MODE: Final = (
    (rb"//", "an empty segment"),
    (rb";|%3B", "a semicolon, where some servers cut off the rest"),
    (rb"%23", "an escaped number sign"),
    (rb"%3F", "an escaped question mark"),
    (rb"%25[0-9A-Fa-f]{2}", "a double escape"),
)


class _Rules:
    """Rules as one expression. Groups identify the matching rule but quadruple the cost of a search, so they are in a
    second expression, applied at the position found by the first."""

    def __init__(self, rules: tuple[tuple[bytes, str], ...]) -> None:
        self._find = re.compile(b"|".join(pattern for pattern, _ in rules)).search
        self._tell = re.compile(b"|".join(b"(%b)" % pattern for pattern, _ in rules)).match
        self._reasons = [reason for _, reason in rules]

    def judge(self, path: bytes) -> None:
        """Raises Refusal `bad_path` if a rule matches."""
        if not path.isascii():
            raise Refusal("bad_path", "a byte outside ASCII")
        found = self._find(path)
        if found is not None:
            rule = self._tell(path, found.start())
            assert rule is not None and rule.lastindex is not None, "both expressions contain the same rules"
            raise Refusal("bad_path", self._reasons[rule.lastindex - 1])


_RELAXED: Final = _Rules(_ALWAYS)
_STRICT: Final = _Rules(_ALWAYS + _IN_STRICT_MODE)

# A segment of dots, or of dots and spaces, in the decoded path. It ends at every character that ends a segment for some
# reader: both slashes, the semicolon of parameters (CVE-2026-73553), an escaped query or fragment.
_DOT_SEGMENT: Final = re.compile(rb"[/\\](?=[. ]*\.)[. ]*(?:[/\\;?#]|\Z)")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SEGMENTS: Final = re.compile(rb"[^/\\]+").finditer
_SEGMENTS_WITHOUT_PARAMETERS: Final = re.compile(rb"(?<=[/\\])[^/\\;]+").finditer
_QUERY_OR_FRAGMENT: Final = re.compile(rb"[?#]")

# Some readers decode twice. None decodes this often, and each round costs a pass over the path.
_MOST_DECODINGS: Final = 8


def canonical_target(raw: bytes, *, relaxed: bool) -> RequestTarget:
    """The canonical form of a request target.

    `relaxed` merges empty segments and accepts `;`, `%3B`, `%23`, `%3F` and double escapes. Raises Refusal `bad_path`
    for every path that readers could interpret differently.
    """
    # Not RequestTarget(...): the constructor of a named tuple is Python code and would double the cost.
    if _QUESTION_MARK not in raw:
        if _PLAIN.fullmatch(raw):
            return tuple.__new__(RequestTarget, (raw, None, False, None))
    elif plain := _PLAIN_WITH_QUERY.fullmatch(raw):
        return tuple.__new__(RequestTarget, (plain[1], plain[2], False, None))
    if _NEVER_IN_A_TARGET.search(raw):
        raise Refusal("bad_path", "a control character, a space or a number sign in the request target")
    authority, rest = _split_form(raw)
    path, mark, query = rest.partition(b"?")
    canonical = canonical_path(path or b"/", relaxed=relaxed)
    return RequestTarget(canonical, query if mark else None, canonical.find(b"%2F") >= 0, authority)


def canonical_path(raw: bytes, *, relaxed: bool) -> CanonicalPath:
    """The canonical form of a path without query, also used for patterns. Raises Refusal."""
    path = _with_normalised_escapes(raw) if _PERCENT in raw else raw
    if relaxed:
        path = _SLASHES.sub(b"/", path)
    # Checked after normalisation, because decoding unreserved characters can complete a forbidden escape: `%252%65` is
    # `%252e`. Normalisation removes no forbidden sequence.
    (_RELAXED if relaxed else _STRICT).judge(path)
    _refuse_by_decoded_form(path)
    return CanonicalPath(path)


def decoded_segment(segment: bytes) -> bytes:
    """A segment with its escapes decoded once."""
    return _decoded(segment) if _PERCENT in segment else segment


def lenient_readings(path: CanonicalPath, *, splits_first: bool, most_segments: int) -> Iterator[list[bytes]]:
    """The readings of a relaxed path by lenient readers, each as a list of decoded segments, at most `most_segments` of
    them.

    Such readers decode twice, cut off parameters (`/admin;x=1` is `/admin`), end the path at an escaped `?` or `#`, or
    combine these. A single `%2F` stays part of its segment: the matching route accepts it explicitly. Other readers
    split the path before they decode it. No escape ends a segment there, so they cut off parameters after a raw `;`
    only: they read `/a;x=1/%3B` as `/a/;`.

    `splits_first`: only the reading of the latter, as the upstream of a route that keeps `%2F` must read.
    """
    parts = islice(_SEGMENTS_WITHOUT_PARAMETERS(path), most_segments)
    yield [b"", *(decoded_segment(part[0]) for part in parts)]
    if splits_first:
        return
    once = _decoded(path.replace(b"%2F", b"\0"))
    texts = dict.fromkeys((once, _fully_decoded(once)))
    for text in dict.fromkeys((*texts, *(_QUERY_OR_FRAGMENT.split(text, 1)[0] for text in texts))):
        for segments in (_SEGMENTS, _SEGMENTS_WITHOUT_PARAMETERS):
            read = islice(segments(text), most_segments)
            yield [b"", *(segment[0].replace(b"\0", b"/") for segment in read)]


def _split_form(raw: bytes) -> tuple[bytes | None, bytes]:
    """The authority (None for origin-form) and the rest."""
    if raw.startswith(b"/"):
        return None, raw
    absolute = _ABSOLUTE.fullmatch(raw)
    if absolute is None:
        # RFC 9112 3.2.3 and 3.2.4: authority-form is for CONNECT, asterisk-form for the server as a whole.
        raise Refusal("bad_path", "the request target is neither a path nor an http URL")
    return absolute[1], absolute[2]


def _with_normalised_escapes(path: bytes) -> bytes:
    before, *pieces = path.split(b"%")
    try:
        return b"".join((before, *[_NORMALISED[piece[:2]] + piece[2:] for piece in pieces]))
    except KeyError:
        raise Refusal("bad_path", "a percent sign without two hexadecimal digits") from None


def _refuse_by_decoded_form(path: bytes) -> None:
    """Refuse what only decoding reveals: invalid UTF-8, and dot segments or control characters at any depth."""
    if _PERCENT in path:
        path = _decoded(path)
        try:
            path.decode()
        except UnicodeDecodeError:
            raise Refusal("bad_path", "escapes that are not valid UTF-8") from None
        path = _fully_decoded(path)
    if _CONTROL.search(path):
        raise Refusal("bad_path", "a control character, escaped more than once")
    if _DOT_SEGMENT.search(path):
        raise Refusal("bad_path", "a segment of dots")


def _decoded(path: bytes) -> bytes:
    """Decode each escape once. Every percent sign must begin an escape.

    The decoder of quoted-printable takes a twentieth of the time of `unquote_to_bytes`. They differ only for a percent
    sign that begins no escape.
    """
    return a2b_qp(path.replace(b"=", b"=3D").replace(b"%", b"="))


def _fully_decoded(path: bytes) -> bytes:
    """The path, decoded until it no longer changes: the view of the most thorough reader downstream."""
    for _ in range(_MOST_DECODINGS):
        path, escapes = _ESCAPE.subn(_octet, path)
        if not escapes:
            return path
    raise Refusal("bad_path", f"escaped more than {_MOST_DECODINGS} times over")


def _octet(escape: re.Match[bytes]) -> bytes:
    return _OCTETS[escape[0][1:]]
