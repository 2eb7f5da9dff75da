"""The servers of the soak test: a gateway with one worker, which reloads, and upstreams of several kinds."""

import asyncio
import signal
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz.response_grammar import ResponseGrammar
from tests.support.configurations import NO_LOCKOUT
from tests.support.fleet import Fleet, Served
from tests.support.processes import Gateway
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.small import Upstream, small
from tests.support.upstreams import Refusing
from tests.support.websockets import echoing

LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 262144\r\n\r\n" + b"x" * 262144
_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b"d\r\ndata: event\n\n\r\n"


def answer(served: Served) -> None:
    """Send a large body for `/large`, and otherwise the size of the request body."""
    if served.target.endswith(b"/large"):
        served.send(LARGE)
        return
    size = b"%d" % len(served.body)
    served.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(size), size))


async def events(exchange: Exchange) -> None:
    """Send ten events, one every tenth of a second."""
    await exchange.body()
    await exchange.send(_EVENTS)
    for _ in range(10):
        await exchange.send(_EVENT)
        await asyncio.sleep(0.1)
    await exchange.send(b"0\r\n\r\n")


async def odd(exchange: Exchange) -> None:
    """Send a generated response. Half of them end the connection."""
    await exchange.body()
    number = next(_numbers)
    await exchange.send(ResponseGrammar(Random(number)).response())
    if number % 2:
        exchange.hang_up()


_numbers = count(1)


class Servers:
    """`gateway` has accounts, two targets that can restart, and upstreams that behave badly."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet("ab")
        self.fleet.behave(answer)
        self.streams = RecordingUpstream(default=events)
        self.streams.on("/live/x", echoing())
        self.odd = RecordingUpstream(default=odd)
        self.refusing = Refusing()
        self._reloads = count(1)
        self._configuration = self._written(folder)
        self.gateway = Gateway("serve", self._configuration, folder).start()

    def _written(self, folder: Path) -> dict[str, Any]:
        upstreams: dict[str, Upstream] = {
            "web": {"targets": self.fleet.urls},
            "streams": self.streams.url,
            "odd": {"targets": [self.odd.url], "response_timeout": "1s", "idle_timeout": "1s"},
            "dead": {"targets": [self.refusing.url, self.refusing.url.replace("127.0.0.1", "127.0.0.2")]},
        }
        routes: list[dict[str, Any]] = [
            {"path": "/signed/**", "upstream": "web"},
            {"path": "/admin/**", "roles": ["admin"], "upstream": "web"},
            {"path": "/live/**", "auth": "none", "websocket": True, "upstream": "streams"},
        ]
        return small(folder, upstreams, routes=routes, accounts={"lockout": NO_LOCKOUT})

    async def restart_target(self) -> None:
        """Stop one target for half a second."""
        await asyncio.to_thread(self.fleet["a"].down)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self.fleet["a"].up)

    def reload(self) -> None:
        """Change the configuration: add a route, or remove it."""
        routes = list(self._configuration["routes"])
        if next(self._reloads) % 2:
            routes.append({"path": "/more/**", "auth": "none", "upstream": "web"})
        text = yaml.safe_dump({**self._configuration, "routes": routes}, sort_keys=False)
        self.gateway.config.write_text(text, encoding="utf-8")
        self.gateway.signal(signal.SIGHUP)

    def forget(self) -> None:
        """Drop the requests that the recording upstreams keep for tests."""
        for upstream in (self.streams, self.odd):
            upstream.requests.clear()
            upstream.links.clear()

    def stop(self) -> None:
        self.gateway.kill()
        self.fleet.stop()
        self.streams.stop()
        self.odd.stop()
        self.refusing.close()
