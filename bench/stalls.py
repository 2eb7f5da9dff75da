"""`python -m bench.stalls`: the longest wait of a client while another client sends costly requests.

Clients in this process send a small request every 5 ms. Another process repeats one costly request, one at a time. No
wait may exceed 50 ms. The first line shows the waits without an attack, which include those that the machine causes.
"""

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.synchronize
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.sharedctypes import Synchronized
from typing import Final

import uvloop

from bench.latency import drive
from bench.memory.__main__ import FACES, gateway
from bench.memory.attacks import request
from bench.report import table
from bench.upstream import ANSWER

MOST_WAIT: Final = 50.0  # milliseconds
RATE: Final = 200  # small requests per second
BUFFER: Final = 256 * 1024
MARKS: Final = "\u0301" * 16_300 + "\u0327" * 16_300
CHUNKED: Final = b"Transfer-Encoding: chunked"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"


def login(path: str, **members: str) -> bytes:
    """A request of an account endpoint."""
    body = json.dumps(members, ensure_ascii=False).encode()
    fields = (b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    return request(path, *fields, method="POST", body=body)


def chunked(rest: bytes) -> bytes:
    """A chunked request that continues with `rest`."""
    return request("/open/x", CHUNKED, method="POST", body=rest)


# The requests of the attacking client.
ATTACKS: Final[Mapping[str, Callable[[], bytes]]] = {
    "none": lambda: b"",
    "password-of-marks": lambda: login("/auth/login", email="ann@example.com", password=MARKS),
    "address-of-marks": lambda: login("/auth/login", email=MARKS, password="x"),
    "registration-of-marks": lambda: login("/auth/register", email="ann@example.com", password=MARKS),
    "request-trailer-without-end": lambda: chunked(b"5\r\nhello\r\n0\r\nX-A: " + b"a" * 24_000_000),
    "request-trailers": lambda: chunked(b"5\r\nhello\r\n0\r\n" + b"a:b\r\n" * 400_000 + b"\r\n"),
    "chunk-extension": lambda: chunked(b"5;" + b"e" * 24_000_000 + b"\r\nhello\r\n0\r\n\r\n"),
    "response-trailers": lambda: request("/open/trailers"),
    "response-trailer-without-end": lambda: request("/open/endless"),
}
# The responses of the upstream by path, beside a plain one.
RESPONSES: Final[Mapping[bytes, bytes]] = {
    b"/open/trailers": HEAD + b"a:b\r\n" * 60_000 + b"\r\n",
    b"/open/endless": HEAD + b"X-A: " + b"a" * 52_000_000,
}


def serve_upstream(listener: socket.socket) -> None:
    """Answer each connection in its own thread."""
    while True:
        threading.Thread(target=_answer, args=(listener.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(BUFFER):
            if data[:4] in (b"GET ", b"POST"):  # the rest of an upload gets no response
                connection.sendall(RESPONSES.get(data.split(b" ", 2)[1], ANSWER))


def repeat(attack: str, port: int, stop: multiprocessing.synchronize.Event, count: "Synchronized[int]") -> None:
    """Send the request of an attack on new connections, one after the other."""
    sent = ATTACKS[attack]()
    while sent and not stop.is_set():
        count.value += 1
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            sender = threading.Thread(target=_send, args=(connection, sent))
            sender.start()
            connection.settimeout(0.5)
            with contextlib.suppress(OSError):
                while connection.recv(BUFFER):
                    pass
            connection.shutdown(socket.SHUT_RDWR)
            sender.join()


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


@contextlib.contextmanager
def attacked(attack: str, port: int) -> Iterator["Synchronized[int]"]:
    """Run the attack in another process. Yields the number of its requests."""
    context = multiprocessing.get_context("spawn")
    stop, count = context.Event(), context.Value("i")
    process = context.Process(target=repeat, args=(attack, port, stop, count), daemon=True)
    process.start()
    try:
        yield count
    finally:
        stop.set()
        process.join(10)
        process.kill()


def main() -> int:
    """Exit code 1 if a client waits too long."""
    parser = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__)
    parser.add_argument("attack", nargs="*", help=f"of: {' '.join(ATTACKS)}")
    parser.add_argument("--face", choices=FACES, default="serve")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each attack")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    upstream = context.Process(target=serve_upstream, args=(listener,), daemon=True)
    upstream.start()
    rows, is_good = [], True
    try:
        with gateway(options.face, None, listener.getsockname()[1]) as target:
            for attack in options.attack or ATTACKS:
                with attacked(attack, target.address[1]) as count:
                    time.sleep(0.5)
                    before, first = sum(target.running.cpu_seconds().values()), count.value
                    url = f"http://127.0.0.1:{target.address[1]}/open/x"
                    found = uvloop.run(drive(url, (), rate=RATE, seconds=options.seconds))
                    cpu = sum(target.running.cpu_seconds().values()) - before
                    requests = count.value - first
                figures = [found.p50, found.p99, found.longest]
                cost = f"{cpu * 1000 / requests:.1f}" if requests else ""
                rows.append([attack, f"{requests}", cost, *(f"{figure:.1f}" for figure in figures)])
                is_good = is_good and (attack == "none" or found.longest <= MOST_WAIT)
    finally:
        upstream.kill()
    print(table(["attack", "requests", "CPU each (ms)", "p50 (ms)", "p99 (ms)", "longest (ms)"], rows))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
