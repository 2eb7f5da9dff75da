"""Every kind of upstream in the standard configuration, working and broken, as fixtures."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import trustme

from tests.support.recording import RecordingUpstream


class FullBacklog:
    """An address that neither accepts nor refuses: its queue is full, so a connection attempt gets no answer."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._fillers = [socket.socket(family) for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._listener.getsockname())

    def close(self) -> None:
        for held in (self._listener, *self._fillers):
            held.close()


class Refusing:
    """An address that refuses connections: the port is reserved, but does not listen."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


class Authority:
    """A certificate authority for upstreams with TLS. `file` contains its certificate as PEM."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def server_file(self, *names: str) -> Path:
        """A PEM file with the key and the certificate of a server with these names."""
        path = self._folder / f"{names[0]}.pem"
        self._authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def context(self, *names: str) -> ssl.SSLContext:
        """The TLS context of a server with these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Every kind of upstream in the standard configuration."""

    web: RecordingUpstream
    secure: RecordingUpstream
    full_backlog: FullBacklog
    refusing: Refusing
    authority: Authority

    @classmethod
    def start(cls, folder: Path) -> Self:
        authority = Authority(folder)
        secure = RecordingUpstream(authority.context("orders.internal", "127.0.0.1"))
        return cls(RecordingUpstream(), secure, FullBacklog(), Refusing(), authority)

    def stop(self) -> None:
        for server in (self.web, self.secure):
            server.stop()
        self.full_backlog.close()
        self.refusing.close()


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstreams]:
    """The upstreams of every session-wide gateway."""
    started = Upstreams.start(tmp_path_factory.mktemp("upstreams"))
    yield started
    started.stop()


@pytest.fixture
def upstream(upstreams: Upstreams) -> RecordingUpstream:
    """The plain recording upstream, without recorded requests or scripts."""
    # A request that a stock server refuses within its body has already been forwarded: it can arrive after the end of
    # the test that sent it.
    upstreams.web.settle()
    upstreams.web.forget()
    upstreams.secure.forget()
    return upstreams.web
