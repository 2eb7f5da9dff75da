"""Where a route sends a path: as it came, without a prefix, or into another form.

Only whole segments are taken off, moved and put in. So what comes out is made of segments that were each
judged canonical, in a canonical frame: no dot segment and no empty segment can arise from joining
(CVE-2026-48020: a prefix taken off `/api../admin` left `/../admin`).
"""

from dataclasses import dataclass

from gateway.policy.patterns import WHOLE_SEGMENT, Pattern, PatternError, canonical_literal, parse_pattern
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
        raise PatternError("holds captures (a prefix is literal; 'rewrite' moves captures)")
    if pattern.segments[:count] != stripped.segments:
        raise PatternError(f"is not the beginning of the route's path {pattern.text!r}, segment by segment")
    return PrefixStrip(count)


def parse_template(text: str, pattern: Pattern) -> Template:
    """The rewrite for `rewrite`, whose captures are those of the pattern. Raises PatternError."""
    if not text.startswith("/"):
        raise PatternError("does not begin with '/'")
    if "?" in text or "#" in text:
        raise PatternError("holds a query or a fragment (the query of the request is passed on as it is)")
    parts = text[1:].split("/")
    takes_rest, ends_in_slash = parts[-1] == "{**}", parts[-1] == ""
    if takes_rest and not pattern.has_rest:
        raise PatternError(f"uses '{{**}}', but the route's path {pattern.text!r} does not end in '/**'")
    if takes_rest or ends_in_slash:
        parts.pop()
    if "" in parts:
        raise PatternError("holds an empty segment, '//' (one slash)")
    return Template(
        tuple(_template_part(part, pattern) for part in parts),
        len(pattern.segments) if takes_rest else None,
        ends_in_slash and bool(parts),
    )


def _template_part(part: str, pattern: Pattern) -> bytes | int:
    if part in ("{**}", "**"):
        raise PatternError("has '**' where it cannot stand (the rest of the path is '/{**}', at the end)")
    if "{" not in part and "}" not in part:
        literal = canonical_literal(part)
        if "%2F" in literal:
            raise PatternError(f"has an escaped slash in {part!r}")
        return literal.encode()
    name = part[1:-1]
    if part != f"{{{name}}}" or "{" in name or "}" in name:
        raise PatternError(f"has a capture that is a part of the segment {part!r} ({WHOLE_SEGMENT})")
    if name not in pattern.names:
        known = ", ".join(pattern.names) or "none"
        raise PatternError(f"uses the capture {name!r}, which the route's path does not have (known: {known})")
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
