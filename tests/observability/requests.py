"""Completed requests in the form the servers report them, for tests of logs and metrics."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gateway.observability.observer import Observer
from gateway.settings.model import ObservabilitySettings

USUAL: dict[str, Any] = {
    "claims": None,
    "route": "orders",
    "method": b"GET",
    "path": b"/orders/7",
    "status": 200,
    "code": "",
    "user_id": "u-42",
    "request_id": b"0123456789abcdef",
    "client": "192.0.2.1",
    "seconds": 0.0125,
    "received": 3,
    "sent": 68,
    "host": b"api.example.com",
    "roles": frozenset({"user"}),
}


@dataclass
class Request:
    """A completed request for an observer. `started` is relative to the clock's 0."""

    request: Any
    admission: Any
    refused: Any
    refused_credential: Any
    route: str
    status: int
    code: str
    started: float
    forwarded_at: float
    answered_at: float
    received: int
    sent: int


def finished(*, admitted: bool = True, trace: str | None = None, **differing: Any) -> Any:
    """A typical request with the given differences. Without a route, or not `admitted`, it was refused, and `path` is
    its target. It was forwarded after `own` seconds and answered after another `upstream` seconds, if given."""
    times = {name: differing.pop(name, None) for name in ("own", "upstream")}
    unknown = differing.keys() - USUAL.keys()
    assert not unknown, unknown
    usual = {**USUAL, **differing}
    head = SimpleNamespace(
        method=usual["method"],
        target=usual["path"],
        request_id=usual["request_id"],
        client=usual["client"],
        trace=None if trace is None else SimpleNamespace(trace_id=trace),
        fields=SimpleNamespace(canonical_host=usual["host"], request_id=usual["request_id"]),
    )
    caller = SimpleNamespace(id=usual["user_id"], own_roles=usual["roles"]) if usual["user_id"] else None
    started = -usual["seconds"]
    forwarded = 0.0 if times["own"] is None else started + times["own"]
    answered = 0.0 if times["upstream"] is None else forwarded + times["upstream"]
    route, admission = usual["route"], None
    if route and admitted:
        admission = SimpleNamespace(
            route=SimpleNamespace(name=route),
            target=SimpleNamespace(path=usual["path"]),
            principal=caller,
            claims=usual["claims"],
        )
    outcome = (usual["status"], usual["code"], started, forwarded, answered, usual["received"], usual["sent"])
    return Request(head, admission, caller, usual["claims"], route, *outcome)


def complete(observer: Observer, **differing: Any) -> None:
    """Report a typical request with the given differences to the observer; see `finished`."""
    observer.completed(finished(**differing))


def observing(settings: ObservabilitySettings, write: Any = None, routes: tuple[str, ...] = ("orders",)) -> Observer:
    """An observer whose clock is 0, the end of the requests."""
    return Observer(settings, routes, write, clock=lambda: 0.0)


class Collected:
    """An observer whose output is collected."""

    def __init__(self, routes: tuple[str, ...] = ("orders",), *, coloured: bool | None = None, **settings: Any) -> None:
        self.blocks: list[bytes] = []
        self.observer = Observer(
            ObservabilitySettings(**settings), routes, self.blocks.append, coloured=coloured, clock=lambda: 0.0
        )

    @property
    def text(self) -> bytes:
        """The log output so far."""
        self.observer.tick(0.0)
        return b"".join(self.blocks)

    @property
    def line(self) -> str:
        """The only log line."""
        (line,) = self.text.decode("ascii").splitlines()
        return line
