"""SIGHUP: routes, upstreams, roles and limits change without affecting running requests, and an invalid file changes
nothing."""

import asyncio
import copy
import signal
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gateway.policy.loader import load_configuration
from gateway.server.reload import merged
from tests.server.changing import configuration_of, reload, with_route
from tests.support.fleet import OK, Fleet, Served
from tests.support.load import Load
from tests.support.processes import Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.small import Start, metric
from tests.support.waiting import eventually, listens, promised, within
from tests.support.websockets import Socket, echoing, text
from tests.support.wording import request

GET = request("/web/x")
IN_FORCE = "the new configuration is in force"
REFUSED = "refused, the old configuration stays: "


# ---- under load


async def test_20_reloads_under_load_lose_no_request(start: Start, fleet: Fleet) -> None:
    """One upstream is unchanged and keeps its connections; the other changes each time and gets new ones."""
    same, other = fleet["a"], fleet["b"]
    fleet.behave(lambda served: served.later(0.003, lambda: served.send(OK)))
    gateway = start({"same": same.url, "other": {"targets": [other.url], "idle_timeout": "30s"}})
    configuration = configuration_of(gateway)
    callers = 8
    paths = ("/same/x", "/other/x")
    async with Load(gateway.address, lambda number: request(paths[number % 2]), callers=callers, pause=0.005) as load:
        await load.more(200)
        for number in range(20):
            configuration = with_route(configuration, path=f"/new-{number}", upstream="same")
            configuration["upstreams"]["other"]["idle_timeout"] = f"{31 + number}s"
            assert IN_FORCE in await asyncio.to_thread(reload, gateway, configuration)
            await load.more(50)
            assert (await asyncio.to_thread(gateway.get, f"/new-{number}")).status == 200
    print(f"\n20 reloads during {len(load.answers)} requests; p99 {load.percentile(0.99) * 1000:.1f} ms")
    assert load.lost == []
    assert load.statuses == {200: len(load.answers)}
    assert same.accepted <= callers + 1, "its connections were kept"
    assert other.accepted >= 20, "it got new connections each time"
    await asyncio.to_thread(other.idle, callers)
    assert load.percentile(0.99) < promised(1.0)


async def test_signals_one_after_another_end_with_the_newest_file(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    configuration = configuration_of(gateway)
    async with Load(gateway.address, lambda _: GET, callers=4, pause=0.005) as load:
        for number in range(30):
            configuration = with_route(configuration, path=f"/new-{number}")
            await asyncio.to_thread(_change_softly, gateway, configuration)
            gateway.signal(signal.SIGHUP)
        await asyncio.to_thread(lambda: eventually(lambda: gateway.get("/new-29").status == 200, timeout=20))
        await load.more(50)
    assert load.lost == []
    assert load.statuses == {200: len(load.answers)}


def _change_softly(gateway: Gateway, configuration: object) -> None:
    """Change the file atomically, because signals arrive all the time."""
    new = gateway.config.with_suffix(".new")
    new.write_text(yaml.safe_dump(configuration))
    new.replace(gateway.config)


# ---- running requests continue


def test_requests_that_run_and_wait_are_finished_though_their_upstream_is_gone(start: Start, fleet: Fleet) -> None:
    """One response is in progress, one request waits for a response, one waits for a connection."""
    target = fleet["a"]
    held: list[Served] = []
    target.behaviour = held.append
    gateway = start({"web": {"targets": [target.url], "max_connections": 2, "connect_timeout": "20s"}})
    with gateway.caller() as first, gateway.caller() as second, gateway.caller() as third:
        first.send(GET)
        eventually(lambda: len(held) == 1)
        held[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nha")
        head = first.receive_head()
        second.send(GET)
        eventually(lambda: len(held) == 2)
        third.send(GET)
        eventually(lambda: metric(gateway, "gateway_upstream_waiting", upstream="web") == 1)
        changed = configuration_of(gateway) | {"upstreams": {}, "routes": []}
        assert IN_FORCE in reload(gateway, changed)
        assert gateway.get("/web/x").refused() == (404, "no_route")
        time.sleep(0.5)
        fleet.loop.call_soon_threadsafe(held[0].send, b"lf.")
        pieces: list[bytes] = []
        assert first.receive_body(head, pieces.append)[1]
        fleet.loop.call_soon_threadsafe(held[1].send, OK)
        assert second.receive().body == b"ok"
        eventually(lambda: len(held) == 3)
        fleet.loop.call_soon_threadsafe(held[2].send, OK)
        assert third.receive().body == b"ok"
        assert first.send(GET).receive().refused() == (404, "no_route")
    target.idle()


def test_a_response_that_does_not_come_is_a_time_out_though_its_upstream_is_gone(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": {"targets": fleet.urls, "response_timeout": "1s"}})
    with gateway.caller() as caller:
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        reload(gateway, configuration_of(gateway) | {"upstreams": {}, "routes": []})
        with within(3.0):
            assert caller.receive().refused() == (504, "upstream_timeout")


def test_event_streams_and_large_bodies_survive(start: Start, fleet: Fleet) -> None:
    size = 20_000_000
    held: list[Served] = []

    def behave(served: Served) -> None:
        if served.target.endswith(b"events"):
            served.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            held.append(served)
        else:
            served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    fleet.behave(behave)
    gateway = start({"web": fleet.urls})
    with gateway.caller() as listening, gateway.caller() as loading:
        listening.send(request("/web/events"))
        listening.receive_head()
        loading.send(GET)
        head = loading.receive_head()
        for number in range(3):
            changed = with_route(configuration_of(gateway), path=f"/new-{number}")
            changed["upstreams"]["web"]["idle_timeout"] = f"{40 + number}s"
            reload(gateway, changed)
        eventually(lambda: held)
        fleet.loop.call_soon_threadsafe(held[0].send, b"data: still here\n\n")
        got = b""
        while b"still here" not in got:
            got += listening.socket.recv(1000)
        total = 0

        def count(piece: bytes) -> None:
            nonlocal total
            total += len(piece)

        assert loading.receive_body(head, count)[1]
        assert total == size


SOCKETS: dict[str, Any] = {"path": "/sockets/**", "websocket": True, "upstream": "web"}
FOR_ALL, FOR_USERS = SOCKETS | {"auth": "none"}, SOCKETS | {"auth": "required"}
FOR_CLERKS = SOCKETS | {"roles": ["clerk"]}
ROLES: dict[str, list[str]] = {"clerk": [], "boss": [], "user": []}

# By name: the route before, whether the caller is signed in as a clerk, the change, and the code of the Close.
TAKEN: dict[str, tuple[dict[str, Any], bool, dict[str, Any], str]] = {
    "the route and its upstream": (FOR_ALL, False, {"upstreams": {}, "routes": []}, "no_route"),
    "the route of a user": (FOR_CLERKS, True, {"routes": []}, "no_route"),
    "WebSocket": (FOR_CLERKS, True, {"routes": [FOR_CLERKS | {"websocket": False}]}, "websocket_not_allowed"),
    "the role's right": (FOR_CLERKS, True, {"routes": [FOR_CLERKS | {"roles": ["boss"]}]}, "forbidden"),
    "an implied role": (FOR_CLERKS, True, {"roles": ROLES | {"user": []}}, "forbidden"),
    "anonymous callers": (FOR_ALL, False, {"routes": [FOR_USERS]}, "token_missing"),
    "a user, by a narrower route": (
        FOR_USERS,
        True,
        {"routes": [FOR_USERS, FOR_CLERKS | {"path": "/sockets/x", "roles": ["boss"]}]},
        "forbidden",
    ),
    "pages of other origins": (
        FOR_USERS,
        True,
        {"routes": [FOR_USERS | {"cors": {"origins": ["https://a.example"]}}]},
        "origin_not_allowed",
    ),
    "the host": (FOR_ALL, False, {"routes": [FOR_ALL | {"host": "other.example"}]}, "no_route"),
}


@pytest.mark.parametrize("taken", TAKEN)
def test_a_reload_ends_a_websocket_that_the_new_policy_refuses(
    start: Start, upstream: RecordingUpstream, taken: str
) -> None:
    before, signed_in, change, code = TAKEN[taken]
    upstream.on("/sockets/x", echoing())
    roles = ROLES | {"user": ["clerk"]}
    gateway = start({"web": upstream.url}, routes=[before], roles=roles, accounts={"default_roles": ["user"]})
    fields = [gateway.newcomer().line] if signed_in else []
    with Socket(gateway, "/sockets/x", "Origin: https://b.example", *fields) as socket:
        assert socket.say(text("before")).message() == b"before"
        assert IN_FORCE in reload(gateway, configuration_of(gateway) | change)
        assert socket.frame(within=promised(1.0)).closing == (1008, code)


# By name: the route before, whether the caller is signed in, and the route afterwards.
LEFT: dict[str, tuple[dict[str, Any], bool, dict[str, Any]]] = {
    "nothing": (FOR_CLERKS, True, FOR_CLERKS),
    "more than it asks": (FOR_USERS, True, FOR_CLERKS),
    "less than it asked": (FOR_CLERKS, True, FOR_ALL),
    "another pattern": (FOR_USERS, True, FOR_USERS | {"path": "/sockets/{name}"}),
    "a limit": (FOR_USERS, True, FOR_USERS | {"rate_limit": {"requests": 1, "per": "1h"}}),
    "anonymous callers": (FOR_ALL, False, SOCKETS | {"auth": "optional"}),
}


def test_a_reload_leaves_the_websockets_that_the_new_policy_allows(start: Start, upstream: RecordingUpstream) -> None:
    """Each has a path of its own. The WebSocket of a removed route ends in the same check of all WebSockets."""

    def at(number: int, route: dict[str, Any]) -> dict[str, Any]:
        return route | {"path": route["path"].replace("sockets", f"sockets-{number}")}

    before = [at(number, route) for number, (route, _, _) in enumerate(LEFT.values())]
    after = [at(number, route) for number, (_, _, route) in enumerate(LEFT.values())]
    removed = at(len(LEFT), FOR_ALL)
    gateway = start(
        {"web": upstream.url},
        routes=[*before, removed],
        roles=ROLES | {"user": ["clerk"]},
        accounts={"default_roles": ["user"]},
    )
    account = gateway.newcomer()
    with ExitStack() as stack:
        sockets: list[Socket] = []
        for number, signed_in in enumerate([*(signed_in for _, signed_in, _ in LEFT.values()), False]):
            upstream.on(f"/sockets-{number}/x", echoing())
            fields = [account.line] if signed_in else []
            sockets.append(stack.enter_context(Socket(gateway, f"/sockets-{number}/x", *fields)))
        *stay, ends = sockets
        assert IN_FORCE in reload(gateway, configuration_of(gateway) | {"routes": after})
        assert ends.closed() == (1008, "no_route")
        # The callers are still signed in and can be signed out.
        assert gateway.ask(request("/auth/logout", method="POST", fields=[account.line])).status == 204
        for socket, (name, (_, signed_in, _)) in zip(stay, LEFT.items(), strict=True):
            if signed_in:
                assert socket.closed() == (1008, "token_revoked"), name
            else:
                assert socket.say(text("after")).message() == b"after", name


def test_a_reload_ends_an_event_stream_whose_route_is_gone(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"))
    gateway = start({"web": fleet.urls})
    with gateway.caller() as caller:
        caller.send(request("/web/events"))
        assert caller.receive_head().status == 200
        reload(gateway, configuration_of(gateway) | {"routes": []})
        with within(promised(1.2)):
            caller.ended()


def test_the_pools_of_removed_upstreams_are_emptied(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet["a"].url, "other": fleet["b"].url})
    for path in ("/web/x", "/other/x"):
        assert gateway.get(path).status == 200
    assert metric(gateway, "gateway_upstream_connections") == 2
    changed = configuration_of(gateway)
    del changed["upstreams"]["other"], changed["routes"][1]
    reload(gateway, changed)
    fleet["b"].idle()
    assert len(fleet["a"].connections) == 1
    assert metric(gateway, "gateway_upstream_connections") == 1


def test_the_checks_of_removed_upstreams_end_and_those_of_new_ones_begin(start: Start, fleet: Fleet) -> None:
    checked = {"path": "/healthz", "interval": "50ms"}
    gateway = start({"web": {"targets": [fleet["a"].url], "health": checked}})
    eventually(lambda: fleet["a"].requests > 2)
    changed = configuration_of(gateway)
    changed["upstreams"]["web"]["targets"] = [fleet["b"].url]
    reload(gateway, changed)
    eventually(lambda: fleet["b"].requests > 2)
    seen = fleet["a"].requests
    time.sleep(0.4)
    assert fleet["a"].requests == seen


def test_the_state_of_a_target_survives_a_reload(start: Start, fleet: Fleet) -> None:
    """A reload does not make an ejected target available."""
    fleet["a"].behaviour = lambda served: served.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    eject = {"failures": 1, "for": "1m", "statuses": [503]}
    gateway = start({"web": {"targets": [fleet["a"].url, fleet["b"].url], "eject": eject}})
    assert {gateway.get("/web/x").status for _ in range(2)} == {200, 503}
    reload(gateway, with_route(configuration_of(gateway), path="/new"))
    assert {gateway.get("/new").status for _ in range(4)} == {200}
    assert fleet["a"].requests == 1


# ---- invalid files


def test_a_broken_file_changes_nothing_and_every_problem_is_reported(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    good = configuration_of(gateway)
    broken = with_route(good, path="/new", upstream="nowhere", roles=["x"])
    broken["server"]["prot"] = 1
    broken["upstreams"]["web"]["balance"] = "at random"
    broken["routes"].append({"path": "relative", "upstream": "web"})
    reload(gateway, broken)
    keys = ("server.prot", "upstreams.web.balance", "routes[1].upstream", "routes[2].path")
    # Each problem is a separate line, and the first can be read before the last is written.
    eventually(lambda: all(f": {key}: " in gateway.log() for key in keys) and gateway.log().endswith("\n"))
    log = gateway.log()
    file = gateway.config.name
    for key in keys:
        (line,) = [line for line in log.splitlines() if f": {key}: " in line]
        assert REFUSED in line
        assert f"{file}:" in line
    assert IN_FORCE not in log
    assert gateway.get("/web/x").status == 200
    assert gateway.get("/new").refused() == (404, "no_route")
    assert IN_FORCE in reload(gateway, with_route(good, path="/new"))
    assert gateway.get("/new").status == 200


def test_a_file_that_is_no_configuration_changes_nothing(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    good = configuration_of(gateway)
    for given in ("server: [", "", "- 1", "\x00", "a: &a [*a]", "routes: 7"):
        assert REFUSED in reload(gateway, given), given
        assert gateway.get("/web/x").status == 200, given
    assert IN_FORCE in reload(gateway, good)


def test_a_file_that_is_gone_changes_nothing(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    text = gateway.config.read_text()
    gateway.config.unlink()
    assert REFUSED in reload(gateway)
    assert gateway.get("/web/x").status == 200
    gateway.config.write_text(text)
    assert IN_FORCE in reload(gateway)


def test_tls_files_that_cannot_be_used_change_nothing(start: Start, fleet: Fleet, tmp_path: Path) -> None:
    """Nothing else in the file is applied either."""
    gateway = start({"web": fleet["a"].url})
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    changed = with_route(configuration_of(gateway), path="/new")
    checked = {"targets": [fleet["b"].url], "health": {"path": "/healthz", "interval": "50ms"}}
    changed["upstreams"] |= {"checked": checked}
    changed["upstreams"]["secure"] = {"targets": ["https://127.0.0.1:1"], "tls": {"ca": str(bad)}}
    log = reload(gateway, changed)
    assert f"{REFUSED}upstreams.secure.tls: cannot be used: " in log
    assert gateway.get("/new").refused() == (404, "no_route")
    time.sleep(0.3)
    assert fleet["b"].accepted == 0, "nothing of it has begun"


# ---- settings that need a restart


def test_keys_that_take_a_restart_are_named_and_the_others_take_effect(
    start: Start, fleet: Fleet, tmp_path: Path
) -> None:
    gateway = start({"web": fleet.urls})
    changed = with_route(configuration_of(gateway), path="/new")
    changed["server"] |= {
        "port": 1,
        "host": "127.0.0.9",
        "workers": 1,
        "max_body": "1KiB",
        "trusted_proxies": ["10.0.0.0/8"],
    }
    changed["storage"]["database"] = f"sqlite:///{tmp_path / 'other.db'}"
    changed["tokens"] = {"access_ttl": "1m", "issuer": "another"}
    changed["accounts"]["prefix"] = "/elsewhere"
    changed["observability"]["access_log"] = "json"
    changed["cache"] = {"user_ttl": "1s"}
    changed["identity"] = {"headers": {"id": "X-Who"}}
    log = reload(gateway, changed)
    named = {
        line.split("gateway: reload: ")[1].split(" has changed")[0] for line in log.splitlines() if "restart" in line
    }
    sections = {"storage", "cache", "observability", "identity"}
    # The command line of this gateway sets host and port, which override the file both times.
    assert named == sections | {"server.trusted_proxies", "accounts.prefix", "tokens.access_ttl", "tokens.issuer"}
    assert IN_FORCE in log
    assert gateway.get("/new").status == 200
    body = b"x" * 2000
    assert gateway.ask(request("/web/x", method="POST", body=body)).refused() == (413, "body_too_large")
    assert gateway.get("/auth/me").status == 401
    assert gateway.get("/elsewhere/me").status == 404
    assert not (tmp_path / "other.db").exists()
    log = reload(gateway, changed)
    assert "restart" in log, "it still differs from what runs"


BROWSERS = "{server: {public_url: 'https://a.example.com'}, sessions: {idle: 1h}, accounts: {pages: {name: Shop}}}"
MERGED = [
    ("sessions: {idle: 1h}", "sessions: {idle: 2h}", ("sessions.idle",)),
    ("sessions: {idle: 1h}", "sessions: {idle: 1h, sign_in: refuse}", ()),
    ("sessions: {idle: 1h}", "sessions: {idle: 1h, origins: ['https://b.example.com']}", ()),
    ("{name: Shop}", "{name: Store, accent: '#0a5fd7'}", ()),
    ("{name: Shop}", "{name: Shop, path: /me}", ("accounts.pages.path",)),
    ("accounts: {pages: {name: Shop}}", "accounts: {}", ("accounts.pages",)),
    ("accounts: {", "accounts: {origins: ['https://b.example.com'], ", ("accounts.origins",)),
    ("//a.example", "//www.example", ("server.public_url",)),
    ("sessions: {idle: 1h}, accounts: {pages: {name: Shop}}", "accounts: {}", ("accounts.pages", "sessions")),
]


@pytest.mark.parametrize(("written", "changed", "kept"), MERGED)
def test_of_sessions_and_pages_these_keys_take_a_restart(
    tmp_path: Path, written: str, changed: str, kept: tuple[str, ...]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(BROWSERS)
    before = load_configuration(file)
    file.write_text(BROWSERS.replace(written, changed))
    after = load_configuration(file)

    configuration, names = merged(before, after)

    assert names == kept
    assert configuration.settings == (before if kept else after).settings


def test_limits_of_time_and_number_take_effect(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls}, server={"header_timeout": "30s"})
    changed = configuration_of(gateway)
    changed["server"] |= {"header_timeout": "300ms", "max_header_size": "1KiB"}
    reload(gateway, changed)
    with gateway.caller() as caller, within(2.0):
        assert caller.send(b"GET / HTTP/1.1\r\n").receive().refused() == (408, "request_timeout")
    assert gateway.get("/web/x", "X-A: " + "x" * 2000).refused() == (431, "headers_too_large")


def test_a_changed_drain_is_the_one_that_holds(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": fleet.urls}, server={"drain": "60s"})
    changed = configuration_of(gateway)
    changed["server"]["drain"] = "300ms"
    reload(gateway, changed)
    with gateway.caller() as caller, within(4.0):
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        gateway.signal()
        assert gateway.wait() == 1


# ---- roles


def test_changed_roles_take_effect_at_once(start: Start, fleet: Fleet) -> None:
    """The implications of roles and the requirements of routes, including for users with cached records."""
    gateway = start(
        {"web": fleet.urls},
        roles={"boss": ["clerk"], "clerk": [], "user": []},
        accounts={"default_roles": ["boss"]},
    )
    clerks = with_route(configuration_of(gateway), path="/clerks/**", auth="required", roles=["clerk"])
    reload(gateway, clerks)
    boss = gateway.newcomer()
    for _ in range(2):
        assert gateway.get("/clerks/x", boss.line).status == 200
    alone = copy.deepcopy(clerks)
    alone["roles"]["boss"] = []
    reload(gateway, alone)
    assert gateway.get("/clerks/x", boss.line).refused() == (403, "forbidden")
    reload(gateway, clerks)
    assert gateway.get("/clerks/x", boss.line).status == 200
    elsewhere = copy.deepcopy(clerks)
    elsewhere["routes"][-1]["roles"] = ["user"]
    reload(gateway, elsewhere)
    assert gateway.get("/clerks/x", boss.line).refused() == (403, "forbidden")


def test_an_event_stream_ends_when_a_reload_takes_its_caller_s_role(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"))
    gateway = start(
        {"web": fleet.urls},
        roles={"boss": ["clerk"], "clerk": [], "user": []},
        accounts={"default_roles": ["boss"]},
        routes=[{"path": "/clerks/**", "roles": ["clerk"], "upstream": "web"}],
    )
    boss = gateway.newcomer()
    changed = configuration_of(gateway)
    changed["roles"]["boss"] = []
    with gateway.caller() as caller:
        caller.send(request("/clerks/x", fields=[boss.line]))
        assert caller.receive_head().status == 200
        reload(gateway, with_route(configuration_of(gateway), path="/new"))
        time.sleep(0.8)
        reload(gateway, changed)
        with within(2.0):
            caller.ended()


# ---- certificates


def test_a_renewed_certificate_is_used(start: Start, tmp_path: Path) -> None:
    """The file names are the same, the contents differ."""
    old, new = trustme.CA(), trustme.CA()

    def context(authority: trustme.CA) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(made)
        return made

    trusted = tmp_path / "ca.pem"
    old.cert_pem.write_to_path(str(trusted))
    fleet = Fleet("a", tls=context(old))
    try:
        gateway = start({"web": {"targets": fleet.urls, "tls": {"ca": str(trusted)}, "eject": None}})
        assert gateway.get("/web/x").status == 200
        reload(gateway)
        assert gateway.get("/web/x").status == 200
        assert fleet["a"].accepted == 1, "the same files, the same connection"
        fleet["a"].down()
        fleet["a"].tls = context(new)
        fleet["a"].up()
        assert gateway.get("/web/x").refused() == (502, "upstream_unreachable")
        new.cert_pem.write_to_path(str(trusted))
        reload(gateway)
        assert gateway.get("/web/x").status == 200
    finally:
        fleet.stop()


# ---- unusual times


def test_a_reload_during_the_drain_is_ignored(start: Start, fleet: Fleet) -> None:
    held: list[Served] = []
    fleet.behave(held.append)
    gateway = start({"web": fleet.urls})
    with gateway.caller() as caller:
        caller.send(GET)
        eventually(lambda: held)
        gateway.signal()
        eventually(lambda: not listens(gateway.address))
        gateway.signal(signal.SIGHUP)
        time.sleep(0.2)
        fleet.loop.call_soon_threadsafe(held[0].send, OK)
        assert caller.receive().body == b"ok"
    assert gateway.wait() == 0
    assert IN_FORCE not in gateway.log()


def test_a_signal_while_it_starts_is_obeyed_then(start: Start, fleet: Fleet) -> None:
    """The default action would end the process, but the gateway has already begun to start."""
    gateway = start({"web": fleet.urls})
    gateway.stop()
    gateway.launch()
    stop = threading.Event()

    def again() -> None:
        # As soon as the socket exists: before that, Python itself is starting.
        eventually(lambda: _listens(gateway), timeout=20, every=0.001)
        while not stop.wait(0.005):
            if gateway.running:
                gateway.signal(signal.SIGHUP)

    sending = threading.Thread(target=again)
    sending.start()
    try:
        gateway.ready()
        assert gateway.get("/web/x").status == 200
    finally:
        stop.set()
        sending.join()
    assert gateway.stop() == 0


def _listens(gateway: Gateway) -> bool:
    try:
        gateway.caller(timeout=0.5).close()
    except (OSError, NoAnswer):
        return False
    return True
