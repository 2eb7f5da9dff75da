"""WebSockets and event streams end when their caller loses access: WebSockets with 1008, event streams with an end.

Within a second, on every replica; without Redis a command's change is visible after `cache.user_ttl`.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.journeys.conftest import USER_TTL
from tests.journeys.deployments import Deployment, Replicated
from tests.support.gateways import Gateways
from tests.support.processes import Account, Face
from tests.support.raw import Caller
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scripts import response
from tests.support.token_factory import TokenFactory, claims_of
from tests.support.waiting import eventually, promised
from tests.support.websockets import Socket, close, echoing, text
from tests.support.wording import request

WITHIN = promised(1.0)  # In seconds.

Change = Callable[[Deployment, Account], float]


# ---- ways to lose access


def _post(path: str) -> Change:
    def change(deployment: Deployment, account: Account) -> float:
        assert deployment.first.post(path, b"", account.line).status == 204
        return time.monotonic()

    return change


def _from_another_session(path: str, **body: str) -> Change:
    def change(deployment: Deployment, account: Account) -> float:
        other = deployment.second.login(account.email)
        assert deployment.second.post(path, body or b"", other.line).status == 204
        return time.monotonic()

    return change


def _removed(deployment: Deployment, account: Account) -> float:
    other = deployment.second.login(account.email)
    path = f"/auth/sessions/{claims_of(account.token)['sid']}"
    assert deployment.second.ask(request(path, method="DELETE", fields=[other.line])).status == 204
    return time.monotonic()


def _command(*words: str, input: str | None = None) -> Change:
    def change(deployment: Deployment, account: Account) -> float:
        command = [account.email if word == "EMAIL" else word for word in words]
        return deployment.command(*command, input=input)

    return change


PASSWORD = "another good password"
REVOCATIONS: dict[str, tuple[Change, str]] = {
    "logout": (_post("/auth/logout"), "token_revoked"),
    "logout everywhere": (_from_another_session("/auth/logout-all"), "token_revoked"),
    "session removed": (_removed, "token_revoked"),
    "another password": (
        _from_another_session("/auth/password", current_password="correct horse battery", new_password=PASSWORD),
        "token_revoked",
    ),
    "a password set": (
        _command("users", "set-password", "EMAIL", "--password-stdin", input=PASSWORD + "\n"),
        "token_revoked",
    ),
    "disabled": (_command("users", "disable", "EMAIL"), "user_inactive"),
    "deleted": (_command("users", "delete", "EMAIL"), "user_inactive"),
    "another role": (_command("users", "set-roles", "EMAIL", "user"), "forbidden"),
}

BY_COMMAND = ("a password set", "disabled", "deleted", "another role")


# ---- streams


@dataclass
class Stream:
    """An event stream that is being read: `events` grows, `ended` is the monotonic time of its end."""

    caller: Caller
    events: bytes = b""
    whole: bool = False
    ended: float | None = None

    def read(self) -> None:
        head = self.caller.receive_head()
        assert head.status == 200, head
        self.caller.socket.settimeout(60)

        def take(data: bytes) -> None:
            self.events += data

        with contextlib.suppress(OSError):  # the test is over
            _, self.whole, _, _ = self.caller.receive_body(head, take)
            self.ended = time.monotonic()


def ticking(exchange_every: float = 0.05) -> Callable[[Exchange], object]:
    """A script for an endless event stream."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(response(200, ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"], None))
        number = 0
        while True:
            event = b"data: %d\n\n" % number
            await exchange.send(b"%x\r\n%b\r\n" % (len(event), event))
            await asyncio.sleep(exchange_every)
            number += 1

    return script


class LongConnections:
    """A WebSocket and an event stream of one account on every gateway of a deployment."""

    def __init__(self, deployment: Deployment, account: Account, prefixes: tuple[str, str]) -> None:
        sockets, streams = prefixes
        self._stack = ExitStack()
        self.sockets: list[Socket] = []
        self.streams: list[Stream] = []
        for gateway in deployment.all:
            self.sockets.append(self._stack.enter_context(Socket(gateway, sockets + "/lasting", account.line)))
            caller = self._stack.enter_context(gateway.caller())
            caller.send(request(streams + "/lasting", fields=[account.line]))
            stream = Stream(caller)
            self.streams.append(stream)
            threading.Thread(target=stream.read, daemon=True).start()

    def __enter__(self) -> "LongConnections":
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Everything is alive."""
        for socket in self.sockets:
            assert socket.say(text("alive")).frame().payload == b"alive"
        for stream in self.streams:
            before = len(stream.events)
            eventually(lambda stream, before: len(stream.events) > before, stream, before)

    def over(self, since: float, within: float, code: int, reason: str) -> None:
        """Everything ends within that time after `since`."""
        for socket in self.sockets:
            assert socket.closed(within=max(0.1, since + within - time.monotonic())) == (code, reason)
            assert socket.say(close(code)).ended(within=promised(1.5))[1] == b""
        for stream in self.streams:
            ended = eventually(lambda stream: stream.ended, stream, timeout=max(0.1, since + within - time.monotonic()))
            assert ended is not None and ended - since < within
            assert stream.whole, "a stream that ends because its caller may not stay ends properly"


@pytest.fixture
def scripted(upstream: RecordingUpstream) -> RecordingUpstream:
    for sockets, streams in PLACES.values():
        upstream.on(sockets + "/lasting", echoing())
        upstream.on(streams + "/lasting", ticking())  # type: ignore[arg-type]
    return upstream


PLACES = {"user": ("/sockets", "/api"), "editor": ("/sockets-of-editors", "/editors")}


@pytest.mark.parametrize("revocation", REVOCATIONS)
def test_it_ends_when_access_is_taken_away(
    deployment: Deployment, scripted: RecordingUpstream, revocation: str
) -> None:
    change, reason = REVOCATIONS[revocation]
    account, bystander = deployment.first.newcomer(), deployment.first.newcomer()
    place = PLACES["user"]
    if revocation == "another role":
        place = PLACES["editor"]
        deployment.command("users", "set-roles", account.email, "editor")
        for gateway in deployment.all:
            eventually(lambda gateway: gateway.get("/editors/x", account.line).status == 200, gateway)
    with (
        LongConnections(deployment, account, place) as connections,
        LongConnections(deployment, bystander, PLACES["user"]) as others,
    ):
        since = change(deployment, account)
        delay = deployment.propagation if revocation in BY_COMMAND else 0.0
        connections.over(since, delay + WITHIN, 1008, reason)
        others.check()
    eventually(lambda: all(received.link.ended for received in scripted.requests if b"lasting" in received.target))


def test_it_ends_when_the_token_expires(
    gateways: Gateways, face: Face, scripted: RecordingUpstream, token_factory: TokenFactory
) -> None:
    """The leeway for clock differences applies as for requests; this gateway has none."""
    gateway = gateways.gateway("punctual", face, tokens={"leeway": "0s"})
    deployment = Deployment(gateway, gateway, propagation=0.0)
    account = gateway.newcomer()
    expires = int(time.time()) + 2
    token = token_factory.good(account.token, exp=expires)
    brief = Account(account.id, account.email, token)
    with (
        LongConnections(deployment, brief, PLACES["user"]) as connections,
        LongConnections(deployment, account, PLACES["user"]) as others,
    ):
        since = time.monotonic() + expires - time.time()
        connections.over(since, WITHIN, 1008, "token_expired")
        assert time.time() >= expires, "not a moment too early"
        others.check()


def test_anonymous_callers_have_nothing_to_lose(deployment: Deployment, upstream: RecordingUpstream) -> None:
    """On an optional route an anonymous caller stays. A caller that became anonymous does not, because the upstream
    received an identity."""
    upstream.on("/sockets-of-some/x", echoing())
    account = deployment.first.newcomer()
    for gateway in deployment.all:
        with (
            Socket(gateway, "/sockets-of-some/x") as stranger,
            Socket(gateway, "/sockets-of-some/x", account.line) as somebody,
        ):
            assert deployment.first.post("/auth/logout", b"", account.line).status == 204
            assert somebody.closed(within=WITHIN + deployment.propagation)[0] == 1008
            assert stranger.say(text("still here")).frame().payload == b"still here"
        account = deployment.first.newcomer()


def test_stores_that_are_out_for_a_moment_end_nothing_and_for_long_everything(
    replicas: Replicated, scripted: RecordingUpstream
) -> None:
    """Access cannot be checked: a short outage is tolerated, ten seconds are not (1013: try again later)."""
    replicas.mend()
    deployment = replicas.deployment
    account = deployment.first.newcomer()
    with LongConnections(deployment, account, PLACES["user"]) as connections:
        _without_stores(replicas, USER_TTL + 1.0)
        replicas.mend()
        connections.check()
    with LongConnections(deployment, account, PLACES["user"]) as connections:
        replicas.postgres.stop()
        replicas.valkey.kill()
        try:
            since = time.monotonic()
            time.sleep(USER_TTL + 3.0)
            connections.check()
            connections.over(since, USER_TTL + 10.0 + 3.0, 1013, "storage_unavailable")
        finally:
            replicas.postgres.start()
            replicas.valkey.start()
    replicas.mend()


def _without_stores(replicas: Replicated, seconds: float) -> None:
    replicas.postgres.stop()
    replicas.valkey.kill()
    try:
        time.sleep(seconds)
    finally:
        replicas.postgres.start()
        replicas.valkey.start()
