"""Path patterns: `/a/b`, `{name}` for one segment, `/**` at the end for the prefix and everything below.

A pattern stores decoded segments: literals pass through the same canonicalisation as request paths and are then
percent-decoded. Paths are compared by meaning, never by spelling: `/admin!` in the file and `/admin%21` on the wire are
equal, so no spelling evades a literal and reaches a broader pattern.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.errors import Refusal
from gateway.wire.paths import canonical_path, decoded_segment

Segments = tuple[bytes | None, ...]
"""Segments of a pattern: decoded literals, None for a capture."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_VISIBLE_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
MOST_SEGMENTS: Final = 64


class PatternError(ValueError):
    """A problem in a pattern or template. `right` is a correct alternative."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(f"{wrong} ({right})")
        self.wrong = wrong
        self.right = right


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern. `segments` contains decoded literals, and None for captures; `names` are the capture names in
    order; `has_rest` is true for a trailing `/**`; `text` is the canonical spelling."""

    text: str
    segments: Segments
    names: tuple[str, ...]
    has_rest: bool

    @property
    def shape(self) -> tuple[Segments, bool]:
        """Identifies the matched paths. Patterns that differ only in capture names have the same shape."""
        return self.segments, self.has_rest

    @property
    def head(self) -> bytes | None:
        """The first segment if it is a literal."""
        return self.segments[0] if self.segments else None

    @property
    def captures(self) -> tuple[tuple[str, int], ...]:
        """Each capture name with its segment number, counted from 1."""
        numbers = (number for number, segment in enumerate(self.segments, 1) if segment is None)
        return tuple(zip(self.names, numbers, strict=True))

    @property
    def holds_encoded_slash(self) -> bool:
        """Whether a literal contains `%2F`."""
        return any(segment is not None and b"/" in segment for segment in self.segments)

    def covers(self, other: "Pattern") -> bool:
        """Whether this pattern matches every path that `other` matches. This pattern must not end in `/**`."""
        return (
            not other.has_rest
            and len(self.segments) == len(other.segments)
            and all(mine is None or mine == its for mine, its in zip(self.segments, other.segments, strict=True))
        )


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern; a single trailing slash is ignored. Raises PatternError."""
    parts = split_segments(text)
    if parts[-1] == "":
        parts.pop()
    if "**" in parts[:-1]:
        raise PatternError("must have '**' at its end only", "for example /files/**")
    has_rest = bool(parts) and parts[-1] == "**"
    fixed = parts[:-1] if has_rest else parts
    if len(fixed) > MOST_SEGMENTS:
        raise PatternError(f"has {len(fixed)} segments", f"at most {MOST_SEGMENTS}")
    names = [_capture_name(part) for part in fixed]
    spelled = [part if name else canonical_literal(part) for part, name in zip(fixed, names, strict=True)]
    return Pattern(
        text="/" + "/".join([*spelled, "**"] if has_rest else spelled),
        segments=tuple(
            None if name else decoded_segment(part.encode()) for part, name in zip(spelled, names, strict=True)
        ),
        names=_distinct([name for name in names if name]),
        has_rest=has_rest,
    )


def split_segments(text: str) -> list[str]:
    """The segments of a pattern or template; a trailing slash gives an empty last one. Raises PatternError."""
    if not text.startswith("/"):
        raise PatternError("must begin with '/'", f"/{text}")
    if "?" in text or "#" in text:
        raise PatternError("must not hold a query or a fragment", "the path alone; the query is never matched")
    parts = text[1:].split("/")
    if "" in parts[:-1]:
        raise PatternError("must not hold an empty segment", "one slash instead of two")
    return parts


def canonical_literal(text: str) -> str:
    """The canonical spelling of a literal segment. Raises PatternError if no request path can contain it.

    Always judged by the strict rules: servers disagree about the spellings that `server.paths: relaxed` accepts, and a
    rule must not depend on them.
    """
    if _PLAIN.fullmatch(text):
        return text
    if "*" in text:
        right = "{name} is one segment, /** at the end everything below, %2A a literal star"
        raise PatternError("has '*', which is no wildcard", right)
    # Characters that are legal in YAML but not in a path: spaces and everything outside ASCII.
    escaped = quote(text.encode("utf-8", "surrogatepass"), safe=_VISIBLE_ASCII)
    try:
        return canonical_path(b"/" + escaped.encode(), relaxed=False)[1:].decode()
    except Refusal as refusal:
        right = "such requests are refused, so no rule can rest on it"
        raise PatternError(f"can never match: its segment '{escaped}' has {refusal.reason}", right) from None


def capture_in(part: str) -> str | None:
    """The text between the braces of a capture; None for a segment without braces.

    Raises PatternError for braces in any other position.
    """
    if "{" not in part and "}" not in part:
        return None
    if part.count("{") != part.count("}") or part.find("{") > part.find("}"):
        raise PatternError("has an unbalanced brace", "a capture is {name}, a literal brace %7B")
    if not (part[0] == "{" and part[-1] == "}" and part.count("{") == 1):
        raise PatternError("has a capture that is only a part of a segment", "a whole one, such as /{name}/")
    return part[1:-1]


def _capture_name(part: str) -> str | None:
    name = capture_in(part)
    if name in ("*", "**"):
        raise PatternError("takes the rest of the path in braces", "/** without them")
    if name == "":
        raise PatternError("has a capture without a name", "for example {id}")
    if name is not None and not _NAME.fullmatch(name):
        raise PatternError(f"has a capture named '{name}'", "letters, digits, _ and -, the first a letter or _")
    return name


def _distinct(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise PatternError(f"has two captures named '{name}'", "another name for one of them")
    return tuple(names)


# Methods that a route without `methods` treats in a special way.
TRACE: Final = b"TRACE"
"""Served only by routes that list it: the response echoes the upstream request, including the identity headers."""

USUAL_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
"""Listed to clients for a route without `methods`, which also serves extension methods."""
