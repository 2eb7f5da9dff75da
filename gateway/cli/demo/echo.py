"""An echo upstream: its response contains the request, which shows the headers set by the gateway.

`python -m gateway.cli.demo.echo --port 9000` runs it alone. It answers 200 to every method and path.
"""

import json
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import click
import uvicorn
from starlette.types import Receive, Scope, Send

# Larger bodies are counted but not echoed, because an echo has to buffer the whole body.
SHOWN_BODY: Final = 64 * 1024


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application. HTTP only; the servers below run it without lifespan and WebSocket."""
    shown, length = await _read_body(receive)
    seen = {
        "method": scope["method"],
        "path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "headers": _by_name(scope["headers"]),
        "body": shown.decode("utf-8", "replace"),
        "body_bytes": length,
    }
    answer = json.dumps(seen, indent=2, ensure_ascii=False).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _read_body(receive: Receive) -> tuple[bytes, int]:
    """The first SHOWN_BODY bytes of the body, and its total length."""
    shown = bytearray()
    length = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        length += len(chunk)
        shown += chunk[: SHOWN_BODY - len(shown)]
        if not message.get("more_body", False):
            return bytes(shown), length


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str | list[str]]:
    """Headers as a JSON object; a repeated name has the list of its values."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _server() -> uvicorn.Server:
    config = uvicorn.Config(
        echo,
        lifespan="off",
        ws="none",
        # The gateway can run in the same process and owns the logging configuration.
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


@contextmanager
def echo_upstream() -> Iterator[str]:
    """Run the upstream in a thread on a free loopback port; yields its URL."""
    # Connections are accepted from here on: a client that connects before the thread runs waits and is not refused.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = _server()
        thread = threading.Thread(target=server.run, args=([listener],), name="echo upstream", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The IPv4 address to listen on.")
@click.option("--port", default=9000, show_default=True, help="The port to listen on; 0 for a free one.")
def main(host: str, port: int) -> None:
    """Run an upstream that echoes its requests."""
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with listener:
        click.echo(f"echo upstream on http://{host}:{listener.getsockname()[1]}")
        sys.stdout.flush()
        _server().run([listener])


if __name__ == "__main__":
    main()
