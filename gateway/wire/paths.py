"""One canonical path, made from the raw bytes of the request target, once.

What comes out is what is matched *and* what is sent on, so that no two readers can disagree about it: every
serious bypass of a gateway's rules was two places that read one path differently (CVE-2026-33494,
CVE-2021-29492, CVE-2025-66490).

    1. The form: origin-form, or absolute-form of http(s), whose authority is handed back (RFC 9112 3.2).
    2. The query is cut off at the first `?` and passed on untouched.
    3. Percent-encoded unreserved characters are decoded, other escapes upper-cased (RFC 3986 6.2.2).
    4. Relaxed mode merges empty segments.
    5. What some reader downstream could take for another path is refused.

Nothing is ever repaired by guessing: a dot segment is refused, not resolved.
"""

import re
from binascii import a2b_qp
from collections.abc import Iterator
from itertools import islice, product
from typing import Final, NamedTuple, NewType

from gateway.errors import Refusal

CanonicalPath = NewType("CanonicalPath", bytes)


class Target(NamedTuple):
    """A request target, understood.

    `query` is what follows the `?`, untouched: None where there is no `?`, b"" where it stands alone.
    `authority` is that of an absolute-form target, raw, None for origin-form. `has_encoded_slash` says that
    the path holds `%2F`: only a route that keeps it may take it.
    """

    path: CanonicalPath
    query: bytes | None
    has_encoded_slash: bool
    authority: bytes | None


# The clean common case, in one match without backtracking: segments of plain characters, at least one of them
# no dot. Pchar of RFC 3986 3.3 without `%` and `;`; in the query all but control characters, space and `#`.
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
# Every escape without its `%`: the octet it stands for, and its canonical form (RFC 3986 6.2.2.1 and 6.2.2.2).
_OCTETS: Final = {
    f"{high}{low}".encode(): bytes((int(high + low, 16),)) for high, low in product(_HEX_DIGITS, repeat=2)
}
_NORMALISED: Final = {
    digits: octet if octet[0] in _UNRESERVED else b"%" + digits.upper() for digits, octet in _OCTETS.items()
}

# What must not be found in a canonical path, and why; the first that is found is the reason.
_ALWAYS: Final = (
    (rb"\\|%5C", "a backslash, which some servers take for a slash"),
    (rb"%[01]|%7F", "an escaped control character"),
    (rb"/%2F|%2F(?:[/;]|\Z)", "an escaped slash at an end of its segment"),
    (rb"%2F%2F", "two escaped slashes in a row"),
)
_IN_STRICT_MODE: Final = (
    (rb"//", "an empty segment"),
    (rb";|%3B", "a semicolon, which begins what some servers cut off"),
    (rb"%23", "an escaped number sign"),
    (rb"%3F", "an escaped question mark"),
    (rb"%25[0-9A-Fa-f]{2}", "a double escape"),
)


class _Rules:
    """Rules as one expression. Groups tell which rule matched, but quadruple the cost of a search: they are in a second
    expression, for the position that the first one found."""

    def __init__(self, rules: tuple[tuple[bytes, str], ...]) -> None:
        self._find = re.compile(b"|".join(pattern for pattern, _ in rules)).search
        self._tell = re.compile(b"|".join(b"(%b)" % pattern for pattern, _ in rules)).match
        self._reasons = [reason for _, reason in rules]

    def judge(self, path: bytes) -> None:
        """Raises Refusal `bad_path` for what one of the rules forbids."""
        if not path.isascii():
            raise Refusal("bad_path", "a byte outside ASCII")
        found = self._find(path)
        if found is not None:
            rule = self._tell(path, found.start())
            assert rule is not None and rule.lastindex is not None, "the two expressions are made of the same rules"
            raise Refusal("bad_path", self._reasons[rule.lastindex - 1])


_RELAXED: Final = _Rules(_ALWAYS)
_STRICT: Final = _Rules(_ALWAYS + _IN_STRICT_MODE)

# A segment of dots, or of dots and spaces, in the decoded path. It ends at whatever ends a segment for some
# reader: either slash, the semicolon of parameters (CVE-2026-73553), a query or a fragment that was escaped.
_DOT_SEGMENT: Final = re.compile(rb"[/\\](?=[. ]*\.)[. ]*(?:[/\\;?#]|\Z)")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SEGMENTS: Final = re.compile(rb"[^/\\]+").finditer
_SEGMENTS_WITHOUT_PARAMETERS: Final = re.compile(rb"(?<=[/\\])[^/\\;]+").finditer
_QUERY_OR_FRAGMENT: Final = re.compile(rb"[?#]")

# Readers that decode twice exist; nothing decodes this often, and each round costs a pass over the path.
_MOST_DECODINGS: Final = 8


def canonical_target(raw: bytes, *, relaxed: bool) -> Target:
    """The target of a request line in its one canonical form.

    `relaxed` merges empty segments and lets pass `;`, `%3B`, `%23`, `%3F` and double escapes. Raises Refusal
    `bad_path` for everything that is not a path which all readers understand alike.
    """
    # Not Target(...): a named tuple's constructor is Python code and would double the cost of these lines.
    if _QUESTION_MARK not in raw:
        if _PLAIN.fullmatch(raw):
            return tuple.__new__(Target, (raw, None, False, None))
    elif plain := _PLAIN_WITH_QUERY.fullmatch(raw):
        return tuple.__new__(Target, (plain[1], plain[2], False, None))
    if _NEVER_IN_A_TARGET.search(raw):
        raise Refusal("bad_path", "a control character, a space or a number sign in the request target")
    authority, rest = _split_form(raw)
    path, mark, query = rest.partition(b"?")
    canonical = canonical_path(path or b"/", relaxed=relaxed)
    return Target(canonical, query if mark else None, canonical.find(b"%2F") >= 0, authority)


def canonical_path(raw: bytes, *, relaxed: bool) -> CanonicalPath:
    """The canonical form of a path alone, without a query; patterns are made of it too. Raises Refusal."""
    path = _with_normalised_escapes(raw) if _PERCENT in raw else raw
    if relaxed:
        path = _SLASHES.sub(b"/", path)
    # Judged now, because decoding what is unreserved can complete a forbidden escape: `%252%65` is
    # `%252e`. Nothing that is forbidden is taken away by it.
    (_RELAXED if relaxed else _STRICT).judge(path)
    _refuse_by_decoded_form(path)
    return CanonicalPath(path)


def decoded_segment(segment: bytes) -> bytes:
    """A segment with its escapes decoded, once: what it *says*, in whatever spelling it was sent."""
    return _decoded(segment) if _PERCENT in segment else segment


def lenient_readings(path: CanonicalPath, *, splits_first: bool, most_segments: int) -> Iterator[list[bytes]]:
    """What readers that are not strict may take a relaxed path for, each as a list of decoded segments, of which no
    more than `most_segments` are read.

    They decode twice, cut parameters off (`/admin;x=1` is `/admin`), end the path at an escaped `?` or `#`,
    or do several of these. A single `%2F` stays data of its segment: the route that takes it asked for that.

    `splits_first`: the reader splits the path before it decodes, as the upstream of a route that keeps `%2F` must.
    No escape ends a segment there, so only parameters that begin with a raw `;` are cut off.
    """
    if splits_first:
        parts = islice(_SEGMENTS_WITHOUT_PARAMETERS(path), most_segments)
        yield [b"", *(decoded_segment(part[0]) for part in parts)]
        return
    once = _decoded(path.replace(b"%2F", b"\0"))
    texts = dict.fromkeys((once, _fully_decoded(once)))
    for text in dict.fromkeys((*texts, *(_QUERY_OR_FRAGMENT.split(text, 1)[0] for text in texts))):
        for segments in (_SEGMENTS, _SEGMENTS_WITHOUT_PARAMETERS):
            read = islice(segments(text), most_segments)
            yield [b"", *(segment[0].replace(b"\0", b"/") for segment in read)]


def _split_form(raw: bytes) -> tuple[bytes | None, bytes]:
    """The authority (None for origin-form) and what follows it."""
    if raw.startswith(b"/"):
        return None, raw
    absolute = _ABSOLUTE.fullmatch(raw)
    if absolute is None:
        # RFC 9112 3.2.3 and 3.2.4: authority-form belongs to CONNECT, asterisk-form to the server as a whole.
        raise Refusal("bad_path", "the request target is neither a path nor an http URL")
    return absolute[1], absolute[2]


def _with_normalised_escapes(path: bytes) -> bytes:
    before, *pieces = path.split(b"%")
    try:
        return b"".join((before, *[_NORMALISED[piece[:2]] + piece[2:] for piece in pieces]))
    except KeyError:
        raise Refusal("bad_path", "a percent sign that begins no escape") from None


def _refuse_by_decoded_form(path: bytes) -> None:
    """Refuse what shows only once escapes are decoded: bad UTF-8; dot segments and controls at any depth."""
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
    """A text in which every percent sign begins an escape, with these decoded once.

    The decoder of quoted-printable takes a twentieth of the time of `unquote_to_bytes`. The two differ only where a
    percent sign begins no escape.
    """
    return a2b_qp(path.replace(b"=", b"=3D").replace(b"%", b"="))


def _fully_decoded(path: bytes) -> bytes:
    """The path decoded until nothing changes any more: what the most thorough reader downstream would see."""
    for _ in range(_MOST_DECODINGS):
        path, escapes = _ESCAPE.subn(_octet, path)
        if not escapes:
            return path
    raise Refusal("bad_path", f"escaped more than {_MOST_DECODINGS} times over")


def _octet(escape: re.Match[bytes]) -> bytes:
    return _OCTETS[escape[0][1:]]
