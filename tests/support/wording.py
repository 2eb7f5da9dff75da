"""Requests as bytes, exactly as spelled by a test."""

from collections.abc import Iterable


def request(
    target: str | bytes = "/",
    *,
    method: str = "GET",
    fields: Iterable[str | bytes] = (),
    body: bytes | None = None,
    version: str = "1.1",
    host: str | None = "gateway.test",
) -> bytes:
    """A request as bytes: request line, Host, the given field lines unchanged, and Content-Length if it has a body."""
    lines = [method.encode() + b" " + as_bytes(target) + b" HTTP/" + version.encode()]
    if host is not None:
        lines.append(b"Host: " + host.encode())
    lines.extend(as_bytes(field) for field in fields)
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(*pieces: bytes, trailers: Iterable[str | bytes] = ()) -> bytes:
    """The pieces as a complete chunked body."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n" + b"".join(as_bytes(line) + b"\r\n" for line in trailers) + b"\r\n"


def bearer(token: str | bytes) -> bytes:
    """The field line with a token."""
    return b"Authorization: Bearer " + as_bytes(token)


def as_bytes(text: str | bytes) -> bytes:
    """A field line can contain any byte; as text it is Latin-1, one character per byte."""
    return text.encode("latin-1") if isinstance(text, str) else text
