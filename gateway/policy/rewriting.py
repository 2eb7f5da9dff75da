"""Where a route sends a path: as it came, without a prefix, or into another form.

Only whole segments are taken off, moved and put in. So what comes out is made of segments that were each
judged canonical, in a canonical frame: no dot segment and no empty segment can arise from joining
(CVE-2026-48020: a prefix taken off `/api../admin` left `/../admin`).
"""

from dataclasses import dataclass

from gateway.policy.patterns import (
    Pattern,
    PatternError,
    canonical_literal,
    capture_in,
    parse_pattern,
    split_segments,
)
from gateway.wire.paths import CanonicalPath

Captures = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class PrefixStrip:
    """Takes the first segments off. What is left is at least `/`; a trailing slash stays."""

    count: int

    def apply(self, path: CanonicalPath, captures: Captures) -> bytes:
        """The path to send on, for a path that the route matched."""
        return _after(path, self.count) or b"/"


@dataclass(frozen=True, slots=True)
class Template:
    """Puts a path together from literals (bytes) and captures (their index).

    `rest_after` is the number of segments after which the rest begins, None without `{**}`. The rest
    comes with the slash before it and with its trailing slash, or as nothing where the path ends before
    it: `/v2/{**}` makes `/v2`, `/v2/` and `/v2/a/` of `/users`, `/users/` and `/users/a/`.
    """

    parts: tuple[bytes | int, ...]
    rest_after: int | None
    ends_in_slash: bool

    def apply(self, path: CanonicalPath, captures: Captures) -> bytes:
        """The path to send on, for a path that the route matched and its captures."""
        head = b"".join(b"/" + (part if isinstance(part, bytes) else captures[part][1]) for part in self.parts)
        if self.rest_after is not None:
            return head + _after(path, self.rest_after) or b"/"
        return head + b"/" if self.ends_in_slash else head or b"/"


Rewrite = PrefixStrip | Template


def parse_strip(prefix: str, pattern: Pattern) -> PrefixStrip:
    """The rewrite for `strip_prefix`. Raises PatternError unless the pattern begins with the prefix."""
    stripped = parse_pattern(prefix)
    count = len(stripped.segments)
    if stripped.names or stripped.has_rest:
        raise PatternError("must be literal", "rewrite moves captures")
    if pattern.segments[:count] != stripped.segments:
        raise PatternError(f"must be the beginning of the route's path '{pattern.text}'", "segment by segment")
    return PrefixStrip(count)


def parse_template(text: str, pattern: Pattern) -> Template:
    """The rewrite for `rewrite`, whose captures are those of the pattern. Raises PatternError."""
    parts = split_segments(text)
    takes_rest, ends_in_slash = parts[-1] == "{**}", parts[-1] == ""
    if takes_rest and not pattern.has_rest:
        raise PatternError("uses {**}", f"only where the route's path ends in /**, and it is '{pattern.text}'")
    if takes_rest or ends_in_slash:
        parts.pop()
    return Template(
        tuple(_template_part(part, pattern) for part in parts),
        len(pattern.segments) if takes_rest else None,
        ends_in_slash and bool(parts),
    )


def sent_path(rewrite: Rewrite | None, captures: Captures, path: CanonicalPath) -> bytes:
    """The path that the upstream is sent: the canonical one, rewritten where the route says so."""
    return path if rewrite is None else rewrite.apply(path, captures)


def _template_part(part: str, pattern: Pattern) -> bytes | int:
    name = capture_in(part)
    if name == "**":
        raise PatternError("must have {**} at its end only", "for example /v2/{**}")
    if name is None:
        literal = canonical_literal(part)
        if "%2F" in literal:
            raise PatternError("must not hold an escaped slash", "a path as the upstream knows it")
        return literal.encode()
    if name not in pattern.names:
        known = f"known: {', '.join(pattern.names)}" if pattern.names else "it has none"
        raise PatternError(f"uses '{name}', which is no capture of '{pattern.text}'", known)
    return pattern.names.index(name)


def _after(path: bytes, segments: int) -> bytes:
    """What follows the first segments of a path, with the slash before it; nothing where the path ends
    there."""
    slash = 0
    for _ in range(segments):
        slash = path.find(b"/", slash + 1)
        if slash < 0:
            return b""
    return path[slash:]
