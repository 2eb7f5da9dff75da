"""Rate limits of routes: which requests count together, the response fields, and counts kept across reloads."""

import re
from dataclasses import dataclass

import pytest

from gateway.gate.rate_limits import Count, Limits, RouteLimit
from gateway.policy.policy import Policy
from tests.policy.policies import policy_of

MINUTE = {"requests": 3, "per": "1m"}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Request:
    """A request from an address."""

    client: str = "192.0.2.1"


def limit_of(limits: Limits, policy: Policy, name: str = "limited") -> RouteLimit:
    found = next(limits.of(route) for route in policy.routes if route.name == name)
    assert found is not None
    return found


def one_limit(clock: Clock | None = None, **settings: object) -> RouteLimit:
    policy = policy_of([{"path": "/x", "name": "limited", "rate_limit": MINUTE | settings}])
    return limit_of(Limits(policy.routes, clock=clock or Clock()), policy)


def counted(limit: RouteLimit, user_id: str | None = None, address: str = "192.0.2.1") -> Count:
    count = limit.count(user_id, Request(address))
    assert count is not None
    return count


def passes(limit: RouteLimit, user_id: str | None = None, address: str = "192.0.2.1") -> bool:
    return counted(limit, user_id, address).retry_after is None


def test_users_are_counted_wherever_they_come_from() -> None:
    limit = one_limit(by="user")
    assert [passes(limit, "u1", f"192.0.2.{number}") for number in range(5)] == [True, True, True, False, False]
    assert passes(limit, "u2", "192.0.2.1")


def test_anonymous_clients_are_counted_by_address_where_users_are_counted() -> None:
    limit = one_limit(by="user")
    assert [passes(limit, None, "192.0.2.1") for _ in range(4)] == [True, True, True, False]
    assert passes(limit, None, "192.0.2.2")
    assert passes(limit, "u1", "192.0.2.1")


def test_addresses_are_counted_for_all_users_together() -> None:
    limit = one_limit(by="address")
    assert [passes(limit, user, "192.0.2.1") for user in ("u1", "u2", None, "u3")] == [True, True, True, False]
    assert passes(limit, "u1", "192.0.2.2")


def test_one_host_of_ipv6_is_one_caller_whichever_address_of_its_network_it_takes() -> None:
    limit = one_limit(by="address")
    addresses = [f"2001:db8::{number:x}" for number in range(1, 5)]
    assert [passes(limit, None, address) for address in addresses] == [True, True, True, False]
    assert passes(limit, None, "2001:db8:0:1::1")


def test_routes_are_counted_apart() -> None:
    policy = policy_of([{"path": f"/{name}", "name": name, "rate_limit": MINUTE} for name in ("one", "other")])
    limits = Limits(policy.routes, clock=Clock())
    one, other = (limit_of(limits, policy, name) for name in ("one", "other"))
    assert [passes(one, "u1") for _ in range(4)] == [True, True, True, False]
    assert passes(other, "u1")


def test_a_route_without_a_limit_has_none_and_is_plain() -> None:
    policy = policy_of([{"path": "/x"}, {"path": "/y", "rate_limit": MINUTE}])
    limits = Limits(policy.routes)
    assert [(limits.of(route) is None, route.is_plain) for route in policy.routes] == [(True, True), (False, False)]
    assert all(limits.of(route) is None and route.is_plain for route in policy.own)


def test_leaked_requests_can_be_sent_again() -> None:
    clock = Clock()
    limit = one_limit(clock)
    for _ in range(3):
        assert passes(limit, "u1")
    assert counted(limit, "u1").retry_after == 20
    clock.now += 19
    assert counted(limit, "u1").retry_after == 1
    clock.now += 1
    assert [passes(limit, "u1") for _ in range(2)] == [True, False]
    clock.now += 60
    assert [passes(limit, "u1") for _ in range(4)] == [True, True, True, False]


FIELDS = [
    # limit, user, number of requests -> RateLimit-Policy, RateLimit
    ({"requests": 3, "per": "1m"}, "u1", 1, b'"user";q=3;w=60', b'"user";r=2;t=20'),
    ({"requests": 3, "per": "1m"}, "u1", 3, b'"user";q=3;w=60', b'"user";r=0;t=20'),
    ({"requests": 3, "per": "1m"}, "u1", 4, b'"user";q=3;w=60', b'"user";r=0;t=20'),
    ({"requests": 3, "per": "1m"}, None, 1, b'"address";q=3;w=60', b'"address";r=2;t=20'),
    ({"requests": 3, "per": "1m", "by": "address"}, "u1", 1, b'"address";q=3;w=60', b'"address";r=2;t=20'),
    ({"requests": 1, "per": "14d"}, "u1", 2, b'"user";q=1;w=1209600', b'"user";r=0;t=1209600'),
    ({"requests": 10, "per": "250ms"}, "u1", 1, b'"user";q=10', b'"user";r=9;t=1'),
    ({"requests": 1000000000, "per": "1500ms"}, "u1", 1, b'"user";q=1000000000', b'"user";r=999999999;t=1'),
]
# draft-ietf-httpapi-ratelimit-headers and RFC 9651: a List of one String with Integers.
POLICY = re.compile(rb'"[a-z]+";q=[0-9]{1,15}(;w=[1-9][0-9]{0,14})?')
STATE = re.compile(rb'"[a-z]+";r=[0-9]{1,15};t=[1-9][0-9]{0,14}')


@pytest.mark.parametrize(("settings", "user_id", "requests", "policy", "state"), FIELDS)
def test_responses_carry_the_state_of_the_limit(
    settings: dict[str, object], user_id: str | None, requests: int, policy: bytes, state: bytes
) -> None:
    made = policy_of([{"path": "/x", "name": "limited", "rate_limit": settings}])
    limit = limit_of(Limits(made.routes, clock=Clock()), made)
    fields = [counted(limit, user_id).fields for _ in range(requests)][-1]
    assert fields == ((b"ratelimit-policy", policy), (b"ratelimit", state))
    assert POLICY.fullmatch(policy) and STATE.fullmatch(state)


def test_a_reloaded_configuration_resets_no_count() -> None:
    clock = Clock()
    before = policy_of(
        [
            {"path": "/same", "name": "same", "rate_limit": MINUTE},
            {"path": "/changed", "name": "changed", "rate_limit": MINUTE},
            {"path": "/gone", "name": "gone", "rate_limit": MINUTE},
        ]
    )
    after = policy_of(
        [
            {"path": "/same/elsewhere", "name": "same", "roles": ["user"], "rate_limit": MINUTE},
            {"path": "/changed", "name": "changed", "rate_limit": MINUTE | {"requests": 4}},
            {"path": "/new", "name": "new", "rate_limit": MINUTE},
        ]
    )
    limits = Limits(before.routes, clock=clock)
    for name in ("same", "changed", "gone"):
        for _ in range(3):
            assert passes(limit_of(limits, before, name), "u1")
    renewed = limits.renewed(after.routes)
    assert not passes(limit_of(renewed, after, "same"), "u1")
    assert passes(limit_of(renewed, after, "changed"), "u1")
    assert passes(limit_of(renewed, after, "new"), "u1")
    # Requests in progress during the reload are counted in the same bucket.
    clock.now += 20
    assert passes(limit_of(limits, before, "same"), "u1")
    assert not passes(limit_of(renewed, after, "same"), "u1")
    assert all(renewed.of(route) is None for route in before.routes)


@pytest.mark.parametrize(("limited", "most"), [(1, 100_000), (10, 100_000), (2000, 200_000)])
def test_all_limits_together_remember_a_bounded_number_of_callers(limited: int, most: int) -> None:
    routes = [{"path": f"/{number}", "rate_limit": MINUTE | {"by": "user"}} for number in range(limited)]
    policy = policy_of(routes)
    limits = Limits(policy.routes, clock=Clock())
    found = [limit for route in policy.routes if (limit := limits.of(route)) is not None]
    per_route = most // limited * 11 // 10
    request = Request("10.0.0.1")
    for limit in found:
        for number in range(per_route):
            limit.count(str(number), request)
    assert len(found) == limited
    assert sum(len(limit.buckets) for limit in found) <= most
