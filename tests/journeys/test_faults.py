"""Stores fail during journeys: no access is granted wrongly, no data is lost, and no request waits without end."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.journeys.conftest import FAILURES
from tests.journeys.deployments import Replicated
from tests.journeys.test_outages import SERVED, UNAVAILABLE, both, called, promptly, stop_database, stop_redis
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.raw import Answer
from tests.support.waiting import eventually, promised
from tests.support.wording import request

__all__ = ["both"]

REVOKED = (401, "token_revoked")
INACTIVE = (401, "user_inactive")
LOCKED = (429, "locked_out")
ANOTHER = "another good password"


def administrator(replicas: Replicated) -> Account:
    email = f"chief-{secrets.token_hex(6)}@example.com"
    replicas.deployment.command("users", "create", email, "--role", "admin", "--password-stdin", input=PASSWORD + "\n")
    return replicas.deployment.first.login(email)


def tokens(gateway: Gateway, email: str, password: str = PASSWORD) -> dict[str, str]:
    answer = gateway.post("/auth/login", {"email": email, "password": password})
    assert answer.status == 200, answer
    found: dict[str, str] = answer.json()
    return found


def bearer_line(token: str) -> bytes:
    return b"Authorization: Bearer " + token.encode()


def change(gateway: Gateway, user_id: str, admin: Account, body: bytes) -> Answer:
    fields: list[str | bytes] = ["Content-Type: application/json", admin.line]
    return gateway.ask(request(f"/auth/users/{user_id}", method="PATCH", fields=fields, body=body), timeout=15)


def wrong(gateway: Gateway, email: str) -> tuple[int, str | None]:
    return promptly(lambda: gateway.post("/auth/login", {"email": email, "password": "wrong password"}))


# ---- Redis


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_redis_every_journey_goes_on_and_every_end_is_one(
    replicas: Replicated, both: tuple[Gateway, ...], how: str
) -> None:
    """Refresh, sessions, logout and administration use only the database."""
    first, second = both
    admin = administrator(replicas)
    one, all_of_it, disabled, demoted = (first.newcomer() for _ in range(4))
    second_session = tokens(second, one.email)
    replicas.deployment.command("users", "set-roles", demoted.email, "editor")
    for gateway in both:
        eventually(lambda gateway=gateway: gateway.get("/editors/x", demoted.line).status == 200)  # type: ignore[misc]
    restore = stop_redis(replicas, how)
    try:
        refreshed = second.post("/auth/refresh", {"refresh_token": second_session["refresh_token"]})
        assert refreshed.status == 200
        assert len(second.get("/auth/sessions", one.line).json()["sessions"]) == 2
        for ending, account in (("logout", one), ("logout-all", all_of_it)):
            assert promptly(lambda e=ending, a=account: first.post(f"/auth/{e}", b"", a.line)) == (204, None)  # type: ignore[misc]
            for gateway in both:
                # The other replica detects a hanging Redis within a second.
                eventually(lambda g=gateway, a=account: called(g, a) == REVOKED, timeout=promised(1.5))  # type: ignore[misc]
        assert change(first, disabled.id, admin, b'{"is_active": false}').status == 200
        assert change(second, demoted.id, admin, b'{"roles": ["user"]}').status == 200
        line = bearer_line(refreshed.json()["access_token"])
        for gateway in both:
            assert called(gateway, disabled) == INACTIVE
            assert promptly(lambda g=gateway: g.get("/editors/x", demoted.line)) == (403, "forbidden")  # type: ignore[misc]
            assert promptly(lambda g=gateway: g.get("/api/x", line)) == SERVED  # type: ignore[misc]
    finally:
        restore()
    replicas.mend()
    for gateway in both:
        assert called(gateway, one) == called(gateway, all_of_it) == REVOKED
        assert called(gateway, disabled) == INACTIVE
        assert gateway.get("/editors/x", demoted.line).refused() == (403, "forbidden")


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_redis_guesses_are_counted_by_each_replica_and_reported_later(
    replicas: Replicated, both: tuple[Gateway, ...], how: str
) -> None:
    first, second = both
    email = first.newcomer().email
    for _ in range(2):
        assert wrong(first, email)[0] == 401
    restore = stop_redis(replicas, how)
    try:
        seen = [wrong(first, email) for _ in range(FAILURES)]
        assert seen[: FAILURES - 2] == [(401, "invalid_credentials")] * (FAILURES - 2)
        assert seen[-2:] == [LOCKED] * 2, "it goes on from what it knew"
        assert wrong(second, email)[0] == 401, "the count of one replica locks no user out elsewhere"
    finally:
        restore()
    replicas.mend()
    for _ in range(2):
        assert wrong(first, email) == LOCKED
    # Until the second replica notices that Redis is back. Its own guesses are too few to lock the account.
    eventually(lambda: wrong(second, email) == LOCKED, timeout=4.0, every=1.0)
    replicas.deployment.command("users", "unlock", email)
    login = {"email": email, "password": PASSWORD}
    for gateway in both:
        eventually(lambda gateway=gateway: gateway.post("/auth/login", login).status == 200)  # type: ignore[misc]


# ---- PostgreSQL


@pytest.mark.parametrize("how", ["stopped", "killed", "paused"])
def test_without_the_database_nothing_is_granted_and_nothing_is_lost(
    replicas: Replicated, both: tuple[Gateway, ...], how: str
) -> None:
    """Failed writes are answered 503, and can be repeated afterwards."""
    first, second = both
    admin, account = administrator(replicas), first.newcomer()
    session = tokens(second, account.email)
    line = bearer_line(session["access_token"])
    newcomer = f"late-{secrets.token_hex(6)}@example.com"
    asked: dict[str, Callable[[], Answer]] = {
        "register": lambda: first.post("/auth/register", {"email": newcomer, "password": PASSWORD}),
        "login": lambda: second.post("/auth/login", {"email": account.email, "password": PASSWORD}),
        "guess": lambda: second.post("/auth/login", {"email": account.email, "password": "wrong password"}),
        "refresh": lambda: first.post("/auth/refresh", {"refresh_token": session["refresh_token"]}),
        "sessions": lambda: second.get("/auth/sessions", line),
        "password": lambda: first.post("/auth/password", {"current_password": PASSWORD, "new_password": ANOTHER}, line),
        "disable": lambda: change(second, account.id, admin, b'{"is_active": false}'),
        "logout": lambda: first.post("/auth/logout", b"", line),
    }
    restore = stop_database(replicas, how)
    try:
        for name, ask in asked.items():
            assert promptly(ask) == UNAVAILABLE, name
    finally:
        restore()
    replicas.mend()
    for gateway in both:
        assert gateway.get("/api/x", line).refused() == SERVED, "no user was logged out or disabled"
    assert asked["refresh"]().status == 200
    assert asked["register"]().status in (201, 400), "400 where only the answer was lost"
    assert tokens(second, newcomer) and tokens(first, account.email)
    assert asked["logout"]().status == 204
    for gateway in both:
        eventually(lambda gateway=gateway: gateway.get("/api/x", line).refused() == REVOKED)  # type: ignore[misc]


# ---- everything at once


@dataclass
class Seen:
    """The responses to the clients, and invariants afterwards."""

    accounts: dict[str, set[str]] = field(default_factory=dict)  # address: passwords, one of which must be correct
    ended: list[str] = field(default_factory=list)  # tokens of ended sessions
    odd: list[str] = field(default_factory=list)
    longest: float = 0.0
    journeys: int = 0


def travel(both: tuple[Gateway, ...], seen: Seen, stop: threading.Event) -> None:
    """Register, call, refresh, change the password and log out, repeatedly and on alternating replicas."""

    def attempt(name: str, good: int, work: Callable[[], Answer]) -> Answer | None:
        begun = time.monotonic()
        try:
            answer = work()
        except OSError as error:
            seen.odd.append(f"{name}: {error!r}")
            return None
        seen.longest = max(seen.longest, time.monotonic() - begun)
        if answer.status not in (good, 503):
            seen.odd.append(f"{name}: {answer.status} {answer.body!r}")
        return answer if answer.status == good else None

    def journey(here: Gateway, there: Gateway) -> None:
        email = f"traveller-{secrets.token_hex(8)}@example.com"
        body = {"email": email, "password": PASSWORD}
        registered = attempt("register", 201, lambda: here.post("/auth/register", body))
        if registered is None:
            return
        seen.accounts[email] = {PASSWORD}
        session = registered.json()
        line = bearer_line(session["access_token"])
        attempt("call", 200, lambda: there.get("/api/x", line))
        rotated = {"refresh_token": session["refresh_token"]}
        attempt("refresh", 200, lambda: there.post("/auth/refresh", rotated))
        passwords = {"current_password": PASSWORD, "new_password": ANOTHER}
        seen.accounts[email] = {PASSWORD, ANOTHER}
        if attempt("password", 204, lambda: here.post("/auth/password", passwords, line)):
            seen.accounts[email] = {ANOTHER}
        if attempt("logout", 204, lambda: there.post("/auth/logout", b"", line)):
            seen.ended.append(session["access_token"])
        seen.journeys += 1

    while not stop.wait(0.02):
        journey(*both)
        journey(*reversed(both))


def test_journeys_under_a_series_of_faults_lose_no_session(replicas: Replicated, both: tuple[Gateway, ...]) -> None:
    seen, stop = Seen(), threading.Event()
    travellers = [threading.Thread(target=travel, args=(both, seen, stop)) for _ in range(2)]
    for traveller in travellers:
        traveller.start()
    try:
        faults: list[Callable[[], Callable[[], object]]] = [
            lambda: stop_redis(replicas, "killed"),
            lambda: stop_redis(replicas, "paused"),
            lambda: stop_database(replicas, "killed"),
            lambda: stop_database(replicas, "paused"),
        ]
        for restore_of in faults:
            time.sleep(0.3)
            restore = restore_of()
            time.sleep(0.5)
            restore()
            replicas.mend()
    finally:
        time.sleep(0.3)
        stop.set()
        for traveller in travellers:
            traveller.join(30)
    assert seen.odd == []
    assert seen.journeys > 3 and seen.ended
    assert seen.longest < promised(4.0), "no request waits without end"
    for email, passwords in seen.accounts.items():
        answers = [both[0].post("/auth/login", {"email": email, "password": each}).status for each in passwords]
        assert answers.count(200) == 1, (email, answers)
    for token in seen.ended:
        for gateway in both:
            assert gateway.get("/api/x", bearer_line(token)).refused() == REVOKED
