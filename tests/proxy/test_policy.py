"""The policy over sockets: roles any and all, the hierarchy, owners, and the order of checks."""

import pytest

from tests.support.expectations import passes, refuses
from tests.support.gateways import SignIn
from tests.support.processes import Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.wording import request

# The access matrix: route, then the status for each account (None: anonymous).
MATRIX = {
    "/public/x": {None: 200, "user": 200, "editor": 200, "both": 200, "admin": 200},
    "/optional/x": {None: 200, "user": 200, "editor": 200, "both": 200, "admin": 200},
    "/api/x": {None: 401, "user": 200, "editor": 200, "both": 200, "admin": 200},
    "/editors/x": {None: 401, "user": 403, "editor": 200, "both": 200, "admin": 200},
    "/both/x": {None: 401, "user": 403, "editor": 403, "both": 200, "admin": 403},
    "/admin/x": {None: 401, "user": 403, "editor": 403, "both": 403, "admin": 200},
    "/mine/somebody": {None: 401, "user": 403, "editor": 403, "both": 403, "admin": 403},
    "/users/somebody/x": {None: 401, "user": 403, "editor": 403, "both": 403, "admin": 200},
}


@pytest.mark.parametrize("path", MATRIX)
def test_access_of_each_caller(gateway: Gateway, upstream: RecordingUpstream, sign_in: SignIn, path: str) -> None:
    for name, status in MATRIX[path].items():
        data = request(path, fields=[sign_in(name).line] if name else [])
        if status == 200:
            passes(gateway, upstream, data)
        else:
            refuses(gateway, upstream, data, status, "token_missing" if status == 401 else "forbidden")


def test_only_an_owner_passes(gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account) -> None:
    for path in (f"/users/{user.id}/x", f"/users/{user.id}", f"/mine/{user.id}"):
        passes(gateway, upstream, request(path, fields=[user.line]))
    passes(gateway, upstream, request(f"/users/{user.id}/x", fields=[admin.line]))
    for other in (
        f"{user.id}x",
        f"x{user.id}",
        user.id.swapcase() + "-",
        f"{user.id}%20",
        f"{user.id},{admin.id}",
        admin.id,
    ):
        refuses(gateway, upstream, request(f"/mine/{other}", fields=[user.line]), 403, "forbidden")
    refuses(gateway, upstream, request(f"/mine/{user.id}", fields=[admin.line]), 403, "forbidden")


ORDER = [
    # each line also has all errors of the lines below
    (request("/public/../x", method="FOO-", fields=["Authorization: Bearer x"]), {400, 501}),
    (request("/admin/%00", method="DELETE", fields=["Authorization: Bearer x"]), {400}),
    (request("/nowhere", method="DELETE", fields=["Authorization: Bearer x"]), {404}),
    (request("/methods/x", method="DELETE", fields=["Authorization: Bearer x"]), {405}),
    (request("/methods/x", method="POST", fields=["Authorization: Bearer x", "Content-Length: 999999999"]), {401}),
]


@pytest.mark.parametrize(
    ("data", "statuses"), ORDER, ids=["path", "path before route", "route", "method", "credential"]
)
def test_checks_are_made_in_order(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes, statuses: set[int]
) -> None:
    """Path and host, route, method, credential, user, roles, limits, upstream."""
    assert gateway.ask(data).status in statuses
    assert upstream.requests == []


def test_roles_come_before_limits_and_limits_before_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    large = ["Content-Length: 999999999"]
    data = request("/methods/x", method="POST", fields=[user.line, *large])
    refuses(gateway, upstream, data, 403, "forbidden")
    data = request("/methods/x", method="POST", fields=[admin.line, *large])
    refuses(gateway, upstream, data, 413, "body_too_large")


def test_a_slash_at_the_end_is_the_same_route(gateway: Gateway, upstream: RecordingUpstream, admin: Account) -> None:
    refuses(gateway, upstream, request("/item/a/"), 401, "token_missing")
    assert passes(gateway, upstream, request("/item/a/", fields=[admin.line])).target == b"/item/a/"
    refuses(gateway, upstream, request("/item/a/b", fields=[admin.line]), 404, "no_route")
    refuses(gateway, upstream, request("/item/", fields=[admin.line]), 404, "no_route")


def test_the_most_specific_route_wins(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """A literal before a name, a name before `/**`; the order in the file makes no difference."""
    assert gateway.ask(request("/methods/x", method="PATCH")).status == 405
    assert gateway.ask(request("/methods/x/", method="PATCH")).status == 405
    assert gateway.ask(request("/methods/x/y", method="PATCH")).status == 200
    assert gateway.ask(request("/methods/xy", method="PATCH")).status == 200
