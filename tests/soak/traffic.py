"""Clients of the soak test: the test measures the good ones, and hostile ones try to make the gateway grow or wait."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Final

from tests.fuzz.request_grammar import RequestGrammar
from tests.soak.settings import PACE
from tests.support.load import Answered, AsyncCaller, Lost
from tests.support.processes import PASSWORD, Account
from tests.support.raw import Address
from tests.support.websockets import encode, handshake, text
from tests.support.wording import bearer, chunked, request

_LONG: Final = b"X-Long: " + b"x" * 31_000
_JSON: Final = "Content-Type: application/json"


class Traffic:
    """State of all clients. `waits` holds the seconds that good requests took since the last `take_waits`."""

    def __init__(self, address: Address, account: Account) -> None:
        self.address = address
        self.account = account
        self.random = Random(1)
        self.good = 0
        self.failed: Counter[str] = Counter()
        self.waits: list[float] = []
        self.stopping = asyncio.Event()
        self._numbers = 0

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def take_waits(self) -> list[float]:
        waits, self.waits = self.waits, []
        return waits

    async def run(self, action: "Action") -> None:
        """Repeat an action until the end. Hostile clients expect no response, so their losses are no failures."""
        while not self.stopping.is_set():
            with contextlib.suppress(Lost, OSError, asyncio.IncompleteReadError, TimeoutError):
                await action(self)
            await asyncio.sleep(PACE * self.random.uniform(0.5, 1.5))

    async def expect(self, caller: AsyncCaller, data: bytes, expected: int = 200, *, timed: bool = False) -> Answered:
        """Send a good request, which must get the expected status. Raises Lost."""
        self.good += 1
        name = data.split(b" ", 2)[1].decode("latin-1")
        name = "/".join(name.split("/")[:3])
        try:
            answered = await caller.ask(data)
        except Lost as lost:
            self.failed[f"{name}: {lost.stage}"] += 1
            raise
        if answered.status != expected:
            code = answered.json()["code"] if b"application/problem+json" in answered.head else ""
            self.failed[f"{name}: {answered.status} {code}"] += 1
        elif timed:
            self.waits.append(answered.seconds)
        return answered

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[AsyncCaller]:
        caller = AsyncCaller(self.address, timeout=10)
        try:
            yield caller
        finally:
            caller.close()


Action = Callable[[Traffic], Awaitable[None]]

# ---- good clients


async def repeating(traffic: Traffic) -> None:
    """Send the same head repeatedly on one connection."""
    async with traffic.caller() as caller:
        for _ in range(20):
            await traffic.expect(caller, request("/web/x", fields=["Accept: */*", "X-A: 1"]), timed=True)
            await asyncio.sleep(PACE / 4)


async def varying(traffic: Traffic) -> None:
    """Send a different head on a new connection each time."""
    async with traffic.caller() as caller:
        number = traffic.number()
        fields = [f"X-{number}: {number}", "User-Agent: " + "u" * (number % 700), f"Cookie: id={number}"]
        await traffic.expect(caller, request(f"/web/{number}?q={number}", fields=fields), timed=True)


async def signed(traffic: Traffic) -> None:
    """Send a token."""
    async with traffic.caller() as caller:
        for _ in range(5):
            await traffic.expect(caller, request("/signed/x", fields=[traffic.account.line]), timed=True)


async def uploading(traffic: Traffic) -> None:
    async with traffic.caller() as caller:
        await traffic.expect(caller, request("/web/upload", method="POST", body=b"x" * 100_000))
        head = request("/web/upload", method="POST", fields=["Transfer-Encoding: chunked"])
        await traffic.expect(caller, head + chunked(*[b"y" * 999] * 50))


async def downloading(traffic: Traffic) -> None:
    async with traffic.caller() as caller:
        await traffic.expect(caller, request("/web/large"))


async def streaming(traffic: Traffic) -> None:
    """Read an event stream to its end."""
    async with traffic.caller() as caller:
        await traffic.expect(caller, request("/streams/events"))


async def talking(traffic: Traffic) -> None:
    """Send messages on a WebSocket and receive their echo."""
    async with traffic.caller() as caller:
        await caller.send(handshake("/live/x"))
        received = await caller.next_piece()
        for _ in range(5):
            await caller.send(encode(text("hello"), masked=True))
            received += await caller.next_piece()
            await asyncio.sleep(PACE)
        traffic.good += 1
        if not received.startswith(b"HTTP/1.1 101 ") or received.count(b"hello") != 5:
            traffic.failed["/live/x"] += 1


async def signing_in(traffic: Traffic) -> None:
    """Log in, read the own account, refresh, log out."""
    login = b'{"email": "%b", "password": "%b"}' % (traffic.account.email.encode(), PASSWORD.encode())
    async with traffic.caller() as caller:
        tokens = await _tokens(traffic, caller, "/auth/login", login)
        await traffic.expect(caller, request("/auth/me", fields=[bearer(tokens["access_token"])]))
        refresh = b'{"refresh_token": "%b"}' % tokens["refresh_token"].encode()
        tokens = await _tokens(traffic, caller, "/auth/refresh", refresh)
        out = request("/auth/logout", method="POST", fields=[bearer(tokens["access_token"])], body=b"")
        await traffic.expect(caller, out, 204)


async def _tokens(traffic: Traffic, caller: AsyncCaller, path: str, body: bytes) -> dict[str, str]:
    answered = await traffic.expect(caller, request(path, method="POST", fields=[_JSON], body=body))
    if answered.status != 200:
        raise Lost("body", ValueError(answered.status))
    tokens: dict[str, str] = answered.json()
    return tokens


# ---- hostile clients


async def refused_with_long_heads(traffic: Traffic) -> None:
    """Send heads of 31 KB that are refused for several reasons, on connections that close."""
    for target in ("/nowhere", "/signed/x", "/admin/x", "/web/../x"):
        async with traffic.caller() as caller:
            await caller.ask(request(target, fields=[_LONG, f"X-{traffic.number()}: 1"]))


async def long_heads(traffic: Traffic) -> None:
    """Send allowed heads of 31 KB with unique field names, on connections that close."""
    async with traffic.caller() as caller:
        name = f"X-{traffic.number()}-" + "n" * 30_000
        await caller.ask(request("/web/x", fields=[f"{name}: 1", "Connection: close"]))


async def garbage(traffic: Traffic) -> None:
    """Send a stream of the request fuzzer."""
    async with traffic.caller() as caller:
        await caller.send(RequestGrammar(Random(traffic.number())).stream())
        async with asyncio.timeout(0.5):
            while await caller.next_piece():
                pass


async def odd_responses(traffic: Traffic) -> None:
    """Request an upstream that sends responses of the response fuzzer."""
    async with traffic.caller() as caller:
        await caller.ask(request("/odd/x"))


async def dead_targets(traffic: Traffic) -> None:
    async with traffic.caller() as caller:
        await caller.ask(request("/dead/x"))


async def slow_heads(traffic: Traffic) -> None:
    await _dripping(traffic, b"GET /web/x HTTP/1.1\r\nHost: gateway.test\r\nX-A: ")


async def slow_bodies(traffic: Traffic) -> None:
    await _dripping(traffic, request("/web/x", method="POST", fields=["Content-Length: 1000"]))


async def _dripping(traffic: Traffic, begun: bytes) -> None:
    async with traffic.caller() as caller:
        await caller.send(begun)
        for _ in range(10):
            await caller.send(b"x")
            await asyncio.sleep(0.3)


async def long_trailers(traffic: Traffic) -> None:
    """Send a chunk extension, and trailers, beyond every limit."""
    head = request("/web/x", method="POST", fields=["Transfer-Encoding: chunked"])
    for flood in (b"5;" + b"a" * 100_000, b"0\r\n" + b"a:b\r\n" * 20_000):
        async with traffic.caller() as caller:
            await caller.ask(head + flood)


async def aborted_uploads(traffic: Traffic) -> None:
    caller = AsyncCaller(traffic.address)
    await caller.send(request("/web/x", method="POST", fields=["Content-Length: 1000000"]) + b"x" * 100_000)
    await asyncio.sleep(PACE)
    caller.reset()


async def aborted_downloads(traffic: Traffic) -> None:
    caller = AsyncCaller(traffic.address)
    await caller.send(request("/web/large"))
    await caller.next_piece()
    caller.reset()


async def left_streams(traffic: Traffic) -> None:
    caller = AsyncCaller(traffic.address)
    await caller.send(request("/streams/events"))
    await caller.next_piece()
    caller.reset()


async def wrong_passwords(traffic: Traffic) -> None:
    body = b'{"email": "nobody-%d@example.com", "password": "wrong password"}' % traffic.number()
    async with traffic.caller() as caller:
        await caller.ask(request("/auth/login", method="POST", fields=[_JSON], body=body))


GOOD: Final[tuple[Action, ...]] = (
    repeating,
    repeating,
    varying,
    varying,
    signed,
    uploading,
    downloading,
    streaming,
    talking,
    signing_in,
)
HOSTILE: Final[tuple[Action, ...]] = (
    refused_with_long_heads,
    refused_with_long_heads,
    long_heads,
    garbage,
    garbage,
    odd_responses,
    dead_targets,
    slow_heads,
    slow_heads,
    slow_bodies,
    slow_bodies,
    long_trailers,
    aborted_uploads,
    aborted_downloads,
    left_streams,
    wrong_passwords,
)
