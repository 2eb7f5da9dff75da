"""The path sent to the upstream: unchanged, with a prefix stripped, or built from a template; below the base path of
the upstream if it has one.

Rewrites only remove, move and insert whole segments. The result consists of segments that were each validated as
canonical, so joining them cannot create a dot segment or an empty segment (CVE-2026-48020: stripping a prefix from
`/api../admin` left `/../admin`).
"""

from dataclasses import dataclass, replace

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
    """Removes the first `count` segments. The result is at least `/`; a trailing slash stays. `base` precedes it."""

    count: int
    base: bytes = b""

    def apply(self, path: CanonicalPath, captures: Captures) -> bytes:
        """The path to forward, for a path that the route matched."""
        return self.base + (_after(path, self.count) or b"/")


@dataclass(frozen=True, slots=True)
class Template:
    """Builds a path from literals (bytes) and captures (their index).

    `rest_after` is the number of segments before the rest of the path, None without `{**}`. The rest includes its
    leading slash and any trailing slash, and is empty if the path ends before it: `/v2/{**}` maps `/users`, `/users/`
    and `/users/a/` to `/v2`, `/v2/` and `/v2/a/`. `base` precedes the result.
    """

    parts: tuple[bytes | int, ...]
    rest_after: int | None
    ends_in_slash: bool
    base: bytes = b""

    def apply(self, path: CanonicalPath, captures: Captures) -> bytes:
        """The path to forward, for a path that the route matched and its captures."""
        return self.base + self._filled(path, captures)

    def _filled(self, path: CanonicalPath, captures: Captures) -> bytes:
        head = b"".join(b"/" + (part if isinstance(part, bytes) else captures[part][1]) for part in self.parts)
        if self.rest_after is not None:
            return head + _after(path, self.rest_after) or b"/"
        return head + b"/" if self.ends_in_slash else head or b"/"


Rewrite = PrefixStrip | Template


def parse_strip(prefix: str, pattern: Pattern) -> PrefixStrip:
    """Parse `strip_prefix`. Raises PatternError unless the pattern begins with the prefix."""
    stripped = parse_pattern(prefix)
    count = len(stripped.segments)
    if stripped.names or stripped.has_rest:
        raise PatternError("must be literal", "rewrite moves captures")
    if pattern.segments[:count] != stripped.segments:
        raise PatternError(f"must be the beginning of the route's path '{pattern.text}'", "segment by segment")
    return PrefixStrip(count)


def parse_template(text: str, pattern: Pattern) -> Template:
    """Parse `rewrite`, which uses the captures of the pattern. Raises PatternError."""
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


def below(base: str, rewrite: Rewrite | None) -> Rewrite | None:
    """The rewrite for an upstream with a base path, "" without one."""
    if not base:
        return rewrite
    return PrefixStrip(0, base.encode("ascii")) if rewrite is None else replace(rewrite, base=base.encode("ascii"))


def sent_path(rewrite: Rewrite | None, captures: Captures, path: CanonicalPath) -> bytes:
    """The path for the upstream: the canonical path, rewritten if the route has a rewrite."""
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
    """The path after the first `segments` segments, with its leading slash; empty if the path ends there."""
    slash = 0
    for _ in range(segments):
        slash = path.find(b"/", slash + 1)
        if slash < 0:
            return b""
    return path[slash:]
