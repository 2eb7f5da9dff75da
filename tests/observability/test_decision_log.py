"""The decision log: each refusal with its reason and rule, a sample of allowed requests, and no secrets."""

import json
from typing import Any

import pytest

from gateway.errors import Refusal
from gateway.observability.decision_log import DecisionLog
from gateway.policy.route import Route
from gateway.settings.model import DecisionLogSettings, ObservabilitySettings
from tests.observability.requests import finished, observing
from tests.policy.policies import policy_of
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Account, Face, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually
from tests.support.websockets import FarEnd, Socket

ROUTE = policy_of(
    [{"path": "/users/{id}", "roles": {"any": ["b", "a"], "all": ["c"]}, "owner": "id", "name": "x"}]
).routes[0]


def lines_of(settings: DecisionLogSettings, *happenings: Any, draw: float = 0.5) -> list[dict[str, Any]]:
    """The log lines for refusals (with their route) and admissions."""
    written: list[bytes] = []
    observer = observing(ObservabilitySettings(access_log="off", decision_log=settings), written.append)
    log = DecisionLog(settings, observer.say, version=lambda: "4f1c", draw=lambda: draw)
    for what, request, route in happenings:
        if isinstance(what, Refusal):
            log.refused(what, request, route)
        else:
            log.allowed(what)
    observer.tick(0.0)
    return [json.loads(line) for line in b"".join(written).decode("ascii").splitlines()]


def refusal(code: str, reason: str = "", *, route: Route | None = None, **request: Any) -> tuple[Any, Any, Any]:
    record = finished(status=403, **request)
    refused = Refusal(code, reason, route=route.name if route is not None else None)
    refused.caller = record.refused
    return refused, record.request, route


def test_a_refusal_is_logged_with_the_rule_the_caller_and_the_private_reason() -> None:
    (line,) = lines_of(DecisionLogSettings(), refusal("forbidden", "needs more", route=ROUTE, path=b"/users/7?t=s"))
    assert line.pop("time")
    assert line == {
        "decision": "refused",
        "request_id": "0123456789abcdef",
        "client": "192.0.2.1",
        "host": "api.example.com",
        "method": "GET",
        "path": "/users/7",
        "route": "x",
        "status": 403,
        "code": "forbidden",
        "reason": "needs more",
        "user": "u-42",
        "roles": ["user"],
        "asks": {"auth": "required", "any": ["a", "b"], "all": ["c"], "owner": "id"},
        "policy": "4f1c",
    }


def test_a_refusal_without_a_route_and_a_caller_is_logged_too() -> None:
    (line,) = lines_of(DecisionLogSettings(), refusal("no_route", path=b"http://u:p@h/x#y", user_id=""))
    assert (line["route"], line["asks"], line["user"], line["roles"], line["path"]) == ("", None, "", [], "/x")
    assert line["reason"] == "Nothing is served at this path"


def test_text_of_a_client_stays_inside_of_its_value() -> None:
    refused = refusal("no_route", path=b'/"\n{\xff', method=b'"', client="\u202e", user_id="\ud800\n")
    (line,) = lines_of(DecisionLogSettings(), refused)
    assert (line["path"], line["method"], line["client"], line["user"]) == ('/"\n{ÿ', '"', "\u202e", "\ud800\n")


def passing() -> tuple[Any, Any, Any]:
    record = finished()
    record.admission.request, record.admission.route = record.request, ROUTE
    return record.admission, record.request, ROUTE


@pytest.mark.parametrize(
    ("share", "draw", "logged"), [(0.0, 0.0, 0), (0.01, 0.02, 0), (0.01, 0.005, 1), (1.0, 0.999, 1)]
)
def test_a_share_of_the_allowed_requests_is_logged(share: float, draw: float, logged: int) -> None:
    lines = lines_of(DecisionLogSettings(allows=share), passing(), draw=draw)
    assert [(line["decision"], line["status"], line["code"]) for line in lines] == [("allowed", None, "")] * logged


def test_refusals_can_be_left_out() -> None:
    assert lines_of(DecisionLogSettings(refusals=False, allows=1.0), refusal("no_route"), passing())[0]["route"] == "x"


# ---- a complete gateway


@pytest.fixture
def deciding(gateways: Gateways, face: Face) -> Gateway:
    return gateways.gateway("deciding", face, observability={"access_log": "off", "decision_log": {"allows": 1.0}})


@pytest.fixture
def user(deciding: Gateway) -> Account:
    eventually(lambda: deciding.post("/auth/login", {"email": "user@example.com", "password": PASSWORD}).status != 503)
    return deciding.login("user@example.com")


def decisions(gateway: Gateway, request_id: str, lines: int = 1) -> list[dict[str, Any]]:
    """The log lines of one request, as soon as their number is complete."""

    def found() -> list[dict[str, Any]]:
        found = [line for line in gateway.log().splitlines() if line.startswith("{") and request_id in line]
        return [json.loads(line) for line in found]

    eventually(lambda: len(found()) >= lines)
    return found()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/admin/x", ("refused", "/admin/**", "token_missing", "the route requires a signed-in user")),
        ("/nowhere", ("refused", "", "no_route", "no pattern matches the path")),
        ("/api/%2e%2e/x", ("refused", "", "bad_path", "a segment of dots")),
        ("/public/x?secret=1", ("allowed", "/public/**", "", "")),
    ],
)
def test_anonymous_decisions(deciding: Gateway, target: str, expected: tuple[str, ...]) -> None:
    request_id = f"decision-{deciding.face}-{target.partition('?')[0].strip('/').replace('/', '-').replace('%', '')}"
    deciding.get(target, f"X-Request-Id: {request_id}")
    (line,) = decisions(deciding, request_id)
    assert (line["decision"], line["route"], line["code"], line["reason"]) == expected
    assert "secret" not in json.dumps(line)


def test_a_refused_user_is_named_with_the_missing_roles(deciding: Gateway, user: Account) -> None:
    deciding.get("/admin/x", f"X-Request-Id: of-{deciding.face}", user.line)
    (line,) = decisions(deciding, f"of-{deciding.face}")
    assert (line["user"], line["roles"], line["asks"]) == (user.id, ["user"], {"auth": "required", "any": ["admin"]})
    assert line["reason"].startswith("needs one of the roles admin; ")
    assert user.token not in deciding.log()


def test_the_end_of_a_revoked_stream_is_logged(deciding: Gateway, upstream: RecordingUpstream) -> None:
    account, request_id, path = deciding.newcomer(), f"lasting-{deciding.face}", f"/sockets/ended-{deciding.face}"
    upstream.on(path, FarEnd())
    with Socket(deciding, path, f"X-Request-Id: {request_id}", account.line) as socket:
        assert deciding.post("/auth/logout", b"", account.line).status == 204
        assert socket.closed() == (1008, "token_revoked")
    admitted, ended = decisions(deciding, request_id, lines=2)
    assert (admitted["decision"], ended["decision"], ended["code"]) == ("allowed", "ended", "token_revoked")
    assert admitted["policy"] == json.loads(deciding.get("/_gateway/ready").body)["policy"]


def test_without_the_key_nothing_of_it_is_logged(gateways: Gateways, face: Face) -> None:
    gateway = gateways.gateway("standard", face)
    gateway.get("/nowhere", "X-Request-Id: no-decision")
    (line,) = decisions(gateway, "no-decision")
    assert "decision" not in line
