"""Large bodies: 200 MB down and up through a proxy. Measures MB/s, CPU, and the growth of memory."""

import json
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.peers.peer import Peer
from bench.processes import MIB, BenchError, pinned
from bench.rounds import Environment, RunningPeer, Tell
from bench.traffic import caller_headers

CHUNK = 256 * 1024
SOCKET_SECONDS = 30.0
TRANSFER_SECONDS = 90.0
HEAD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transferred body: speed, CPU time, and growth of peak memory."""

    megabytes_per_second: float
    cpu_ms: float
    grown_mib: float


Move = Callable[[int, str, int], None]


def download(port: int, credential: str, size: int) -> None:
    """Download `size` bytes. Raises BenchError if the body is incomplete."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOCKET_SECONDS) as link:
        link.sendall(_head("GET", port, size, credential))
        head, rest = _read_head(link)
        if b"content-length: %d\r\n" % size not in head.lower() + b"\r\n":
            raise BenchError(f"the download began with {head[:300]!r}")
        _drain(link, size - len(rest))


def upload(port: int, credential: str, size: int) -> None:
    """Upload `size` bytes. Raises BenchError unless the upstream confirms all of them."""
    chunk, deadline = bytes(CHUNK), time.monotonic() + TRANSFER_SECONDS
    with socket.create_connection(("127.0.0.1", port), timeout=SOCKET_SECONDS) as link:
        link.sendall(_head("POST", port, size, credential))
        for begin in range(0, size, CHUNK):
            link.sendall(chunk[: min(CHUNK, size - begin)])
            if time.monotonic() > deadline:
                raise BenchError(f"the upload took more than {TRANSFER_SECONDS:g} s")
        head, body = _read_head(link)
        while b"}" not in body:
            body += _receive(link)
    if json.loads(body[body.index(b"{") : body.index(b"}") + 1]) != {"received": size}:
        raise BenchError(f"the upload of {size} bytes ended in {head[:100]!r} {body[:100]!r}")


def measure(environment: Environment, peers: Sequence[Peer], *, size: int, rounds: int, tell: Tell) -> dict[str, Any]:
    """Medians by peer and direction. Peers that fail are reported and left out."""
    found: dict[str, Any] = {}
    with environment.running_peers(peers, lambda peer, failure: tell(f"  {peer.name}: {failure}")) as running_peers:
        taken: dict[str, dict[str, list[Transfer]]] = {each.peer.name: {"down": [], "up": []} for each in running_peers}
        for _ in range(rounds):
            for running_peer in list(running_peers):
                try:
                    taken[running_peer.peer.name]["down"].append(_transfer(running_peer, download, size))
                    taken[running_peer.peer.name]["up"].append(_transfer(running_peer, upload, size))
                except (BenchError, OSError) as failure:
                    tell(f"  {running_peer.peer.name}: {failure}")
                    running_peers.remove(running_peer)
        for running_peer in running_peers:
            directions = taken[running_peer.peer.name]
            found[running_peer.peer.name] = {way: asdict(_middle(moved)) for way, moved in directions.items()}
    return found


def measure_pinned(
    environment: Environment, peers: Sequence[Peer], *, size: int, rounds: int, tell: Tell, cpus: frozenset[int] | None
) -> dict[str, object]:
    """Like `measure`, with this process, the client, on `cpus`."""
    with pinned(cpus):
        return measure(environment, peers, size=size, rounds=rounds, tell=tell)


def _transfer(running_peer: RunningPeer, move: Move, size: int) -> Transfer:
    running = running_peer.running
    held = _reset_peak(running.tree())
    before = sum(running.cpu_seconds().values())
    begun = time.perf_counter()
    move(running_peer.place.port, running_peer.credential, size)
    took = time.perf_counter() - begun
    cpu = sum(running.cpu_seconds().values()) - before
    grown = (_peak(running.tree()) - held) / MIB
    return Transfer(round(size / 1e6 / took, 1), round(cpu * 1e3, 1), round(max(grown, 0.0), 2))


def _middle(moved: Sequence[Transfer]) -> Transfer:
    return Transfer(
        median(each.megabytes_per_second for each in moved),
        median(each.cpu_ms for each in moved),
        max(each.grown_mib for each in moved),
    )


def _head(method: str, port: int, size: int, credential: str) -> bytes:
    lines = [f"{method} /api/bulk/{size} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in caller_headers(credential)]
    if method == "POST":
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {size}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _read_head(link: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(link)
        if len(data) > HEAD_LIMIT + CHUNK:
            raise BenchError("the head of the response does not end")
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"answered {head.splitlines()[0]!r}")
    return head, rest


def _receive(link: socket.socket) -> bytes:
    data = link.recv(CHUNK)
    if not data:
        raise BenchError("the connection was closed early")
    return data


def _drain(link: socket.socket, remaining: int) -> None:
    buffer, deadline = bytearray(CHUNK), time.monotonic() + TRANSFER_SECONDS
    while remaining > 0:
        size = link.recv_into(buffer, min(CHUNK, remaining))
        if not size or time.monotonic() > deadline:
            raise BenchError(f"the download stopped with {remaining} bytes to come")
        remaining -= size


def _reset_peak(pids: Sequence[int]) -> int:
    """Reset the peak in the kernel (Linux); returns the resident bytes."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(pids)


def _peak(pids: Sequence[int]) -> int:
    """Peak resident bytes of the processes since the last reset, 0 if unavailable."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total
