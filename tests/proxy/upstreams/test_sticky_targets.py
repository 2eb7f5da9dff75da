"""`balance: {hash: …}` through running gateways, with applications that keep sessions in one process."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.server.changing import configuration_of, reload
from tests.support.fleet import Fleet, naming
from tests.support.gateways import Gateways
from tests.support.processes import Account, Face, Gateway, free_port
from tests.support.raw import Answer, ask
from tests.support.small import Start
from tests.support.waiting import eventually
from tests.support.websockets import Socket, text
from tests.support.wording import request

pytest.importorskip("socketio")

APPLICATION = """
import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)

@server.on("shout")
async def shout(sid, data):
    await server.emit("loud", data.upper(), to=sid)
"""
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The URLs of two processes of one Socket.IO application."""
    folder, ports = tmp_path_factory.mktemp("chat"), [free_port(), free_port()]
    (folder / "chat.py").write_text(APPLICATION)
    with ExitStack() as stack:
        for port in ports:
            arguments = ["-m", "uvicorn", "chat:app", "--port", str(port), "--log-level", "warning"]
            process = subprocess.Popen([sys.executable, *arguments], cwd=folder)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
        for port in ports:
            eventually(answers, port, timeout=30)
        yield [f"http://127.0.0.1:{port}" for port in ports]


def answers(port: int) -> bool:
    try:
        return ask(("127.0.0.1", port), request(POLLING)).status == 200
    except OSError:
        return False


ROUTE = {"path": "/socket.io/**", "auth": "none", "upstream": "chat", "websocket": True}
CASES: list[tuple[Face, str, str, list[str]]] = [
    ("serve", "native", "cookie visit", ["Cookie: a=1; visit=%s"]),
    ("asgi", "httpx", "cookie visit", ["Cookie: visit=%s"]),
    ("serve", "httpx", "header x-visit", ["X-Visit: %s"]),
    ("asgi", "native", "header X-Visit", ["x-visit: %s"]),
    ("serve", "native", "client_address", []),
]


def converse(gateway: Gateway, fields: list[str]) -> list[Answer]:
    """A conversation of Socket.IO by long polling, until a response is not 200 (Engine.IO protocol 4)."""
    answers = [gateway.ask(request(POLLING, fields=fields))]
    session = f"{POLLING}&sid={json.loads(answers[0].body[1:])['sid']}"
    for body in (b"40", None, b'42["shout","hello"]', None):
        method = "GET" if body is None else "POST"
        answers.append(gateway.ask(request(session, method=method, fields=fields, body=body)))
        if answers[-1].status != 200:
            break
    return answers


@pytest.mark.parametrize(("face", "engine", "key", "fields"), CASES, ids=[f"{c[0]} {c[1]} {c[2]}" for c in CASES])
def test_long_polling_stays_with_one_process(
    start: Start, chat: list[str], face: Face, engine: str, key: str, fields: list[str]
) -> None:
    upstream = {"targets": chat, "engine": engine, "balance": {"hash": key}, "eject": None}
    gateway = start({"chat": upstream}, face, routes=[ROUTE])
    for visit in ("one", "two", "three"):
        own = [field.replace("%s", visit) for field in fields]
        messages = converse(gateway, own)
        assert [answer.status for answer in messages] == [200] * 5, messages[-1].body
        assert messages[-1].body == b'42["loud","HELLO"]'
        session = json.loads(messages[0].body[1:])["sid"]
        with Socket(gateway, f"/socket.io/?EIO=4&transport=websocket&sid={session}", *own) as socket:
            socket.say(text("2probe"))
            assert socket.message() == b"3probe"


def test_by_turns_long_polling_fails(start: Start, chat: list[str]) -> None:
    """The reason for the hash: a process that did not open the session does not know it."""
    gateway = start({"chat": {"targets": chat, "eject": None}}, routes=[ROUTE])
    assert converse(gateway, [])[-1].status == 400


# ---- the keys of requests

APART = {"database": "sqlite://"}  # two gateways of a test do not share a database


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet("abcd")
    fleet.behave(naming)
    yield fleet
    fleet.stop()


def sticky(start: Start, fleet: Fleet, key: str, face: Face = "serve", **sections: object) -> Callable[..., str]:
    """Starts a gateway; returns a function that names the target of a request with some fields."""
    gateway = start({"web": {"targets": fleet.urls, "balance": {"hash": key}}}, face, **sections)
    return lambda *fields: gateway.ask(request("/web/x", fields=fields)).body.decode()


def test_the_same_value_has_the_same_target_in_each_process_and_in_another_order(start: Start, fleet: Fleet) -> None:
    values = [f"Cookie: id={number}" for number in range(20)]
    first = sticky(start, fleet, "cookie id")
    homes = [first(value) for value in values]
    assert len(set(homes)) > 1
    upstream = {"targets": fleet.urls[::-1], "balance": {"hash": "cookie id"}}
    reordered = start({"web": upstream}, "asgi", storage=APART)
    assert [reordered.ask(request("/web/x", fields=[value])).body.decode() for value in values] == homes


def test_a_target_that_leaves_the_file_moves_its_own_keys_only(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": {"targets": fleet.urls, "balance": {"hash": "header X-Key"}}})

    def homes() -> list[str]:
        return [gateway.ask(request("/web/x", fields=[f"X-Key: {number}"])).body.decode() for number in range(40)]

    before = homes()
    configuration = configuration_of(gateway)
    configuration["upstreams"]["web"]["targets"] = fleet.urls[1:]
    reload(gateway, configuration)
    after = homes()
    assert "a" in before
    assert all(now == was or was == "a" for now, was in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Cookie: other=1",),
        ("Cookie: id=",),
        ("Cookie: id= ; ID=1; xid=2; id",),
        ("X-Cookie: id=1",),
    ],
    ids=["no cookie", "another cookie", "an empty one", "names that are alike", "another header"],
)
def test_without_the_cookie_targets_take_turns(start: Start, fleet: Fleet, fields: tuple[str, ...]) -> None:
    ask_with = sticky(start, fleet, "cookie id")
    assert sorted(ask_with(*fields) for _ in range(8)) == list("aabbccdd")


def test_a_cookie_is_found_among_others(start: Start, fleet: Fleet) -> None:
    ask_with = sticky(start, fleet, "cookie id")
    for value in ("one", "two", "three", "a=b", '"quoted"'):
        alike = [
            (f"Cookie: id={value}",),
            (f"Cookie: a=1; id={value}; b=2",),
            (f"cookie: a=1;id={value}",),
            ("Cookie: a=1", f"Cookie: id={value}  ; id=other"),
            ("Cookie: id=", f"Cookie: id={value}"),
        ]
        assert len({ask_with(*fields) for fields in alike}) == 1


def test_the_address_of_a_client_behind_a_trusted_proxy_is_the_one_that_it_names(start: Start, fleet: Fleet) -> None:
    ask_with = sticky(start, fleet, "client_address", server={"trusted_proxies": ["127.0.0.1/32"]})
    homes = {ask_with(f"X-Forwarded-For: 203.0.113.{number}") for number in range(30)}
    assert homes == set("abcd")
    assert len({ask_with("X-Forwarded-For: 203.0.113.9, 127.0.0.1") for _ in range(8)}) == 1
    strange = sticky(start, fleet, "client_address", storage=APART)
    assert len({strange(f"X-Forwarded-For: 203.0.113.{number}") for number in range(30)}) == 1


@pytest.mark.parametrize("face", ["serve", "asgi"])
def test_the_identity_header_of_the_gateway_counts_and_a_forged_one_does_not(
    gateways: Gateways, fleet: Fleet, face: Face
) -> None:
    routes = [{"path": "/sticky/**", "upstream": "sticky"}]
    sticky = {"targets": fleet.urls, "balance": {"hash": "header X-User-Id"}, "eject": None}
    gateway = gateways.gateway("sticky", face, routes=routes, upstreams={"sticky": sticky})

    def homes(user: Account) -> set[bytes]:
        forged = (f"X-User-Id: {number}" for number in range(8))
        return {gateway.ask(request("/sticky/x", fields=[user.line, each])).body for each in forged}

    users = ("user", "admin", "editor", "both", "50%off+x")
    found = [homes(gateway.login(f"{name}@example.com")) for name in users]
    assert {len(each) for each in found} == {1}
