"""The upstream of all peers: nginx if installed, else a small asyncio server.

    python -m bench.upstream PORT

serves GET /api/items/… with 68 bytes of JSON, GET /api/inspect/… with the received request, GET /api/bulk/N with N
bytes, and counts the body of a POST to /api/bulk/…. The asyncio server also echoes WebSocket messages at /api/echo/…
and starts an event stream at /api/events/….
"""

import argparse
import asyncio
import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import cast

from bench.processes import Running, free_port, start, wait_for_port

BODY = b'{"id":42,"name":"A thing of some weight","price":12,"stock":"ample"}'
INSPECTED = {
    "id": "X-User-Id",
    "email": "X-User-Email",
    "roles": "X-User-Roles",
    "authorization": "Authorization",
    "request_id": "X-Request-Id",
    "forwarded_for": "X-Forwarded-For",
    "via": "Via",
}
HEAD_LIMIT = 64 * 1024
CHUNK = bytes(256 * 1024)
WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"7\r\ndata:1\n\r\n"

NGINX = """\
daemon off;
worker_processes 1;
pid %(directory)s/upstream.pid;
error_log %(directory)s/upstream.log error;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path %(directory)s;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    tcp_nodelay on;
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location /api/inspect/ { return 200 '%(inspection)s'; }
        location / { return 200 '%(body)s'; }
    }
}
"""


class Upstream:
    """A running upstream with its description."""

    def __init__(self, running: Running, port: int, description: str) -> None:
        self.running = running
        self.port = port
        self.description = description


def start_upstream(directory: Path, cpus: frozenset[int] | None, *, ours: bool = False) -> Upstream:
    """Start the fastest available upstream. `ours` selects the asyncio server."""
    port = free_port()
    nginx = None if ours else find_nginx()
    command = [sys.executable, "-m", "bench.upstream", str(port)]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    if nginx:
        configuration = directory / "upstream.conf"
        configuration.write_text(nginx_configuration(directory, port))
        command = [
            nginx,
            "-p",
            str(directory),
            "-e",
            str(directory / "upstream.log"),
            "-c",
            str(configuration),
        ]
    running = start(command, cpus=cpus, environment=environment, directory=directory, name=f"upstream-{port}")
    try:
        wait_for_port(running, port)
    except BaseException:
        running.stop()
        raise
    return Upstream(running, port, "nginx" if nginx else "bench.upstream (asyncio)")


def find_nginx() -> str | None:
    """The nginx program. Debian installs it in a folder outside of ordinary users' PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def nginx_configuration(directory: Path, port: int) -> str:
    """The configuration of an nginx that answers from memory."""
    inspection = json.dumps({key: f"$http_{name.lower().replace('-', '_')}" for key, name in INSPECTED.items()})
    return NGINX % {"directory": directory, "port": port, "inspection": inspection, "body": BODY.decode()}


def _head(size: int, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode()


ANSWER = _head(len(BODY)) + BODY


class Answers(asyncio.BufferedProtocol):
    """One keep-alive connection. Bodies pass through one buffer and are counted, not kept."""

    def __init__(self) -> None:
        self.buffer = bytearray(256 * 1024)
        self.view = memoryview(self.buffer)
        self.head = b""
        self.expected = 0
        self.received = 0
        self.to_send = 0
        self.echoes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=1024 * 1024)
        self.writable = True

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.echoes:
            self.head += bytes(self.view[:nbytes])
            self._echo()
            return
        if self.expected:
            nbytes = self._count(nbytes)
            if not nbytes:
                return
            self.head = bytes(self.view[-nbytes:])
        else:
            self.head += bytes(self.view[:nbytes])
        self._answer_heads()

    def _count(self, size: int) -> int:
        """Count body bytes. More than announced, which no client of the benchmark sends, closes the connection."""
        self.received += size
        if self.received >= self.expected:
            body = json.dumps({"received": self.received}).encode()
            self.transport.write(_head(len(body)) + body)
            if self.received > self.expected:
                self.transport.abort()
            self.expected = self.received = 0
        return 0

    def _answer_heads(self) -> None:
        while b"\r\n\r\n" in self.head:
            head, _, self.head = self.head.partition(b"\r\n\r\n")
            self._answer(head)
            if self.expected:
                rest, self.head = len(self.head), b""
                self._count(rest)
        if len(self.head) > HEAD_LIMIT:
            self.transport.abort()

    def _answer(self, head: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        if path.startswith(b"/api/items/"):
            self.transport.write(ANSWER)
        elif path.startswith(b"/api/inspect/"):
            body = json.dumps(inspection(head)).encode()
            self.transport.write(_head(len(body)) + body)
        elif path.startswith(b"/api/bulk/") and method == b"POST":
            self.expected = int(fields(head).get("content-length", "0"))
            if not self.expected:
                self.transport.write(ANSWER)
        elif path.startswith(b"/api/echo/"):
            key = fields(head).get("sec-websocket-key", "").encode()
            self.transport.write(_upgraded(key))
            self.echoes = True
        elif path.startswith(b"/api/events/"):
            self.transport.write(EVENT_STREAM + EVENT)
        elif path.startswith(b"/api/bulk/"):
            self.to_send = int(path.rpartition(b"/")[2])
            self.transport.write(_head(self.to_send, "application/octet-stream"))
            self._send_bulk()
        else:
            self.transport.write(ANSWER)

    def _echo(self) -> None:
        """Send back each complete frame unmasked. The frames of the benchmark are short and masked."""
        answers = []
        while len(self.head) >= 6 and len(self.head) >= (size := 6 + (self.head[1] & 0x7F)):
            mask, payload = self.head[2:6], self.head[6:size]
            stretched = (mask * (len(payload) // 4 + 1))[: len(payload)]
            plain = int.from_bytes(payload) ^ int.from_bytes(stretched)
            answers.append(bytes((self.head[0], len(payload))) + plain.to_bytes(len(payload)))
            self.head = self.head[size:]
        if answers:
            self.transport.write(b"".join(answers))

    def _send_bulk(self) -> None:
        while self.to_send and self.writable:
            size = min(self.to_send, len(CHUNK))
            self.to_send -= size
            self.transport.write(CHUNK if size == len(CHUNK) else CHUNK[:size])

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._send_bulk()


def _upgraded(key: bytes) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_KEY).digest())
    return b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + (
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def fields(head: bytes) -> dict[str, str]:
    """Header fields of a request head by lower-case name. Repeated ones are joined, so that checks see them."""
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        key = name.lower()
        found[key] = f"{found[key]}, {value.strip()}" if key in found else value.strip()
    return found


def inspection(head: bytes) -> dict[str, str]:
    """The fields of a received request that the checks need."""
    found = fields(head)
    return {key: found.get(name.lower(), "") for key, name in INSPECTED.items()}


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(options.port))
    else:
        uvloop.run(_serve(options.port))


if __name__ == "__main__":
    main()
