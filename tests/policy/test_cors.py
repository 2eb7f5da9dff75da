"""CORS decisions as values: each row is a question and its answer."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.cors import Cors, Preflight, origin_allowed, origin_of, preflight_of, without_cors
from gateway.wire.fields import Field
from tests.policy.policies import policy_of

APP = b"https://app.example.com"
LOCAL = b"http://localhost:3000"
LISTED = ["https://app.example.com", "http://localhost:3000"]


def cors_of(route: dict[str, object] | None = None, **settings: object) -> Cors:
    """The compiled rule of a route with these settings."""
    cors = {"origins": LISTED} | settings
    policy = policy_of([{"path": "/x", "auth": "none", "cors": cors, **(route or {})}])
    found = policy.routes[0].cors
    assert found is not None
    return found


def values_of(fields: Sequence[Field] | None) -> dict[str, str]:
    """The Access-Control fields by the rest of their names. Each must be unique."""
    assert fields is not None
    names = [name for name, _ in fields]
    assert len(set(names)) == len(names)
    return {
        name.decode().removeprefix("access-control-"): value.decode()
        for name, value in fields
        if name.startswith(b"access-control-")
    }


def asked(cors: Cors, origin: bytes = APP, method: bytes = b"GET", headers: bytes = b"") -> dict[str, str]:
    return values_of(cors.answer(Preflight(origin, method, headers)))


# ---- origins

STRANGERS = [
    b"https://app.example.com.evil.example",
    b"https://evil.example/https://app.example.com",
    b"https://evilapp.example.com",
    b"https://sub.app.example.com",
    b"http://app.example.com",
    b"https://app.example.com:8443",
    b"https://app.example.com:443",
    b"https://app.example.com/",
    b"https://app.example.com.",
    b"https://app-example.com",
    b"https://app.example.com, https://app.example.com",
    b"https://app.example.com https://evil.example",
    b"https://user@app.example.com",
    b"https://app%2eexample.com",
    b"https://app.example.com\xc2\xa0",
    b"http://localhost",
    b"http://localhost:30000",
    b"app.example.com",
    b"null",
    b"*",
    b"",
]


@pytest.mark.parametrize("origin", [APP, LOCAL, b"https://APP.example.com", b"HTTPS://app.example.com"])
def test_a_listed_origin_receives_its_own_name(origin: bytes) -> None:
    cors = cors_of()
    assert origin_allowed(cors, origin)
    assert values_of(cors.fields(origin, b"GET"))["allow-origin"] == origin.decode().lower()
    assert asked(cors, origin)["allow-origin"] == origin.decode().lower()


@pytest.mark.parametrize("origin", STRANGERS)
def test_an_unlisted_origin_receives_nothing(origin: bytes) -> None:
    cors = cors_of()
    assert not origin_allowed(cors, origin)
    assert cors.fields(origin, b"GET") == ((b"vary", b"Origin"),)
    assert cors.answer(Preflight(origin, b"GET", b"")) is None


@given(st.binary(max_size=60))
def test_no_other_bytes_are_a_listed_origin(origin: bytes) -> None:
    cors = cors_of()
    assert origin_allowed(cors, origin) == (origin.lower() in (APP, LOCAL))


def test_a_port_that_browsers_leave_out_may_be_written_in_the_file() -> None:
    cors = cors_of(origins=["https://app.example.com:443", "http://plain.example:80", "https://odd.example:80"])
    assert [origin_allowed(cors, origin) for origin in (APP, b"http://plain.example", b"https://odd.example")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("origin", [APP, b"https://anybody.example", b"null", b"", None])
def test_every_origin_receives_the_same_where_all_are_allowed(origin: bytes | None) -> None:
    """Caches need only one copy of the response."""
    cors = cors_of(origins=["*"])
    assert origin_allowed(cors, origin)
    fields = cors.fields(origin, b"GET")
    assert values_of(fields)["allow-origin"] == "*"
    assert not any(name == b"vary" for name, _ in fields)


def test_a_request_without_an_origin_receives_vary() -> None:
    cors = cors_of()
    assert cors.fields(None, b"GET") == ((b"vary", b"Origin"),)
    assert (b"vary", b"Origin") in cors.fields(APP, b"GET")


def test_a_route_without_cors_has_nothing_against_a_handshake_and_no_origin_is_no_page() -> None:
    assert origin_allowed(None, b"https://anybody.example")
    assert origin_allowed(None, None)
    assert origin_allowed(cors_of(), None)


# ---- responses

ANSWERS: list[tuple[dict[str, object], bytes, bytes, dict[str, str]]] = [
    ({}, APP, b"GET", {"allow-origin": APP.decode()}),
    ({"credentials": True}, APP, b"GET", {"allow-origin": APP.decode(), "allow-credentials": "true"}),
    ({"methods": ["POST"]}, APP, b"POST", {"allow-origin": APP.decode()}),
    ({"methods": ["GET"]}, APP, b"HEAD", {"allow-origin": APP.decode()}),
    ({"methods": ["POST"]}, APP, b"GET", {}),
    ({"methods": ["POST"], "origins": ["*"]}, APP, b"GET", {}),
]
EXPOSED = {"expose-headers": "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy"}


@pytest.mark.parametrize(("settings", "origin", "method", "expected"), ANSWERS)
def test_the_fields_added_to_a_response(
    settings: dict[str, Any], origin: bytes, method: bytes, expected: dict[str, str]
) -> None:
    assert values_of(cors_of(**settings).fields(origin, method)) == (expected | EXPOSED if expected else {})


# ---- preflights: route, rule, request -> methods, headers

USUAL = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
Row = tuple[dict[str, object], dict[str, object], bytes, bytes, str | None, str | None]
PREFLIGHTS: list[Row] = [
    ({}, {}, b"GET", b"", USUAL, None),
    ({}, {}, b"DELETE", b"x-other", USUAL, None),
    ({}, {}, b"PURGE", b"", USUAL + ", PURGE", None),
    ({}, {}, b"PUR GE, GET", b"", USUAL, None),
    ({"methods": ["GET"]}, {}, b"GET", b"", "GET, HEAD", None),
    ({"methods": ["PUT", "DELETE"]}, {}, b"PUT", b"", "DELETE, PUT", None),
    ({"methods": ["PUT", "DELETE"]}, {"methods": ["PUT"]}, b"PUT", b"", "PUT", None),
    ({"methods": ["PUT", "DELETE"]}, {"methods": ["PUT"]}, b"DELETE", b"", None, None),
    ({"methods": ["GET"]}, {"methods": ["GET", "PUT"]}, b"GET", b"", "GET, HEAD", None),
    ({}, {"methods": ["POST"]}, b"POST", b"", "POST", None),
    ({}, {"methods": ["POST"]}, b"GET", b"", None, None),
    ({}, {"methods": ["POST"]}, b"post", b"", None, None),
    ({}, {"headers": ["Content-Type", "X-Tenant"]}, b"GET", b"x-tenant", USUAL, "Content-Type, X-Tenant"),
    ({}, {"headers": ["Content-Type"]}, b"GET", b"x-other", USUAL, "Content-Type"),
    ({"auth": "required"}, {}, b"GET", b"authorization", USUAL, "Authorization"),
    ({"auth": "optional"}, {"headers": ["X-Tenant"]}, b"GET", b"", USUAL, "X-Tenant, Authorization"),
    ({"auth": "required"}, {"headers": ["AUTHORIZATION"]}, b"GET", b"", USUAL, "AUTHORIZATION"),
    ({}, {"headers": ["*"]}, b"GET", b"x-one, X-Two,,x three,x-f\xc3\xbcnf", USUAL, "x-one, x-two"),
    ({}, {"headers": ["*"], "credentials": True}, b"GET", b"x-one", USUAL, "x-one"),
    ({}, {"headers": ["*"]}, b"GET", b"x," * 2_048, USUAL, ", ".join(["x"] * 2_048)),
    ({"auth": "required"}, {"headers": ["*"]}, b"GET", b"x," * 2_049, USUAL, "Authorization"),
    ({"auth": "required"}, {"headers": ["*", "X-Tenant"]}, b"GET", b"", USUAL, "X-Tenant, Authorization"),
]


@pytest.mark.parametrize(("route", "settings", "method", "headers", "methods", "allowed"), PREFLIGHTS)
def test_the_fields_of_a_preflight(
    route: dict[str, object],
    settings: dict[str, object],
    method: bytes,
    headers: bytes,
    methods: str | None,
    allowed: str | None,
) -> None:
    cors = cors_of(route, **settings)
    if methods is None:
        assert cors.answer(Preflight(APP, method, headers)) is None
        return
    expected = {"allow-origin": APP.decode(), "allow-methods": methods, "max-age": "600"}
    if allowed is not None:
        expected["allow-headers"] = allowed
    if settings.get("credentials"):
        expected["allow-credentials"] = "true"
    assert asked(cors, APP, method, headers) == expected


@pytest.mark.parametrize(("written", "seconds"), [("10m", "600"), ("0s", "0"), ("1d", "86400"), ("1500ms", "1")])
def test_how_long_browsers_may_remember_it(written: str, seconds: str) -> None:
    assert asked(cors_of(max_age=written))["max-age"] == seconds


def test_a_preflight_response_must_not_be_cached_by_others() -> None:
    fields = cors_of().answer(Preflight(APP, b"GET", b""))
    assert fields is not None
    assert {(b"vary", b"Origin"), (b"cache-control", b"no-store")} <= set(fields)


def test_every_origin_passes_a_preflight_where_all_are_allowed() -> None:
    assert asked(cors_of(origins=["*"]), b"null")["allow-origin"] == "*"


# ---- parsing requests and responses

ORIGINS = [
    ([], None),
    ([(b"Origin", APP)], APP),
    ([(b"oRIGIN", b" https://app.example.com\t")], APP),
    ([(b"Origin", APP), (b"Origin", APP)], b""),
    ([(b"Origin", APP), (b"origin", b"https://evil.example")], b""),
    ([(b"Origin", b"")], b""),
    ([(b"X-Origin", APP), (b"Origins", APP)], None),
]


@pytest.mark.parametrize(("fields", "origin"), ORIGINS)
def test_the_origin_of_a_request_is_one_or_none_that_is_listed(fields: list[Field], origin: bytes | None) -> None:
    assert origin_of(fields) == origin


METHOD = (b"Access-Control-Request-Method", b"PUT")
HEADERS = (b"access-control-request-headers", b"x-one,x-two")
QUESTIONS = [
    ([(b"Origin", APP), METHOD], Preflight(APP, b"PUT", b"")),
    ([METHOD, HEADERS, (b"origin", APP)], Preflight(APP, b"PUT", b"x-one,x-two")),
    ([(b"Origin", APP), (b"ACCESS-CONTROL-REQUEST-METHOD", b" PUT ")], Preflight(APP, b"PUT", b"")),
    ([(b"Origin", APP)], None),
    ([METHOD], None),
    ([(b"Origin", APP), HEADERS], None),
]


@pytest.mark.parametrize(("fields", "preflight"), QUESTIONS)
def test_a_preflight_has_an_origin_and_asks_for_a_method(fields: list[Field], preflight: Preflight | None) -> None:
    assert preflight_of(fields) == preflight


def test_cors_fields_of_an_upstream_are_dropped_except_the_exposed_names() -> None:
    fields = [
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Vary", b"Accept"),
        (b"ACCESS-CONTROL-ALLOW-CREDENTIALS", b"true"),
        (b"access-control-allow-private-network", b"true"),
        (b"Access-Control-Expose-Headers", b"X-Total"),
        (b"Access-Control-Max-Age", b"1"),
        (b"Access-Control-", b"x"),
        (b"Access-Controlled", b"x"),
        (b"Timing-Allow-Origin", b"*"),
    ]
    assert without_cors(fields) == [fields[index] for index in (1, 4, 7, 8)]


def test_a_route_with_cors_is_not_plain_and_own_routes_have_none() -> None:
    policy = policy_of([{"path": "/x", "cors": {"origins": LISTED}}, {"path": "/y"}])
    assert [route.is_plain for route in policy.routes] == [False, True]
    assert all(route.cors is None for route in policy.own)
