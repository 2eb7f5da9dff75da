"""Shadow rules in a running gateway: they do not affect decisions, and their own decisions are recorded."""

import re

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import Account, Face, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually

ROUTES: list[dict[str, object]] = [
    {"path": "/tried/open/**", "auth": "none", "upstream": "web"},
    {"path": "/tried/open/admin", "roles": ["admin"], "upstream": "web", "shadow": True, "name": "close-it"},
    {"path": "/tried/closed/**", "roles": ["admin"], "upstream": "web"},
    {"path": "/tried/closed/**", "upstream": "web", "shadow": True, "name": "open-it"},
    {"path": "/tried/all/**", "auth": "none", "upstream": "web"},
    {"path": "/tried/all/x", "auth": "none", "methods": ["GET"], "upstream": "web", "shadow": True, "name": "only-get"},
    {"path": "/tried/alone", "auth": "none", "upstream": "refusing", "shadow": True, "name": "alone"},
]


@pytest.fixture
def gateway(gateways: Gateways, face: Face) -> Gateway:
    return gateways.gateway("shadowed", face, routes=ROUTES)


def counted(gateway: Gateway, rule: str) -> dict[str, float]:
    """The number of each decision of a rule."""
    page = gateway.get("/_gateway/metrics").body.decode()
    found = re.findall(rf'^gateway_shadow_decisions_total{{route="{rule}",decision="(\w+)"}} (\S+)$', page, re.M)
    return {decision: float(number) for decision, number in found}


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    more = {decision: number - before.get(decision, 0) for decision, number in after.items()}
    return {decision: number for decision, number in more.items() if number}


def test_an_admission_that_would_be_refused_is_counted(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    before = counted(gateway, "close-it")
    statuses = [gateway.get("/tried/open/admin", *lines).status for lines in ((), (user.line,), (admin.line,))]
    assert statuses == [200, 200, 200]
    assert len(upstream.requests) == 3
    expected = {"token_missing": 1, "forbidden": 1, "allowed": 1}
    eventually(lambda: grown(before, counted(gateway, "close-it")) == expected)


def test_a_refusal_that_would_be_admitted_is_counted(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    before = counted(gateway, "open-it")
    assert gateway.get("/tried/closed/x", user.line).status == 403
    assert gateway.get("/tried/closed/x").status == 401
    assert upstream.requests == []
    eventually(lambda: grown(before, counted(gateway, "open-it")) == {"token_missing": 1, "allowed": 1})


def test_a_method_that_the_rule_would_not_serve_is_reported_as_its_decision(gateway: Gateway) -> None:
    before = counted(gateway, "only-get")
    assert gateway.post("/tried/all/x", b"").status == 200
    assert gateway.post("/tried/all/y", b"").status == 200
    eventually(lambda: grown(before, counted(gateway, "only-get")) == {"method_not_allowed": 1})


def test_a_rule_where_nothing_is_served_serves_nothing(gateway: Gateway) -> None:
    before = counted(gateway, "alone")
    assert gateway.get("/tried/alone").status == 404
    eventually(lambda: grown(before, counted(gateway, "alone")) == {"allowed": 1})


def test_an_uncached_user_is_looked_up_beside_the_request(gateway: Gateway) -> None:
    decisions = {"storage_unavailable": 1.0}
    while decisions == {"storage_unavailable": 1.0}:  # beside other tests a lookup can exceed its time limit
        newcomer = gateway.newcomer()
        before = counted(gateway, "close-it")
        assert gateway.get("/tried/open/admin", newcomer.line).status == 200
        decisions = eventually(lambda before: grown(before, counted(gateway, "close-it")), before)
    assert decisions == {"forbidden": 1}


def test_a_difference_is_reported_once_a_minute(gateway: Gateway, user: Account) -> None:

    def shadow_lines() -> list[str]:
        return [
            line
            for line in gateway.log().splitlines()
            if line.startswith("gateway: shadow: would refuse an allowed request route=close-it would=forbidden")
        ]

    before = len(shadow_lines())  # another test of this gateway can have caused a report more than a minute ago
    for _ in range(20):
        gateway.get("/tried/open/admin", user.line)
    eventually(lambda: len(shadow_lines()) >= 1)
    assert len(shadow_lines()) <= before + 1
    assert re.search(
        r" decided=allowed by=/tried/open/\*\* method=GET path=/tried/open/admin user=\S+ request_id=\S+ ",
        shadow_lines()[0],
    )


def test_requests_outside_of_shadow_rules_are_not_counted(gateway: Gateway) -> None:
    rules = ("close-it", "open-it", "only-get", "alone")
    before = [counted(gateway, rule) for rule in rules]
    for path in ("/tried/open/other", "/public/x", "/nowhere", "/auth/me", "/tried/open/%00"):
        gateway.get(path)
    assert [counted(gateway, rule) for rule in rules] == before
