"""Every way in which a browser session ends reaches both replicas within 100 ms, and its streams within a second.

A whole run tries each way 60 times and measures. Otherwise each is tried twice, and by commands once.
"""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import pytest

from tests.api.pages.visitors import Visitor
from tests.journeys.deployments import Deployment, Replicated, replicated
from tests.support.browsers import OWN_PAGE, SETTINGS, Browser
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.scripts import response
from tests.support.websockets import Socket, echoing
from tests.support.wording import request

TRIALS: Final = 60 if WHOLE else 2
# In seconds. By default many tests share the processor.
REFUSED_AFTER: Final = 0.1 if WHOLE else 3.0
CLOSED_AFTER: Final = 1.3 if WHOLE else 5.0
PER_ACCOUNT: Final = 3
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
ANOTHER: Final = "another good password"
KEY: Final = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@pytest.fixture(scope="module")
def running(gateways: Gateways, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    folder: Path = tmp_path_factory.mktemp("ends")
    sections: dict[str, dict[str, object]] = {
        "server": SETTINGS["server"],
        "sessions": {"per_account": PER_ACCOUNT},
        "accounts": {"pages": {}, "password": {"bcrypt_rounds": 4}},
        "mail": {"from": "no-reply@gateway.test", "folder": str(folder / "mail")},
        "storage": {"encryption_keys": [{"id": "e1", "key": KEY}]},
    }
    with replicated(gateways, folder, **sections) as started:
        yield started


async def events(exchange: Exchange) -> None:
    """An event stream without an end."""
    await exchange.body()
    fields = ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
    await exchange.send(response(200, fields, None) + b"9\r\ndata: 1\n\n\r\n")
    await exchange.left()


class Sessions(NamedTuple):
    """One account with a browser session, and with a session by token from elsewhere."""

    deployment: Deployment
    administrator: Account
    account: Account
    browser: Browser

    @property
    def second(self) -> Gateway:
        return self.deployment.second

    def send(self, method: str, path: str, line: bytes, body: str = "") -> None:
        """Send a request that must succeed to the second replica."""
        lines: list[str | bytes] = [line, *(["Content-Type: application/json"] if body else [])]
        answer = self.second.ask(request(path, method=method, fields=lines, body=body.encode() or None), timeout=15)
        assert answer.status in (200, 204), answer.body

    def by_administrator(self, method: str, path: str = "", body: str = "") -> None:
        self.send(method, f"/auth/users/{self.account.id}{path}", self.administrator.line, body)


def signed_out(to: Sessions) -> None:
    assert to.browser.at(to.second).sign_out().status == 204


def signed_out_on_the_page(to: Sessions) -> None:
    assert Visitor(to.second, to.browser.cookie).submit("/account/sign-out").status == 303


def ended_on_the_account_page(to: Sessions) -> None:
    other = Visitor(to.second).enter(to.account.email)
    answer = other.submit("/account", action="end-session", id=to.browser.session()["id"])
    assert answer.status == 303


def ended_elsewhere(to: Sessions) -> None:
    to.send("DELETE", f"/auth/sessions/{to.browser.session()['id']}", to.account.line)


def ended_everywhere(to: Sessions) -> None:
    to.send("POST", "/auth/logout-all", to.account.line)


def another_password(to: Sessions) -> None:
    to.send(
        "POST", "/auth/password", to.account.line, f'{{"current_password":"{PASSWORD}","new_password":"{ANOTHER}"}}'
    )


def reset(to: Sessions) -> None:
    printed = to.second.command("users", "reset", to.account.email, "--print-link").stdout
    token = re.findall(r"\?token=(\S+)", printed)[0]
    answer = to.second.post("/auth/password/reset", {"token": token, "new_password": ANOTHER})
    assert answer.status == 204, answer.body


def another_sign_in(to: Sessions) -> None:
    to.browser.at(to.second).sign_in(to.account.email)


def surplus(to: Sessions) -> None:
    for _ in range(PER_ACCOUNT):
        Browser(to.second).sign_in(to.account.email)


def command(name: str) -> Callable[[Sessions], None]:
    def run(to: Sessions) -> None:
        to.deployment.command("users", name, to.account.email)

    return run


WAYS: Final[dict[str, Callable[[Sessions], None]]] = {
    "signed out": signed_out,
    "signed out on the page": signed_out_on_the_page,
    "another sign-in of the browser": another_sign_in,
    "ended elsewhere": ended_elsewhere,
    "ended on the account page": ended_on_the_account_page,
    "ended everywhere": ended_everywhere,
    "another password": another_password,
    "a reset": reset,
    "more sessions than allowed": surplus,
    "disabled": lambda to: to.by_administrator("PATCH", body='{"is_active":false}'),
    "deleted": lambda to: to.by_administrator("DELETE"),
    "revoked": lambda to: to.by_administrator("POST", "/revoke"),
    "disabled by command": command("disable"),
    "deleted by command": command("delete"),
    "revoked by command": command("revoke"),
}


@pytest.fixture(scope="module")
def administrator(running: Replicated) -> Account:
    made = running.deployment.first.newcomer()
    running.deployment.command("users", "set-roles", made.email, "admin")
    return running.deployment.first.login(made.email)


def begun(running: Replicated, administrator: Account) -> Sessions:
    first = running.deployment.first
    account, browser = first.newcomer(), Browser(first)
    browser.sign_in(account.email)
    return Sessions(running.deployment, administrator, account, browser)


def seconds_until_refused(to: Sessions) -> list[float]:
    """How long each replica accepts the cookie after now."""
    since, times = time.monotonic(), []
    asked = request("/api/x", fields=[to.browser.line])
    for gateway in to.deployment.all:
        with gateway.caller() as caller:
            while caller.send(asked).receive().status == 200:
                assert time.monotonic() - since < 20.0, f"still accepted ({gateway.face})"
                time.sleep(0.005)
            times.append(time.monotonic() - since)
            assert caller.send(asked).receive().status == 401
    return times


class Streams:
    """A WebSocket and an event stream of one session on each replica. A thread for each notes its end."""

    def __init__(self, to: Sessions, stack: ExitStack) -> None:
        self.to = to
        self.since = 0.0
        self._ends: queue.Queue[tuple[float, object]] = queue.Queue()
        for gateway in to.deployment.all:
            socket = stack.enter_context(Socket(gateway, "/sockets/x", to.browser.line, OWN_PAGE))
            stream = stack.enter_context(gateway.caller(timeout=300.0))
            assert stream.send(request("/api/events", fields=[to.browser.line])).receive_head().status == 200
            threading.Thread(target=self._note, args=(lambda socket=socket: socket.closed(within=300.0)[0],)).start()
            threading.Thread(target=self._note, args=(lambda stream=stream: stream.read_until(LAST_CHUNK),)).start()

    def _note(self, wait: Callable[[], object]) -> None:
        try:
            outcome = wait()
        except Exception as error:
            outcome = error
        self._ends.put((time.monotonic(), outcome))

    def seconds_until_closed(self) -> float:
        """The time from `since` to the last end."""
        ends = [self._ends.get(timeout=30.0) for _ in range(2 * len(self.to.deployment.all))]
        outcomes = [outcome for _, outcome in ends if not isinstance(outcome, bytes)]
        assert outcomes == [1008] * len(self.to.deployment.all)
        return max(at for at, _ in ends) - self.since


@pytest.mark.parametrize("way", WAYS)
def test_the_end_reaches_both_replicas_and_their_streams(
    running: Replicated, administrator: Account, upstream: RecordingUpstream, way: str
) -> None:
    upstream.on("/sockets/x", echoing())
    upstream.on("/api/events", events)
    refused: list[float] = []
    by_command = way.endswith("by command") or way == "a reset"  # These wait for a process to start.
    with ExitStack() as stack:
        open_streams = [
            Streams(begun(running, administrator), stack) for _ in range(1 if by_command and not WHOLE else TRIALS)
        ]
        for streams in open_streams:
            WAYS[way](streams.to)
            streams.since = time.monotonic()
            refused += seconds_until_refused(streams.to)
        closed = [streams.seconds_until_closed() for streams in open_streams]
    print(f"{way}: refused after {median(refused):.3f} s, at most {max(refused):.3f} s; streams {max(closed):.2f} s")
    assert median(refused) < REFUSED_AFTER and max(refused) < 10 * REFUSED_AFTER
    assert median(closed) < CLOSED_AFTER and max(closed) < 2 * CLOSED_AFTER


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_redis_an_ended_session_stays_ended(running: Replicated, administrator: Account, how: str) -> None:
    running.mend()
    sessions = [begun(running, administrator) for _ in range(2)]
    for to in sessions:
        for gateway in running.deployment.all:
            assert to.browser.at(gateway).get("/api/x").status == 200
    running.valkey.kill() if how == "killed" else running.valkey.pause()
    try:
        signed_out(sessions[0])
        before = sessions[1].browser.at(running.deployment.first)
        assert sessions[1].browser.post("/auth/session/confirm", {"password": PASSWORD}).status == 200
        for gateway in running.deployment.all:
            assert sessions[0].browser.at(gateway).get("/api/x").refused() == (401, "token_revoked")
            assert sessions[1].browser.at(gateway).get("/api/x").status == 200
            assert before.at(gateway).get("/api/x").status == 200, "requests on their way"
    finally:
        running.valkey.start() if how == "killed" else running.valkey.resume()
    running.mend()
    for gateway in running.deployment.all:
        assert sessions[0].browser.at(gateway).get("/api/x").refused() == (401, "token_revoked")
        assert sessions[1].browser.at(gateway).get("/api/x").status == 200
