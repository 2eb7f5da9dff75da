"""Finished requests as the faces report them, for tests of what is made of them."""

from typing import Any

from gateway.operations.observer import Observer
from gateway.settings.model import ObservabilitySettings

USUAL: dict[str, Any] = {
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


def complete(observer: Observer, **differing: Any) -> None:
    """Tell the observer of a usual request, but for what differs."""
    unknown = differing.keys() - USUAL.keys()
    assert not unknown, unknown
    observer.completed(*{**USUAL, **differing}.values())


class Collected:
    """An observer whose blocks are collected."""

    def __init__(self, routes: tuple[str, ...] = ("orders",), *, coloured: bool | None = None, **settings: Any) -> None:
        self.blocks: list[bytes] = []
        self.observer = Observer(ObservabilitySettings(**settings), routes, self.blocks.append, coloured=coloured)

    @property
    def text(self) -> bytes:
        """What has been logged so far."""
        self.observer.tick(0.0)
        return b"".join(self.blocks)

    @property
    def line(self) -> str:
        """The one line that has been logged."""
        (line,) = self.text.decode("ascii").splitlines()
        return line
