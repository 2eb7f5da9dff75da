"""What the harness asks of a peer, and what it gives it."""

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
    """Where one peer runs: its own folder and port, the upstream's port, and the tokens it shall accept."""

    directory: Path
    port: int
    upstream_port: int
    signer: Signer

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def write(self, name: str, text: str) -> Path:
        """A file in the peer's folder."""
        path = self.directory / name
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a peer."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Peer(ABC):
    """One thing to measure. Plain peers pass requests on; identity peers decide who may and say who it is."""

    name: ClassVar[str]
    title: ClassVar[str]
    does: ClassVar[str]
    """What it does for each request, in the words of the report."""
    identity: ClassVar[bool] = False
    proxies: ClassVar[bool] = True
    slow: ClassVar[bool] = False
    """Under a thousand requests a second: gets a longer window, so that enough of them are counted."""
    quick: ClassVar[bool] = False
    """Part of the quick comparison."""

    def missing(self) -> str | None:
        """What is not installed, or None when the peer can run."""
        return None

    @abstractmethod
    def version(self) -> str:
        """The version as the program tells it."""

    @abstractmethod
    def launch(self, place: Place) -> Launch:
        """Write the configuration into the place and say how to start."""

    def ready(self, place: Place) -> bool:
        """Whether the peer, whose port accepts, is ready to be asked; most are."""
        return True

    def credential(self, place: Place) -> str:
        """The bearer token of a caller with the role `user` and without `auditor`."""
        return place.signer.token(roles=["user"])
