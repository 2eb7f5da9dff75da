"""Changes by an administrator over HTTP are effective on every replica within 100 ms, and at once on the one that made
them."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.journeys.deployments import Deployment, Replicated
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.scale import WHOLE
from tests.support.wording import request

TRIALS = 5 if WHOLE else 2  # one on each replica
Answered = tuple[int, str | None]


def send(gateway: Gateway, method: str, path: str, body: object = None, *lines: str | bytes) -> Answered:
    """Status and error code of the response to a request to a built-in endpoint."""
    fields = [*lines] if body is None else [*lines, "Content-Type: application/json"]
    content = b"" if body is None else json.dumps(body).encode()
    return gateway.ask(request(f"/auth{path}", method=method, fields=fields, body=content)).refused()


def administrator(deployment: Deployment) -> Account:
    """An administrator, created by a command like the first one."""
    email = f"admin-{time.time_ns()}@example.com"
    deployment.command("users", "create", email, "--role", "admin", "--password-stdin", input=PASSWORD + "\n")
    return deployment.first.login(email)


@pytest.fixture(scope="module")
def admin(deployment: Deployment) -> Account:
    """An administrator of this deployment."""
    return administrator(deployment)


def asked(gateway: Gateway, account: Account, path: str = "/api/x") -> Answered:
    return gateway.get(path, account.line).refused()


def soon(deployment: Deployment, acted: Gateway, seen: Callable[[Gateway], Answered], expected: Answered) -> None:
    """The change is visible here now; elsewhere within the promised time from now on, and permanently."""
    since = time.monotonic()
    assert seen(acted) == expected
    for gateway in deployment.all:
        while (now := seen(gateway)) != expected and time.monotonic() - since < deployment.propagation:
            time.sleep(0.005)
        assert now == expected, f"not {time.monotonic() - since:.3f} s after the change ({gateway.face})"
        assert seen(gateway) == expected


CHANGES: list[tuple[str, str, object, str, Answered, Answered]] = [
    # method, path after the id, body, then a path of the user with its responses before and after
    ("PATCH", "", {"is_active": False}, "/api/x", (200, None), (401, "user_inactive")),
    ("PATCH", "", {"is_active": True}, "/api/x", (401, "user_inactive"), (200, None)),
    ("PATCH", "", {"roles": ["editor"]}, "/editors/x", (403, "forbidden"), (200, None)),
    ("PATCH", "", {"roles": ["user"]}, "/editors/x", (200, None), (403, "forbidden")),
    ("POST", "/revoke", None, "/api/x", (200, None), (401, "token_revoked")),
    ("DELETE", "", None, "/api/x", (401, "token_revoked"), (401, "user_inactive")),
]


def test_every_change_holds_everywhere(deployment: Deployment, admin: Account) -> None:
    for trial in range(TRIALS):
        acting = deployment.all[trial % len(deployment.all)]
        account = deployment.first.newcomer()
        for method, rest, body, path, before, after in CHANGES:
            for gateway in deployment.all:
                assert asked(gateway, account, path) == before
            status, code = send(acting, method, f"/users/{account.id}{rest}", body, admin.line)
            assert (status // 100, code) == (2, None)
            soon(deployment, acting, lambda gateway: asked(gateway, account, path), after)  # noqa: B023


def test_a_change_is_in_the_trail_of_every_replica(deployment: Deployment, admin: Account) -> None:
    account = deployment.first.newcomer()
    lines = (admin.line, "X-Request-Id: told-by-the-caller")
    assert send(deployment.second, "PATCH", f"/users/{account.id}", {"is_active": False}, *lines) == (200, None)
    for gateway in deployment.all:
        newest = gateway.get(f"/auth/audit?subject={account.id}", admin.line).json()["records"][0]
        assert (newest["action"], newest["actor"]) == ("user.disabled", admin.id)
        assert (newest["address"], newest["request_id"]) == ("127.0.0.1", "told-by-the-caller")


def test_of_administrators_removed_at_once_on_all_replicas_one_remains(replicas: Replicated) -> None:
    """Two processes remove administrators in concurrent transactions; the last active one cannot be removed at all."""
    deployment = replicas.deployment
    first, second = deployment.all
    founder = administrator(deployment)
    others = first.get("/auth/users?role=admin&active=true", founder.line).json()["users"]
    rivals = [newly_made(gateway, founder) for gateway in (first, second, first, second)]
    for other in others:
        assert send(first, "PATCH", f"/users/{other['id']}", {"is_active": False}, rivals[0].line)[0] == 200
    take_each_other_away(deployment, rivals)
    left = [rival for rival in rivals if first.get("/auth/users", rival.line).status == 200]
    assert left
    while len(left) > 1:  # the attempts blocked each other: continue one after another
        assert send(first, "PATCH", f"/users/{left.pop().id}", {"is_active": False}, left[0].line)[0] == 200
    for method, body in [("DELETE", None), ("PATCH", {"is_active": False}), ("PATCH", {"roles": ["user"]})]:
        assert send(second, method, f"/users/{left[0].id}", body, left[0].line) == (409, "last_admin")
    for other in others:
        assert send(first, "PATCH", f"/users/{other['id']}", {"is_active": True}, left[0].line)[0] == 200


def newly_made(gateway: Gateway, by: Account) -> Account:
    """An administrator created by another one."""
    email = f"rival-{time.time_ns()}@example.com"
    body = {"email": email, "password": PASSWORD, "roles": ["admin"]}
    assert send(gateway, "POST", "/users", body, by.line) == (201, None)
    return gateway.login(email)


def take_each_other_away(deployment: Deployment, rivals: list[Account]) -> None:
    """Twelve concurrent attempts, each by another administrator, in another way, on another replica."""
    bodies: list[tuple[str, object]] = [("PATCH", {"is_active": False}), ("PATCH", {"roles": []}), ("DELETE", None)]

    def act(number: int) -> Answered:
        actor, victim = rivals[number % 4], rivals[(number + 1 + number // 4) % 4]
        method, body = bodies[number % 3]
        gateway = deployment.all[number % len(deployment.all)]
        return send(gateway, method, f"/users/{victim.id}", body, actor.line)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(act, range(12)))
    assert {status for status, _ in answers} <= {200, 204, 401, 403, 404, 409}, answers
