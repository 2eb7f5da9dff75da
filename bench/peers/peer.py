"""The interface between the harness and a peer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.peers.signer import Signer

ROOT = Path(__file__).resolve().parent.parent.parent

ITEM = "/api/items/42"
FORBIDDEN = "/api/audit/42"
INSPECT = "/api/inspect/42"


@dataclass(frozen=True, slots=True)
class Place:
    """The environment of one peer: its folder and port, the upstream's port, and the signer of accepted tokens."""

    directory: Path
    port: int
    upstream_port: int
    signer: Signer

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def write(self, name: str, text: str) -> Path:
        """Write a file in the peer's folder."""
        path = self.directory / name
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts a peer, with its environment."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Peer(ABC):
    """A measured server. Plain peers proxy requests; identity peers also authorize them and identify the caller."""

    name: ClassVar[str]
    title: ClassVar[str]
    does: ClassVar[str]
    """A description of its work per request, for the report."""
    identity: ClassVar[bool] = False
    proxies: ClassVar[bool] = True
    slow: ClassVar[bool] = False
    """Under a thousand requests per second. Gets a longer window, so that enough requests are counted."""
    quick: ClassVar[bool] = False
    """Part of the quick comparison."""
    traffic: ClassVar[Sequence[str]] = ("varying",)
    """The kinds of traffic (bench.traffic) with which the peer is measured."""

    def missing(self) -> str | None:
        """The missing program or package, or None if the peer can run."""
        return None

    @abstractmethod
    def version(self) -> str:
        """The version reported by the program."""

    @abstractmethod
    def launch(self, place: Place) -> Launch:
        """Write the configuration into the place; returns the start command."""

    def ready(self, place: Place) -> bool:
        """Whether the peer is ready for requests once its port accepts connections. Most are."""
        return True

    def credential(self, place: Place) -> str:
        """A bearer token with the role `user` and without `auditor`."""
        return place.signer.token(roles=["user"])
