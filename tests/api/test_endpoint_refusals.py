"""Refusals by built-in endpoints are logged, counted and explained like those of the gate."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from inspect import iscoroutinefunction
from itertools import count
from typing import Any

import pytest

from gateway.api.body import FORM, MAX_BODY
from gateway.api.errors import failed, refused, store_is_out
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Account, Face, Gateway
from tests.support.raw import Answer
from tests.support.small import metric
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

JSON = "Content-Type: application/json"
FORMS = f"Content-Type: {FORM}"
LOGIN = {"email": "nobody@example.com", "password": "wrong password"}
SIGN_IN = b"action=sign-in&username=not-there%40example.com&password=wrong"

_numbers = count(1)


class Refusing:
    """A gateway that writes both logs, with a signed-in user."""

    def __init__(self, gateway: Gateway, account: Account, key: bytes) -> None:
        self.gateway = gateway
        self.account = account
        self.key = key

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """The log lines of a request."""
        found = (line for line in self.gateway.log().splitlines() if request_id in line and line.endswith("}"))
        return [json.loads(line) for line in found]

    def ask(self, target: str, *fields: str | bytes, method: str = "GET", body: bytes | None = None) -> bytes:
        return request(target, method=method, fields=fields, body=body)

    def locked(self, target: str, kind: str) -> bytes:
        """A sign-in attempt after too many failures."""
        email = f"locked-{next(_numbers)}@example.com"
        self.gateway.post("/auth/login", {"email": email, "password": "wrong"})
        form = f"action=sign-in&username={email}&password=wrong".encode()
        return self.post(target, {"email": email, "password": "wrong"} if kind == JSON else form, kind)

    def beyond_the_limit(self) -> bytes:
        """A registration over the limit."""
        taken = {"email": "ann@example.com", "password": PASSWORD}
        eventually(lambda: self.gateway.post("/auth/register", taken).status == 429)
        return self.post("/auth/register", {"email": "bob@example.com", "password": PASSWORD})

    def post(self, target: str, body: dict[str, Any] | bytes, *fields: str | bytes) -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask(target, *(fields or (JSON,)), method="POST", body=data)


@pytest.fixture(scope="module")
def refusing(gateways: Gateways, face: Face, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    """A separate gateway, because its log can contain the traceback of the provoked 500."""
    folder = tmp_path_factory.mktemp(f"refusing-{face}")
    configuration = changed(
        gateways.configuration(folder),
        observability={"access_log": "json", "decision_log": {}},
        accounts={
            "lockout": {"failures": 1, "per_address_failures": 1_000_000},
            "registration_limit": {"requests": 2, "per": "1h"},
        },
    )
    gateway = Gateway(face, configuration, folder).start()
    account = gateway.register("ann@example.com")
    gateway.command("users", "create", "broken@example.com", "--role", "user", "--password-stdin", input=PASSWORD)
    made = gateway.post("/auth/api-keys", {"name": "x"}, account.line)
    yield Refusing(gateway, account, f"Authorization: Bearer {made.json()['key']}".encode())
    gateway.stop()


Make = Callable[[Refusing], bytes]
REFUSED: dict[str, tuple[Make, int, str, str]] = {
    # ---- by the gate, at a built-in path
    "no token": (lambda at: at.ask("/auth/me"), 401, "token_missing", "accounts.me"),
    "a method": (lambda at: at.ask("/auth/login"), 405, "method_not_allowed", ""),
    "a role": (lambda at: at.ask("/auth/users", at.account.line), 403, "forbidden", "admin.users.list"),
    # ---- by an account endpoint
    "a body of another kind": (
        lambda at: at.post("/auth/login", b"{}", "Content-Type: text/plain"),
        415,
        "unsupported_media_type",
        "accounts.login",
    ),
    "no JSON": (lambda at: at.post("/auth/register", b"{"), 400, "bad_request", "accounts.register"),
    "a large body": (
        lambda at: at.post("/auth/login", b" " * (MAX_BODY + 1)),
        413,
        "body_too_large",
        "accounts.login",
    ),
    "a large body in chunks": (
        lambda at: (
            at.ask("/auth/login", JSON, "Transfer-Encoding: chunked", method="POST") + chunked(b" " * MAX_BODY, b" ")
        ),
        413,
        "body_too_large",
        "accounts.login",
    ),
    "fields": (lambda at: at.post("/auth/register", {}), 422, "invalid_fields", "accounts.register"),
    "a wrong password": (lambda at: at.post("/auth/login", LOGIN), 401, "invalid_credentials", "accounts.login"),
    "an account that is locked": (lambda at: at.locked("/auth/login", JSON), 429, "locked_out", "accounts.login"),
    "an address that is taken": (
        lambda at: at.post("/auth/register", {"email": "ann@example.com", "password": PASSWORD}),
        400,
        "email_taken",
        "accounts.register",
    ),
    "too many registrations": (
        lambda at: at.beyond_the_limit(),
        429,
        "rate_limited",
        "accounts.register",
    ),
    "a refresh token": (
        lambda at: at.post("/auth/refresh", {"refresh_token": "x"}),
        401,
        "refresh_invalid",
        "accounts.refresh",
    ),
    "a session that never was": (
        lambda at: at.ask("/auth/sessions/never", at.account.line, method="DELETE"),
        404,
        "not_found",
        "accounts.sessions.end",
    ),
    "a key where a session is asked for": (
        lambda at: at.ask("/auth/sessions", at.key),
        403,
        "forbidden",
        "accounts.sessions.list",
    ),
    # ---- by other endpoints
    "metrics for another address": (
        lambda at: at.ask("/_gateway/metrics", "X-Forwarded-For: 203.0.113.9"),
        403,
        "forbidden",
        "operations.metrics",
    ),
    "verify for a stranger": (
        lambda at: at.ask("/_gateway/verify", "X-Forwarded-Uri: /x"),
        403,
        "forbidden",
        "operations.verify",
    ),
    "the console: a wrong password": (
        lambda at: at.post("/_gateway/console", SIGN_IN, FORMS),
        401,
        "invalid_credentials",
        "operations.console.sign",
    ),
    "the console: an account that is locked": (
        lambda at: at.locked("/_gateway/console", FORMS),
        429,
        "locked_out",
        "operations.console.sign",
    ),
    "the console: fields": (
        lambda at: at.post("/_gateway/console", b"action=sign-in", FORMS),
        422,
        "invalid_fields",
        "operations.console.sign",
    ),
    "the console: another site": (
        lambda at: at.post("/_gateway/console", SIGN_IN, FORMS, "Sec-Fetch-Site: cross-site"),
        403,
        "origin_not_allowed",
        "operations.console.sign",
    ),
    "the console: a user who may not": (
        lambda at: at.post(
            "/_gateway/console", f"action=sign-in&username=ann%40example.com&password={PASSWORD}".encode(), FORMS
        ),
        403,
        "forbidden",
        "operations.console.sign",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_is_logged_counted_and_explained_with_its_code(refusing: Refusing, what: str) -> None:
    make, status, code, route = REFUSED[what]
    sent = make(refusing)
    counted = requests_counted(refusing.gateway, code, route)
    answer, request_id = send(refusing, sent)
    assert answer.status == status, answer.body
    assert answer.code in (code, None), "a page has no code"
    access, decision = logged(refusing, request_id)
    assert (access["status"], access["code"], access["route"]) == (status, code, route)
    assert (decision["decision"], decision["status"], decision["code"]) == ("refused", status, code)
    assert decision["route"] == route and decision["reason"]
    assert requests_counted(refusing.gateway, code, route) == counted + 1


def test_a_failure_is_logged_and_counted_as_one(refusing: Refusing) -> None:
    """A row that this gateway would not have written."""
    gateway, account = refusing.gateway, refusing.account
    with closing(sqlite3.connect(gateway.folder / "gateway.db")) as connection, connection:
        connection.execute("UPDATE api_keys SET roles = 'null' WHERE user_id = ?", (account.id,))
    counted = requests_counted(gateway, "internal_error", "accounts.api_keys.list")
    answer, request_id = send(refusing, refusing.ask("/auth/api-keys", account.line))
    assert answer.refused() == (500, "internal_error")
    assert answer.json()["request_id"] == request_id
    access, decision = logged(refusing, request_id)
    assert (access["status"], access["code"], access["user"]) == (500, "internal_error", account.id)
    assert (decision["code"], decision["user"]) == ("internal_error", account.id)
    assert requests_counted(gateway, "internal_error", "accounts.api_keys.list") == counted + 1
    assert gateway.log().count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize("handler", [refused, store_is_out, failed])
def test_no_refusal_is_made_on_a_thread(handler: Callable[..., object]) -> None:
    """Logs and responses belong to the event loop, and Starlette runs plain functions in threads."""
    assert iscoroutinefunction(handler)


def test_granted_requests_of_an_endpoint_have_no_code(refusing: Refusing) -> None:
    answer, request_id = send(refusing, refusing.ask("/auth/me", refusing.account.line))
    assert answer.status == 200
    (access,) = eventually(lambda: refusing.lines(request_id))
    assert (access["status"], access["code"]) == (200, "")


def send(refusing: Refusing, sent: bytes) -> tuple[Answer, str]:
    """The response, and the id of the request."""
    request_id = f"refused-{next(_numbers)}-of-many"
    head, _, rest = sent.partition(b"\r\n")
    with refusing.gateway.caller() as caller:
        caller.send_until_refused([head + b"\r\nX-Request-Id: " + request_id.encode() + b"\r\n" + rest])
        return caller.receive(head.partition(b" ")[0].decode()), request_id


def logged(refusing: Refusing, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The only line of each log about a request."""
    lines = eventually(lambda: found if len(found := refusing.lines(request_id)) > 1 else [])
    (access,) = (line for line in lines if "decision" not in line)
    (decision,) = (line for line in lines if "decision" in line)
    return access, decision


def requests_counted(gateway: Gateway, code: str, route: str) -> float:
    try:
        return metric(gateway, "gateway_requests_total", code=code, route=route)
    except AssertionError:
        return 0.0
