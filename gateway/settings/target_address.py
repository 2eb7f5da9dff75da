"""The address of a target: `http://host:port`, `https://host:port`, each with an optional base path, or a Unix socket
(`unix:/run/app.sock`, with a base path `unix:/run/app.sock:/api`)."""

import os
import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway.errors import Refusal
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import origin
from gateway.wire.paths import canonical_target

_UNIX: Final = "unix:"
_LONGEST_SOCKET: Final = 107  # bytes; `sun_path` of Linux without its final NUL
# The Host for a Unix socket, which has no name of its own. nginx and curl send the same.
_SOCKET_HOST: Final = "localhost"
_NGINX_SOCKET: Final = re.compile(r"https?://(unix:/.*?):?", re.IGNORECASE)


class TargetAddress(NamedTuple):
    """A parsed address of a target.

    `authority` is the value of its Host field. `socket` is the path of a Unix socket, "" for TCP. `base` is the path in
    front of the path of every request, "" without one.
    """

    scheme: str
    host: str
    port: int
    authority: str
    socket: str = ""
    base: str = ""

    @classmethod
    def of(cls, target: str) -> "TargetAddress":
        """Parse the text that `target` returns."""
        if target.startswith(_UNIX):
            socket, _, base = target.removeprefix(_UNIX).partition(":/")
            return cls("http", _SOCKET_HOST, 80, _SOCKET_HOST, socket, f"/{base}" if base else "")
        url = urlsplit(target)
        authority = url.netloc if url.netloc.isascii() else url.netloc.encode("idna").decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        return cls(url.scheme, url.hostname or "", port, authority, base=url.path)


def target(text: str) -> str:
    """The address of a target in its canonical spelling. Raises InvalidValue."""
    if text.lower().startswith(_UNIX):
        return _socket_address(text[len(_UNIX) :])
    nginx = _NGINX_SOCKET.fullmatch(text)
    if nginx is not None:
        raise InvalidValue("must name a Unix socket without http://", nginx[1])
    scheme, separator, rest = text.partition("://")
    place, _, path = rest.partition("/")
    if not separator or "?" in rest or "#" in rest:
        return origin(text)
    return origin(f"{scheme}://{place}") + _base_path(path)


def _socket_address(rest: str) -> str:
    if rest.startswith("//") and not rest.startswith("///"):
        raise InvalidValue("must be unix: and the path of a socket", f"unix:/{rest.lstrip('/')}")
    path, _, base = rest.removeprefix("//").removesuffix(":").partition(":/")
    if not path or path.endswith("/"):
        raise InvalidValue("must be unix: and the path of a socket", "for example unix:/run/app.sock")
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise InvalidValue(f"must have a path of at most {_LONGEST_SOCKET} bytes", "for example unix:/run/app.sock")
    base = _base_path(base)
    return f"{_UNIX}{path}:{base}" if base else f"{_UNIX}{path}"


def _base_path(path: str) -> str:
    path = path.strip("/")
    if not path:
        return ""
    try:
        canonical = canonical_target(f"/{path}".encode(), relaxed=False)
    except Refusal as refusal:
        reason = refusal.reason.removesuffix(" in the request target")
        raise InvalidValue(f"must not have {reason} in its path", "for example http://app:8000/api") from None
    if canonical.has_encoded_slash:
        raise InvalidValue("must not have an escaped slash in its path", "for example http://app:8000/api")
    return canonical.path.decode("ascii")
