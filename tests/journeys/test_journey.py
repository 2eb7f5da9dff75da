"""From registration to API calls, and the end of access: on one process and on two replicas."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.deployments import Deployment
from tests.support.configurations import changed
from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Account, Face, Gateway
from tests.support.recording import Received, RecordingUpstream
from tests.support.upstreams import Refusing
from tests.support.waiting import promised, within
from tests.support.wording import request


def call(gateway: Gateway, upstream: RecordingUpstream, account: Account, path: str = "/api/x") -> Received:
    return passes(gateway, upstream, request(path, fields=[account.line]))


def refused(gateway: Gateway, account: Account, path: str = "/api/x") -> tuple[int, str | None]:
    return gateway.get(path, account.line).refused()


def soon(deployment: Deployment, since: float, seen: Callable[[Gateway], bool]) -> None:
    """The condition holds on every gateway within the promised time from `since`, and permanently."""
    for gateway in deployment.all:
        while not (now := seen(gateway)) and time.monotonic() - since < deployment.propagation:
            time.sleep(0.005)
        assert now, f"not seen {time.monotonic() - since:.3f} s after the change ({gateway.face})"
        assert seen(gateway)


def test_register_login_me_and_call(deployment: Deployment, upstream: RecordingUpstream) -> None:
    email = f"ada-{time.time_ns()}@example.com"
    registered = deployment.first.register(email)
    signed_in = deployment.second.login(email.upper())
    assert signed_in.id == registered.id
    assert signed_in.token != registered.token
    for gateway in deployment.all:
        for account in (registered, signed_in):
            me = gateway.get("/auth/me", account.line)
            assert me.status == 200
            user = me.json()
            own = {"email_verified", "has_password", "second_factors"}
            assert set(user) == {"id", "email", "is_active", "roles", "created_at"} | own
            assert (user["id"], user["email"], user["is_active"], user["roles"]) == (account.id, email, True, ["user"])
            received = call(gateway, upstream, account)
            assert received.values("x-user-id") == [account.id.encode()]
            assert received.values("x-user-email") == [email.encode()]
            assert received.values("x-user-roles") == [b"user"]
            assert refused(gateway, account, "/admin/x") == (403, "forbidden")
        taken = gateway.post("/auth/register", {"email": f" {email.upper()} ", "password": PASSWORD})
        assert taken.refused() == (400, "email_taken")


def test_tokens_are_valid_on_every_replica_and_no_longer_than_their_user(
    deployment: Deployment, upstream: RecordingUpstream
) -> None:
    answers = [gateway.get("/.well-known/jwks.json").json() for gateway in deployment.all]
    assert all(answer == answers[0] for answer in answers)
    account = deployment.second.newcomer()
    call(deployment.first, upstream, account)
    deleted = deployment.command("users", "delete", account.email)
    soon(deployment, deleted, lambda gateway: refused(gateway, account) == (401, "user_inactive"))
    again = deployment.first.register(account.email)
    assert again.id != account.id
    assert refused(deployment.first, account) == (401, "user_inactive")


def test_a_password_change_ends_every_other_session(deployment: Deployment, upstream: RecordingUpstream) -> None:
    """At once on the same replica, within 100 ms on all; the session that made the change continues."""
    old = deployment.first.newcomer()
    current = deployment.second.login(old.email)
    for gateway in deployment.all:
        for account in (old, current):
            call(gateway, upstream, account)
    change = {"current_password": old.password, "new_password": "another good password"}
    assert deployment.first.post("/auth/password", change, current.line).status == 204
    changed_at = time.monotonic()
    assert refused(deployment.first, old) == (401, "token_revoked")
    soon(deployment, changed_at, lambda gateway: refused(gateway, old) == (401, "token_revoked"))
    for gateway in deployment.all:
        call(gateway, upstream, current)
        wrong = gateway.post("/auth/login", {"email": old.email, "password": old.password})
        assert wrong.refused() == (401, "invalid_credentials")
        call(gateway, upstream, gateway.login(old.email, "another good password"))
        assert gateway.get("/optional/x", old.line).status == 200
        assert upstream.requests[-1].seen_as("x-user-id") == []


def test_logout_ends_this_session_and_logout_all_every_one(deployment: Deployment, upstream: RecordingUpstream) -> None:
    first = deployment.first.newcomer()
    second, third = (deployment.second.login(first.email) for _ in range(2))
    for gateway in deployment.all:
        for account in (first, second, third):
            call(gateway, upstream, account)
    assert deployment.first.post("/auth/logout", b"", first.line).status == 204
    done = time.monotonic()
    soon(deployment, done, lambda gateway: refused(gateway, first) == (401, "token_revoked"))
    for gateway in deployment.all:
        call(gateway, upstream, second)
    assert deployment.second.post("/auth/logout-all", b"", second.line).status == 204
    done = time.monotonic()
    for account in (second, third):
        soon(deployment, done, lambda gateway, account=account: refused(gateway, account) == (401, "token_revoked"))  # type: ignore[misc]
    call(deployment.first, upstream, deployment.second.login(first.email))


def test_a_disabled_user_is_refused_on_every_replica(deployment: Deployment, upstream: RecordingUpstream) -> None:
    """Within 100 ms of the command's end with Redis; without Redis within the cache's TTL."""
    account = deployment.first.newcomer()
    for gateway in deployment.all:
        call(gateway, upstream, account)
    disabled = deployment.command("users", "disable", account.email)
    soon(deployment, disabled, lambda gateway: refused(gateway, account) == (401, "user_inactive"))
    for gateway in deployment.all:
        assert gateway.post("/auth/login", {"email": account.email, "password": PASSWORD}).refused() == (
            403,
            "account_disabled",
        )
        assert gateway.get("/auth/me", account.line).refused() == (401, "user_inactive")
        received = call(gateway, upstream, account, "/optional/x")
        assert received.seen_as("x-user-id") == []
    enabled = deployment.command("users", "enable", account.email)
    soon(deployment, enabled, lambda gateway: refused(gateway, account) == (200, None))


def test_roles_change_at_once(deployment: Deployment, upstream: RecordingUpstream) -> None:
    """Roles come from the record, not from the token: the same token is accepted, and then refused."""
    account = deployment.second.newcomer()
    for gateway in deployment.all:
        assert refused(gateway, account, "/editors/x") == (403, "forbidden")
    given = deployment.command("users", "set-roles", account.email, "editor")
    soon(deployment, given, lambda gateway: refused(gateway, account, "/editors/x") == (200, None))
    for gateway in deployment.all:
        assert call(gateway, upstream, account).values("x-user-roles") == [b"editor,user"]
    taken = deployment.command("users", "set-roles", account.email, "user")
    soon(deployment, taken, lambda gateway: refused(gateway, account, "/editors/x") == (403, "forbidden"))


def test_a_password_set_by_command_ends_all_sessions(deployment: Deployment, upstream: RecordingUpstream) -> None:
    account = deployment.first.newcomer()
    for gateway in deployment.all:
        call(gateway, upstream, account)
    password = "another good password\n"
    changed_at = deployment.command("users", "set-password", account.email, "--password-stdin", input=password)
    soon(deployment, changed_at, lambda gateway: refused(gateway, account) == (401, "token_revoked"))
    call(deployment.second, upstream, deployment.second.login(account.email, "another good password"))


def test_an_optional_identity(deployment: Deployment, upstream: RecordingUpstream) -> None:
    account = deployment.first.newcomer()
    for gateway in deployment.all:
        assert call(gateway, upstream, account, "/optional/x").values("x-user-id") == [account.id.encode()]
        for fields in ([], ["Authorization: Bearer garbage"]):
            received = passes(gateway, upstream, request("/optional/x", fields=fields))
            assert received.seen_as("x-user-id") == []


def test_an_account_made_by_command_signs_in(deployment: Deployment, upstream: RecordingUpstream) -> None:
    email = f"made-{time.time_ns()}@example.com"
    deployment.command("users", "create", email, "--role", "admin", "--password-stdin", input=PASSWORD + "\n")
    account = deployment.second.login(email)
    call(deployment.first, upstream, account, "/admin/x")


# ---- separate gateways


@pytest.fixture
def own(gateways: Gateways, face: Face, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway over SQLite with some sections changed."""
    started: list[Gateway] = []

    def start(**sections: dict[str, object]) -> Gateway:
        gateway = Gateway(face, changed(gateways.configuration(tmp_path), **sections), tmp_path)
        started.append(gateway)
        return gateway.start()

    yield start
    for gateway in started:
        gateway.kill()


def test_registration_may_be_closed(own: Callable[..., Gateway], upstream: RecordingUpstream) -> None:
    gateway = own(accounts={"registration": "closed", "password": {"bcrypt_rounds": 4}})
    answer = gateway.post("/auth/register", {"email": "ada@example.com", "password": PASSWORD})
    assert answer.refused() == (403, "registration_closed")
    gateway.command("users", "create", "ada@example.com", "--password-stdin", input=PASSWORD + "\n")
    call(gateway, upstream, gateway.login("ada@example.com"))


def test_redis_absent_at_startup_is_reported_and_does_not_stop_it(
    own: Callable[..., Gateway], upstream: RecordingUpstream
) -> None:
    """The gateway reads the database, and changes are visible at once because nothing is cached."""
    nowhere = Refusing()
    try:
        with within(15.0):
            gateway = own(storage={"redis": nowhere.url.replace("http", "redis")})
        assert gateway.get("/_gateway/ready").json()["degraded"] == ["redis"]
        assert gateway.get("/_gateway/ready?strict").status == 503
        assert "edis" in gateway.log()
        account = gateway.newcomer()
        with within(promised(1.0)):
            call(gateway, upstream, account)
        gateway.command("users", "disable", account.email)
        refuses(gateway, upstream, request("/api/x", fields=[account.line]), 401, "user_inactive")
    finally:
        nowhere.close()
