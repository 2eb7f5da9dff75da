"""API keys of machines across replicas: used, limited, and deleted everywhere."""

import time
from typing import Any

import pytest

from tests.journeys.deployments import Deployment
from tests.journeys.test_journey import soon
from tests.support.expectations import passes
from tests.support.processes import Account, Gateway
from tests.support.raw import Answer
from tests.support.recording import Received, RecordingUpstream
from tests.support.waiting import eventually, promised
from tests.support.websockets import Socket, echoing, text
from tests.support.wording import bearer, request

Key = dict[str, Any]


def make(gateway: Gateway, owner: Account, **asked: Any) -> Key:
    answer = gateway.post("/auth/api-keys", {"name": "ci", **asked}, owner.line)
    assert answer.status == 201, answer.body
    made: Key = answer.json()
    return made


def line(key: Key) -> bytes:
    return bearer(key["key"])


def delete(gateway: Gateway, owner: Account, key: Key) -> float:
    """Delete a key; returns the time after the response."""
    answer = gateway.ask(request(f"/auth/api-keys/{key['id']}", method="DELETE", fields=[owner.line]))
    assert answer.status == 204
    return time.monotonic()


def call(gateway: Gateway, upstream: RecordingUpstream, key: Key, path: str = "/api/x") -> Received:
    return passes(gateway, upstream, request(path, fields=[line(key)]))


def get(gateway: Gateway, key: Key, path: str = "/api/x") -> Answer:
    return gateway.get(path, line(key))


def promoted(deployment: Deployment, role: str) -> Account:
    """A new user with a role that implies others."""
    account = deployment.first.newcomer()
    deployment.command("users", "set-roles", account.email, role)
    for gateway in deployment.all:
        eventually(lambda gateway: gateway.get("/editors/x", account.line).status == 200, gateway)
    return account


def test_a_key_made_here_is_good_everywhere_and_stays_here(deployment: Deployment, upstream: RecordingUpstream) -> None:
    owner = deployment.first.newcomer()
    key = make(deployment.first, owner)
    for gateway in deployment.all:
        for _ in range(3):
            received = call(gateway, upstream, key)
            assert received.values("x-user-id") == [owner.id.encode()]
            assert received.values("x-user-email") == [owner.email.encode()]
            assert received.values("x-user-roles") == [b"user"]
            assert received.seen_as("authorization") == [], "it is for the gateway alone"
        forwarded = call(gateway, upstream, key, "/forwarded/x")
        assert forwarded.values("authorization") == [b"Bearer " + key["key"].encode()]
        assert call(gateway, upstream, key, f"/mine/{owner.id}").values("x-user-id") == [owner.id.encode()]


def test_a_key_has_those_of_its_roles_that_its_owner_has(deployment: Deployment, upstream: RecordingUpstream) -> None:
    """Including roles that the owner only has by implication, but no role beyond the key's own limit."""
    owner = promoted(deployment, "admin")
    full = make(deployment.first, owner)
    editor = make(deployment.first, owner, roles=["editor"])
    nothing = make(deployment.first, owner, roles=[])
    expected = {
        "/admin/x": (200, 403, 403),
        "/editors/x": (200, 200, 403),
        "/api/x": (200, 200, 200),
        f"/users/{owner.id}/x": (200, 200, 200),
        "/users/somebody/x": (200, 403, 403),
    }
    for gateway in deployment.all:
        for path, statuses in expected.items():
            assert tuple(get(gateway, key, path).status for key in (full, editor, nothing)) == statuses, path
        assert call(gateway, upstream, full).values("x-user-roles") == [b"admin,editor,user"]
        assert call(gateway, upstream, editor).values("x-user-roles") == [b"editor,user"]
        assert call(gateway, upstream, nothing).values("x-user-roles") == [b""]
        own = passes(gateway, upstream, request("/api/x", fields=[owner.line]))
        assert own.values("x-user-roles") == [b"admin,editor,user"], "the owner is not limited by the keys"


def test_a_key_loses_the_roles_that_its_owner_loses_and_regains_them(
    deployment: Deployment, upstream: RecordingUpstream
) -> None:
    owner = promoted(deployment, "editor")
    key = make(deployment.first, owner)
    for gateway in deployment.all:
        assert get(gateway, key, "/editors/x").status == 200
    taken = deployment.command("users", "set-roles", owner.email, "user")
    soon(deployment, taken, lambda gateway: get(gateway, key, "/editors/x").refused() == (403, "forbidden"))
    for gateway in deployment.all:
        assert call(gateway, upstream, key).values("x-user-roles") == [b""]
    given = deployment.command("users", "set-roles", owner.email, "admin")
    soon(deployment, given, lambda gateway: get(gateway, key, "/editors/x").status == 200)
    for gateway in deployment.all:
        assert get(gateway, key, "/admin/x").refused() == (403, "forbidden"), "it never was an admin's key"


@pytest.mark.parametrize(
    ("command", "codes"), [("disable", {"user_inactive"}), ("delete", {"user_inactive", "token_invalid"})]
)
def test_a_key_ends_with_its_owner(
    deployment: Deployment, upstream: RecordingUpstream, command: str, codes: set[str]
) -> None:
    """Deleting an account also deletes its keys. The order in which a replica sees both does not matter."""
    owner = deployment.first.newcomer()
    key = make(deployment.first, owner)
    for gateway in deployment.all:
        call(gateway, upstream, key)
    since = deployment.command("users", command, owner.email)
    soon(deployment, since, lambda gateway: get(gateway, key).refused() in {(401, code) for code in codes})


def test_a_deleted_key_is_refused_on_every_replica_within_100_ms(
    deployment: Deployment, upstream: RecordingUpstream
) -> None:
    """On whichever replica it is deleted, even if both have just used the key."""
    owner = deployment.first.newcomer()
    slowest = 0.0
    for number in range(10):
        key = make(deployment.first, owner)
        for gateway in deployment.all:
            call(gateway, upstream, key)
        deleting, other = (
            deployment.all[number % len(deployment.all)],
            deployment.all[-1 - number % len(deployment.all)],
        )
        since = delete(deleting, owner, key)
        assert get(deleting, key).refused() == (401, "token_revoked")
        eventually(
            lambda other, key: get(other, key).refused() == (401, "token_revoked"),
            other,
            key,
            timeout=deployment.propagation,
        )
        slowest = max(slowest, time.monotonic() - since)
    print(f"\nseen everywhere after {slowest * 1000:.1f} ms at most, in 10 trials")


def test_a_websocket_of_a_key_ends_with_it(deployment: Deployment, upstream: RecordingUpstream) -> None:
    upstream.on("/sockets/x", echoing())
    owner = deployment.first.newcomer()
    for gateway in deployment.all:
        key, kept = make(deployment.first, owner), make(deployment.first, owner)
        words = f"Sec-WebSocket-Protocol: bearer, {key['key']}"
        with (
            Socket(gateway, "/sockets/x", line(key)) as one,
            Socket(gateway, "/sockets/x", words) as of_a_page,
            Socket(gateway, "/sockets/x", line(kept)) as other,
        ):
            for socket in (one, of_a_page, other):
                assert socket.say(text("hello")).message() == b"hello"
            delete(deployment.first, owner, key)
            for socket in (one, of_a_page):
                assert socket.closed(within=promised(1.0) + deployment.propagation) == (1008, "token_revoked")
            assert other.say(text("still here")).message() == b"still here"


def test_on_an_optional_route_a_bad_key_is_anonymous(deployment: Deployment, upstream: RecordingUpstream) -> None:
    owner = deployment.first.newcomer()
    key = make(deployment.first, owner)
    for gateway in deployment.all:
        assert call(gateway, upstream, key, "/optional/x").values("x-user-id") == [owner.id.encode()]
    since = delete(deployment.first, owner, key)
    soon(deployment, since, lambda gateway: get(gateway, key).status == 401)
    for gateway in deployment.all:
        for bad in (key, {"key": key["key"][:-1]}, {"key": "gwk_" + "0" * 38}):
            received = passes(gateway, upstream, request("/optional/x", fields=[bearer(bad["key"])]))
            assert received.seen_as("x-user-id") == []


def test_no_log_has_a_key_in_it(deployment: Deployment, upstream: RecordingUpstream) -> None:
    owner = deployment.first.newcomer()
    key = make(deployment.first, owner)
    for gateway in deployment.all:
        call(gateway, upstream, key)
        get(gateway, key, "/admin/x")
        gateway.get("/api/x", bearer(key["key"] + "A"))
        gateway.get(f"/api/{key['id']}", line(key))
    delete(deployment.first, owner, key)
    for gateway in deployment.all:
        get(gateway, key)
        eventually(lambda gateway: key["id"] in gateway.log(), gateway)
        assert key["key"][4:36] not in gateway.log()
