"""The listening socket at a stop: no new connection begins, and a handshake that has begun completes."""

import ctypes
import selectors
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from gateway.errors import CannotStart
from gateway.server.listener import listen, stop_accepting
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="packet filters of sockets are Linux's")

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROPS_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    try:
        listener = listen(request.param, 0)
    except CannotStart as error:  # a machine without IPv6
        pytest.skip(str(error))
    with listener:
        yield listener


@pytest.fixture
def client(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(listener.family) as client:
        client.setblocking(False)
        yield client


def test_a_handshake_that_has_begun_completes_after_the_stop(listener: socket.socket, client: socket.socket) -> None:
    """The client drops the second packet of the handshake, and takes the repetition of the kernel a second later."""
    program = struct.pack("HL", 1, ctypes.addressof(_DROPS_ALL))
    client.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    client.connect_ex(listener.getsockname())
    stop_accepting(listener)
    client.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    assert is_connected(client, within=5.0)
    client.send(b"request")
    connection = eventually(accepted, listener)
    assert connection is not None
    with connection:
        connection.settimeout(5)
        assert connection.recv(7) == b"request"


def test_a_connection_after_the_stop_gets_no_answer(listener: socket.socket, client: socket.socket) -> None:
    stop_accepting(listener)
    client.connect_ex(listener.getsockname())
    assert not is_connected(client, within=0.1)
    assert accepted(listener) is None


def is_connected(client: socket.socket, within: float) -> bool:
    """Whether the kernel reports the connection as established in this time."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_WRITE)
        return bool(selector.select(within)) and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def accepted(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None
