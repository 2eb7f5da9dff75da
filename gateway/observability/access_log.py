"""The access log: one line per finished request, as JSON for machines or as aligned text.

A line never contains a token, nor the query, where clients can put tokens. Values chosen by clients (path, request id,
method, user id of an external issuer) are escaped, so that each request is exactly one line.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from gateway.observability.escaping import quoted, visible

V = TypeVar("V")

NO_ROLES: Final[frozenset[str]] = frozenset()
REMEMBERED: Final = 1024  # cached texts of hosts, and of sets of roles
LONGEST_REMEMBERED: Final = 256  # characters of a cached text
MAX_UNROUTED_PATH: Final = 1024  # bytes; a path that matched no route is arbitrary and is truncated

_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_COLOURS: Final[Mapping[int, str]] = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}


def timestamp(now: float) -> str:
    """Seconds since the epoch as RFC 3339, in UTC, with milliseconds: `2026-01-31T08:15:00.250Z`."""
    seconds, milliseconds = divmod(int(now * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def loggable_path(target: bytes) -> bytes:
    """The path of a request target that is possibly not canonical: without scheme, authority (which can contain a
    password), query and fragment, truncated to MAX_UNROUTED_PATH. Empty without a path."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/") and path != b"*":
        slash = path.find(b"/", path.find(b"://") + 3) if b"://" in path else -1
        path = path[slash:] if slash >= 0 else b""
    return path[:MAX_UNROUTED_PATH]


# ---- JSON, in the order of a line: opening, request id, client, host, method, path, outcome, user, roles, …
# Parts that depend only on the time, the host, the method, the route or the roles are cached.


def json_opening(time_text: str) -> str:
    """The start of a line, up to the value of `request_id`."""
    return f'{{"time":"{time_text}","request_id":'


def json_method(method: bytes) -> str:
    """From after the value of `host` to before the value of `path`."""
    return f',"method":{quoted(method.decode("latin-1"))},"path":'


def json_client(client: str) -> str:
    """From after the value of `request_id` to the value of `client`."""
    return f',"client":{quoted(client)}'


def json_host(host: bytes | None) -> str:
    """From after the value of `client` to the value of `host`, which is "" for a missing or invalid host."""
    return f',"host":{quoted((host or b"").decode("latin-1"))}'


def json_roles(roles: frozenset[str]) -> str:
    """From after the value of `user` to the value of `roles`: the caller's own, without implied ones."""
    return f',"roles":[{",".join(map(quoted, sorted(roles)))}]'


def json_credential(credential: tuple[str, str, float], *, now: float) -> str:
    """From after the value of `roles`: the kind of credential, and the class and age of its sign-in, in seconds. The
    time of a sign-in that the credential does not contain is 0; the age is left out then. A sign-in at another replica
    can lie ahead of this clock."""
    kind, acr, signed_in_at = credential
    age = f',"age":{max(0.0, now - signed_in_at):.0f}' if signed_in_at else ""
    return f',"credential":{quoted(kind)},"acr":{quoted(acr)}{age}'


def json_outcome(route: str, status: int, code: str) -> str:
    """From after the value of `path` to before the value of `user`."""
    return f',"route":{quoted(route)},"status":{status},"code":{quoted(code)},"user":'


class Texts(dict[V, str]):
    """A cache of the texts of values.

    Clients choose the values, so it keeps at most REMEMBERED texts of at most LONGEST_REMEMBERED characters.
    """

    def __init__(self, make: Callable[[V], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, value: V) -> str:
        text = self._make(value)
        if len(text) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED:
                self.clear()
            self[value] = text
        return text


def json_trace(trace_id: str) -> str:
    """The last member of a traced request: an id of 32 hexadecimal digits."""
    return f',"trace_id":"{trace_id}"'


# ---- text


def text_line(*, time_text: str, coloured: bool, seconds: float, **said: str | int) -> str:
    """Columns of fixed width, then the path, then other values by name.

    `said` holds status, method, client and path, followed by other values in output order. Empty ones are left out.
    """
    status = int(said.pop("status"))
    method, client, path = (visible(str(said.pop(name))) for name in ("method", "client", "path"))
    rest = "".join(f" {name}={visible(str(value))}" for name, value in said.items() if value != "")
    dim, colour, reset = (_DIM, _COLOURS.get(status // 100, ""), _RESET) if coloured else ("", "", "")
    return (
        f"{dim}{time_text}{reset} {colour}{status:>3}{reset} {method:<7} {_duration(seconds):>8} {client:<15} {path}"
        f"{dim}{rest}{reset}\n"
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms" if seconds < 10 else f"{seconds:.1f}s"
