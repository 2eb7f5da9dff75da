"""Load a policy from a file, or report all problems at once."""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gateway.errors import CannotStart, ConfigurationError
from gateway.policy.loader import compile_policy, load_configuration
from gateway.policy.policy import Policy
from gateway.policy.route import NOTHING_MORE
from gateway.settings.model import RouteSettings, Settings
from tests.policy.policies import outcome, policy_of, problems_of, settings_of

GOOD = """
server: {paths: relaxed}
upstreams: {web: http://127.0.0.1:9000}
accounts: {password: {bcrypt_rounds: 9}}
roles: {admin: [user], user: []}
routes:
  - {path: /public/**, auth: none, upstream: web}
  - path: /orders/{order_id}
    methods: [GET]
    roles: [user, admin]
    upstream: web
  - path: /users/{user_id}/**
    roles: {all: [admin]}
    owner: user_id
    host: API.example.com
    name: user-space
    rewrite: /v2/{user_id}/{**}
    websocket: true
    encoded_slash: keep
    upstream: web
  - {path: /maybe, auth: optional, upstream: "${UPSTREAM}"}
"""

BAD = """
upstreams: {web: http://127.0.0.1:9000}
accounts: {prefix: 7x}
routes:
  - {path: "/a{b}", upstream: web}
  - {path: "/x/{one}", upstream: web}
  - {path: /y, upstream: nowhere}
  - {path: "/x/{two}/", methods: [GET], upstream: web, rewrite: "/{three}"}
  - {path: /z, upstream: web, colour: red}
  - {path: /_gateway/health, upstream: web}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return path


def test_a_good_file_becomes_settings_and_a_policy(tmp_path: Path) -> None:
    configuration = load_configuration(written(tmp_path, GOOD), {"UPSTREAM": "web"})
    public, order, user, maybe = configuration.policy.routes
    assert configuration.settings.server.paths == "relaxed"
    assert [warning.key for warning in configuration.warnings] == ["accounts.password.bcrypt_rounds"]

    assert (public.name, public.authentication, public.methods, public.host) == ("/public/**", "none", None, None)
    assert (order.name, order.authentication, order.methods) == (
        "GET /orders/{order_id}",
        "required",
        frozenset({b"GET", b"HEAD"}),
    )
    assert (order.requirement.any, order.requirement.all, order.requirement.owner) == (
        frozenset({"user", "admin"}),
        None,
        None,
    )
    assert (user.name, user.host, user.pattern) == ("user-space", b"api.example.com", "/users/{user_id}/**")
    assert (user.requirement.all, user.requirement.owner) == (frozenset({"admin"}), "user_id")
    assert (user.websocket, user.keeps_encoded_slash, user.upstream) == (True, True, "web")
    assert (maybe.authentication, maybe.upstream, maybe.requirement) == ("optional", "web", NOTHING_MORE)
    assert user.settings is configuration.settings.routes[2]
    assert user.position is not None
    assert user.position.line == 12
    # Relaxed paths are matched as such.
    assert outcome(configuration.policy, b"//public/a;b", relaxed=True) == "/public/**"


def test_the_process_environment_is_taken_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM", "web")
    assert load_configuration(written(tmp_path, GOOD)).policy.routes[3].upstream == "web"


def test_the_defaults_of_a_route_are_strict() -> None:
    (route,) = policy_of([{"path": "/a"}]).routes
    assert route.authentication == "required"
    assert route.requirement is NOTHING_MORE
    assert not route.websocket
    assert not route.keeps_encoded_slash
    assert not route.shadow
    assert route.rewrite is None


def test_problems_of_settings_and_of_the_policy_are_reported_together(tmp_path: Path) -> None:
    path = written(tmp_path, BAD)
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path, {})
    found = [(problem.line, problem.key) for problem in caught.value.problems]
    assert found == [
        (3, "accounts.prefix"),
        (5, "routes[0].path"),
        (7, "routes[2].upstream"),
        (8, "routes[3].path"),
        (8, "routes[3].rewrite"),
        (9, "routes[4].colour"),
        (10, "routes[5].path"),
    ]
    assert f"{path}:8:12: routes[3].path: route 'GET /x/{{two}}' matches the same" in str(caught.value)


def test_a_file_that_is_not_there_is_no_configuration_problem(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="No such file"):
        load_configuration(tmp_path / "nothing.yaml", {})


# ---- conflicts


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ({"path": "/a"}, {"path": "/a"}, "for all methods"),
        ({"path": "/a"}, {"path": "/a/"}, "for all methods"),
        ({"path": "/a/**"}, {"path": "/a/**/"}, "for all methods"),
        ({"path": "/a!"}, {"path": "/a%21"}, "for all methods"),
        ({"path": "/{x}"}, {"path": "/{y}"}, "found '/{y}' and '/{x}'"),
        ({"path": "/a"}, {"path": "/a", "methods": ["POST", "PUT"]}, "for POST, PUT"),
        ({"path": "/a", "methods": ["POST", "PUT"]}, {"path": "/a"}, "for POST, PUT"),
        ({"path": "/a", "methods": ["GET", "PUT"]}, {"path": "/a", "methods": ["PUT", "POST"]}, "for PUT"),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["HEAD"]}, "for HEAD"),
        ({"path": "/a", "host": "h.example"}, {"path": "/a", "host": "H.EXAMPLE."}, "on h.example for all methods"),
        ({"path": "/a", "shadow": True}, {"path": "/a", "shadow": True}, "for all methods"),
    ],
)
def test_two_routes_for_the_same_requests_are_an_error_that_names_both(
    one: dict[str, object], other: dict[str, object], shown: str
) -> None:
    (problem,) = problems_of([{**one, "name": "first"}, {**other, "name": "second"}])
    assert problem.startswith("routes[1].path: route 'second' matches the same requests as route 'first' in line ")
    assert shown in problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"path": "/a"}, {"path": "/a/**"}),
        ({"path": "/a/{x}"}, {"path": "/a/b"}),
        ({"path": "/a/{x}"}, {"path": "/{x}/a"}),
        ({"path": "/a"}, {"path": "/A"}),
        ({"path": "/a"}, {"path": "/a", "host": "h.example"}),
        ({"path": "/a", "host": "g.example"}, {"path": "/a", "host": "h.example"}),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["POST"]}),
        ({"path": "/a"}, {"path": "/a", "shadow": True}),
    ],
)
def test_distinguishable_routes_can_stand_side_by_side(one: dict[str, object], other: dict[str, object]) -> None:
    assert problems_of([one, other]) == []
    assert problems_of([other, one]) == []


def test_every_route_that_contradicts_another_is_reported() -> None:
    problems = problems_of([{"path": "/a", "name": f"n{number}"} for number in range(4)])
    assert [problem.partition(":")[0] for problem in problems] == [f"routes[{n}].path" for n in (1, 2, 3)]


# ---- names


def test_default_names_are_made_of_path_methods_and_host() -> None:
    routes: list[dict[str, object]] = [
        {"path": "/a/{x}/"},
        {"path": "/b", "methods": ["GET", "POST"]},
        {"path": "/b", "methods": ["PUT"], "host": "h.example"},
        {"path": "/b", "methods": ["PUT"]},
        {"path": "/b", "methods": ["PUT"], "shadow": True},
    ]
    names = [route.name for route in policy_of(routes).routes]
    assert names == ["/a/{x}", "GET,POST /b", "PUT h.example/b", "PUT /b", "PUT /b (shadow)"]


@pytest.mark.parametrize("name", ["/a", "accounts.login"])
def test_a_name_that_another_route_has_by_default_is_an_error(name: str) -> None:
    (problem,) = problems_of([{"path": "/a"}, {"path": "/b", "name": name}])
    assert problem.startswith(f"routes[1].name: must be unique, found '{name}' for ")


# ---- single routes


@pytest.mark.parametrize(
    ("route", "key", "message"),
    [
        ({"path": "/a/{b"}, "path", "has an unbalanced brace, found '/a/{b' (a capture is {name}"),
        ({"path": "/a/../b"}, "path", "can never match: its segment '..' has a segment of dots"),
        ({"path": "/a%2Fb"}, "path", "can never match, found '%2F' in '/a%2Fb' (encoded_slash: keep)"),
        ({"path": "/a/**", "strip_prefix": "/b"}, "strip_prefix", "must be the beginning of the route's path"),
        ({"path": "/a/{x}", "rewrite": "/{y}"}, "rewrite", "uses 'y', which is no capture of '/a/{x}'"),
    ],
)
def test_a_problem_of_a_route_is_reported_at_its_key(route: dict[str, object], key: str, message: str) -> None:
    (problem,) = problems_of([route])
    assert problem.startswith(f"routes[0].{key}: {message}")


def test_a_literal_encoded_slash_is_fine_where_it_is_kept() -> None:
    assert problems_of([{"path": "/a%2Fb", "encoded_slash": "keep"}]) == []


@pytest.mark.parametrize("host", ["*.example.com", "bücher.example", "a..b", ""])
def test_a_host_that_no_request_can_have_is_an_error(host: str) -> None:
    route = RouteSettings(path="/a", upstream="web", host=host, key="routes[0]")
    with pytest.raises(ConfigurationError, match="must be a host name or an address"):
        compile_policy(Settings(routes=(route,)))


@pytest.mark.parametrize("asks", [{"roles": ["admin"]}, {"owner": "x"}])
def test_a_route_that_names_an_owner_admits_no_anonymous_caller(asks: dict[str, object]) -> None:
    (route,) = policy_of([{"path": "/{x}", "auth": "optional", **asks}]).routes
    assert route.authentication == "required"


# ---- size


def entangled(depth: int) -> list[dict[str, object]]:
    """All patterns of this depth with a literal or a capture in each segment."""
    return [
        {"path": "".join("/a" if number >> bit & 1 else f"/{{c{bit}}}" for bit in range(depth))}
        for number in range(2**depth)
    ]


def test_rules_that_make_a_request_search_too_long_are_refused() -> None:
    (problem,) = problems_of(entangled(10))
    assert "mix literals and captures so that one request could take 2047 steps" in problem
    assert problem.startswith("routes[")


def test_each_host_is_looked_at_for_entangled_rules() -> None:
    (problem,) = problems_of([{**route, "host": "h.example"} for route in entangled(10)])
    assert "2047 steps" in problem


def test_the_most_entangled_rules_that_are_allowed_are_searched_fast() -> None:
    policy = policy_of(entangled(8))
    path = b"/a" * 8 + b"/and-then-nothing"
    assert outcome(policy, path) == "no_route"
    assert best_time(partial(outcome, policy, path)) < 0.02


@pytest.mark.parametrize("segment", [b"/a", b"/x", b"/a%20", b"/%61"])
def test_a_path_takes_linear_time(segment: bytes) -> None:
    policy = policy_of([*entangled(6), {"path": "/a/**"}, {"path": "/{x}/**"}])
    short, long = (best_time(partial(outcome, policy, segment * count)) for count in (500, 4000))
    assert long < 20 * short  # eight times as long; a quadratic search would take sixty-four times


def best_time(call: Callable[[], object]) -> float:
    """The minimum CPU seconds of a call."""
    best = float("inf")
    for _ in range(10):
        began = time.thread_time()
        call()
        best = min(best, time.thread_time() - began)
    return best


def many_routes(count: int) -> Settings:
    return Settings(
        routes=tuple(
            RouteSettings(path=f"/service-{n}/orders/{{id}}", upstream="web", methods=("GET",), key=f"routes[{n}]")
            for n in range(count)
        )
    )


def test_ten_thousand_routes_are_compiled_fast_and_matched_like_ten() -> None:
    few, settings = compile_policy(many_routes(10)), many_routes(10_000)
    gc.disable()  # a collection would examine the millions of objects of a process that runs the whole suite
    try:
        began = time.thread_time()
        many = compile_policy(settings)
        spent = time.thread_time() - began
    finally:
        gc.enable()
    is_traced = sys.gettrace() is not None  # coverage makes it six times as slow
    assert spent < (20 if is_traced else 3)  # 0.3 s on an idle machine

    def match(policy: Policy) -> None:
        for _ in range(500):
            assert outcome(policy, b"/service-7/orders/1") == "GET /service-7/orders/{id}"

    assert best_time(lambda: match(many)) < 5 * best_time(lambda: match(few))  # a list would take 1,000 times as long
    assert outcome(many, b"/service-9999/orders/1") == "GET /service-9999/orders/{id}"


def test_settings_without_routes_make_a_policy_of_own_endpoints() -> None:
    policy = compile_policy(settings_of())
    assert policy.routes == ()
    assert outcome(policy, b"/_gateway/health") == "operations.health"


@pytest.mark.parametrize(
    ("prefix", "pages", "found"),
    [
        ("/account", "/account", "found a page at '/account/register', where accounts.register is"),
        ("/auth", "/auth/password", "found a page at '/auth/password', where accounts.password is"),
        ("/auth", "/auth/users", "found a page at '/auth/users', where admin.users.list is"),
        ("/auth", "/.well-known/change-password", "where pages.change_password is"),
        ("/auth", "/auth/account", None),
        ("/account/api", "/account", None),
        ("/auth", "/authority", None),
    ],
)
def test_pages_on_other_paths_of_the_gateway_are_a_problem(
    tmp_path: Path, prefix: str, pages: str, found: str | None
) -> None:
    file = tmp_path / "gateway.yaml"
    accounts = f"{{prefix: {prefix}, pages: {{path: {pages}}}}}"
    file.write_text(f"server: {{public_url: 'https://a.example.com'}}\nsessions: {{}}\naccounts: {accounts}\n")
    if found is None:
        assert load_configuration(file, {}).policy
        return
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(file, {})
    [problem] = caught.value.problems
    assert problem.key == "accounts.pages.path" and found in problem.message
