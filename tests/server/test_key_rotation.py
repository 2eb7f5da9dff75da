"""Signing keys change while the gateway runs: rotation refuses no request, and removing a key takes effect
immediately."""

import asyncio
import copy
import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.stores.valkey import ValkeyServer
from tests.cli.running import run_here
from tests.server.changing import configuration_of, reload
from tests.support.expectations import passes
from tests.support.fleet import Fleet
from tests.support.load import AsyncCaller, Load
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.small import Start
from tests.support.token_factory import claims_of, header_of
from tests.support.waiting import promised
from tests.support.websockets import Socket, echoing, text
from tests.support.wording import bearer, request

Key = dict[str, str]
MINE = {"path": "/mine/**", "upstream": "web"}
ACCESS = 3  # The lifetime of access tokens in seconds, where a test completes a rotation.


def made_key(folder: Path, kid: str, algorithm: str = "ES256") -> Key:
    """A key created by `gateway keys generate`, configured as the command prints."""
    arguments = ("--kid", kid, "--algorithm", algorithm, "--out", str(folder / f"{kid}-{time.time_ns()}.pem"))
    outcome = run_here("keys", "generate", *arguments, folder=folder)
    assert outcome.code == 0, outcome.err
    (key,) = yaml.safe_load(outcome.out)["tokens"]["keys"]
    return dict(key)


def published(gateway: Gateway) -> list[str]:
    return [key["kid"] for key in gateway.get("/.well-known/jwks.json").json()["keys"]]


def with_keys(gateway: Gateway, *keys: Key) -> dict[str, Any]:
    changed = configuration_of(gateway)
    changed["tokens"] = {**changed.get("tokens", {}), "keys": [dict(key) for key in keys]}
    return changed


def signer_of(token: str) -> str:
    return str(header_of(token)["kid"])


# ---- a rotation


class Signed:
    """A permanently signed-in user: refreshes on alternating replicas, and uses the tokens of the last second
    anywhere."""

    def __init__(self, replicas: Sequence[Gateway]) -> None:
        self._callers = [AsyncCaller(replica.address) for replica in replicas]
        answer = replicas[0].post("/auth/register", {"email": "ann@example.com", "password": PASSWORD}).json()
        self._refresh = answer["refresh_token"]
        self._tokens = deque([(time.monotonic(), answer["access_token"])], maxlen=10)
        self.signers = {signer_of(answer["access_token"])}
        self.refused: list[int] = []
        self._task: asyncio.Task[None] | None = None

    def request(self, number: int) -> bytes:
        young = [token for since, token in self._tokens if time.monotonic() - since < 1] or [self._tokens[-1][1]]
        return request("/mine/x", fields=[bearer(young[number % len(young)])])

    async def __aenter__(self) -> "Signed":
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for caller in self._callers:
            caller.close()

    async def _go_on(self) -> None:
        number = 0
        while True:
            number += 1
            body = json.dumps({"refresh_token": self._refresh}).encode()
            asking = request("/auth/refresh", method="POST", fields=["Content-Type: application/json"], body=body)
            answered = await self._callers[number % len(self._callers)].ask(asking)
            if answered.status == 200:
                tokens = json.loads(answered.body)
                self._refresh = tokens["refresh_token"]
                self._tokens.append((time.monotonic(), tokens["access_token"]))
                self.signers.add(signer_of(tokens["access_token"]))
            else:
                self.refused.append(answered.status)
            await asyncio.sleep(0.1)


async def test_a_rotation_under_load_refuses_no_request_on_any_worker_of_two_replicas(
    start: Start, fleet: Fleet, lasting_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """The documented steps: second, first, removed. All replicas are reloaded before the next step."""
    old, new = made_key(tmp_path, "k1"), made_key(tmp_path, "k2", "EdDSA")
    options: dict[str, Any] = {
        "storage": {"redis": lasting_valkey.url},
        "tokens": {"keys": [old], "access_ttl": f"{ACCESS}s", "leeway": "0s"},
        "routes": [MINE],
    }
    crew, single = (start({"web": fleet.urls}, server={"workers": workers}, **options) for workers in (2, 1))
    stages: list[set[tuple[str, ...]]] = []

    async def all_have(*keys: Key) -> None:
        for gateway, workers in ((crew, 2), (single, 1)):
            log = await asyncio.to_thread(reload, gateway, with_keys(gateway, *keys), times=workers)
            assert "refused" not in log and "signs already" not in log
        for load in loads:
            await load.more(30)
        stages.append({tuple(published(gateway)) for gateway in (crew, single)})

    async with Signed((crew, single)) as ann:
        loads = [Load(gateway.address, ann.request, callers=3, pause=0.01) for gateway in (crew, single)]
        async with loads[0], loads[1]:
            await asyncio.gather(*(load.more(30) for load in loads))
            await all_have(old, new)
            assert ann.signers == {"k1"}
            await all_have(new, old)
            await asyncio.sleep(ACCESS + 1.1)  # tokens of the old key have expired and are no longer in use
            assert ann.signers == {"k1", "k2"}
            await all_have(new)
    for load in loads:
        assert load.lost == []
        assert load.statuses == {200: len(load.answers)}
    assert ann.refused == []
    assert stages == [{("k1", "k2")}, {("k2", "k1")}, {("k2",)}]


def test_a_key_that_is_new_and_signs_at_once_is_warned_of(start: Start, fleet: Fleet, tmp_path: Path) -> None:
    old, new = made_key(tmp_path, "k1"), made_key(tmp_path, "k2")
    gateway = start({"web": fleet.urls}, tokens={"keys": [old]})
    log = reload(gateway, with_keys(gateway, new, old))
    assert "tokens are signed with k2 and verified with k2, k1" in log
    assert "k2 is new and signs already" in log
    assert "k2" not in reload(gateway), "nothing has changed"


# ---- a removed key


def test_tokens_of_a_removed_key_are_refused_at_once(start: Start, fleet: Fleet, tmp_path: Path) -> None:
    """Including tokens verified before and cached. They are valid again if the key returns."""
    old, new = made_key(tmp_path, "k1"), made_key(tmp_path, "k2")
    gateway = start({"web": fleet.urls}, routes=[MINE], tokens={"keys": [old, new]})
    ann = gateway.newcomer()
    for _ in range(2):
        assert gateway.get("/mine/x", ann.line).status == 200
    reload(gateway, with_keys(gateway, new))
    assert gateway.get("/mine/x", ann.line).refused() == (401, "token_invalid")
    bob = gateway.login(ann.email)
    assert signer_of(bob.token) == "k2"
    assert gateway.get("/mine/x", bob.line).status == 200
    reload(gateway, with_keys(gateway, new, old))
    assert gateway.get("/mine/x", ann.line).status == 200


def test_another_key_of_the_same_name_is_another_key(start: Start, fleet: Fleet, tmp_path: Path) -> None:
    """An emergency: the file of a leaked key is overwritten."""
    leaked, replaced = made_key(tmp_path, "k1"), made_key(tmp_path, "k1")
    gateway = start({"web": fleet.urls}, routes=[MINE], tokens={"keys": [leaked]})
    ann = gateway.newcomer()
    assert gateway.get("/mine/x", ann.line).status == 200
    before = gateway.get("/.well-known/jwks.json").json()
    reload(gateway, with_keys(gateway, replaced))
    assert gateway.get("/mine/x", ann.line).refused() == (401, "token_invalid")
    assert gateway.get("/mine/x", gateway.login(ann.email).line).status == 200
    assert gateway.get("/.well-known/jwks.json").json() != before


def test_a_websocket_ends_with_the_key_of_its_token(
    start: Start, upstream: RecordingUpstream, fleet: Fleet, tmp_path: Path
) -> None:
    upstream.on("/sockets/x", echoing())
    old, new = made_key(tmp_path, "k1"), made_key(tmp_path, "k2")
    route = {"path": "/sockets/**", "websocket": True, "upstream": "web"}
    gateway = start({"web": upstream.url}, routes=[route], tokens={"keys": [old, new]})
    ann = gateway.newcomer()
    reload(gateway, with_keys(gateway, new, old))
    bob = gateway.newcomer()
    with Socket(gateway, "/sockets/x", ann.line) as of_old, Socket(gateway, "/sockets/x", bob.line) as of_new:
        assert of_old.say(text("hello")).message() == b"hello"
        reload(gateway, with_keys(gateway, new))
        assert of_old.closed(within=promised(1.5)) == (1008, "token_invalid")
        assert of_new.say(text("still here")).message() == b"still here"


def test_upstreams_are_shown_nothing_that_a_key_has_signed_which_is_gone(
    start: Start, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    """An assertion is cached with its principal, and dropped with its key."""
    old, new = made_key(tmp_path, "k1"), made_key(tmp_path, "k2")
    identity = {"assertion": {"ttl": "10m"}}
    gateway = start({"web": upstream.url}, routes=[MINE], tokens={"keys": [old]}, identity=identity)

    def shown(account: Account) -> str:
        received = passes(gateway, upstream, request("/mine/x", fields=[account.line]))
        (assertion,) = received.values("x-identity-token")
        return signer_of(assertion.decode())

    ann = gateway.newcomer()
    assert shown(ann) == "k1"
    reload(gateway, with_keys(gateway, new, old))
    assert shown(ann) == "k1", "it is kept, and its key is known"
    again = gateway.login(ann.email)
    assert (signer_of(again.token), shown(again)) == ("k2", "k2"), "another session has another assertion"
    reload(gateway, with_keys(gateway, new))
    assert shown(again) == "k2"


# ---- other properties of keys


def test_keys_that_cannot_be_used_change_nothing(start: Start, fleet: Fleet, tmp_path: Path) -> None:
    good = made_key(tmp_path, "k1")
    gateway = start({"web": fleet.urls}, routes=[MINE], tokens={"keys": [good]})
    ann = gateway.newcomer()
    bad = {"kid": "k2", "algorithm": "RS256", "private_key": good["private_key"]}
    log = reload(gateway, with_keys(gateway, bad))
    assert "refused, the old configuration stays: " in log and "tokens.keys[0].private_key: must be an RSA key" in log
    assert gateway.get("/mine/x", ann.line).status == 200
    assert published(gateway) == ["k1"]


def test_the_key_that_was_made_outlives_reloads_and_can_be_rotated_away(
    start: Start, fleet: Fleet, tmp_path: Path
) -> None:
    gateway = start({"web": fleet.urls}, routes=[MINE])
    ann = gateway.newcomer()
    (made,) = json.loads(gateway.command("keys", "list", "--json").stdout)
    file = Path(made["from"])
    kept = file.rename(file.with_suffix(".moved"))
    reload(gateway, configuration_of(gateway) | {"roles": {"user": []}})
    assert gateway.get("/mine/x", ann.line).status == 200
    assert published(gateway) == [made["kid"]] and not file.exists(), "it is in use; none is made in its place"
    named = {"kid": made["kid"], "algorithm": "ES256", "private_key": f"${{file:{kept}}}"}
    new = made_key(tmp_path, "k2")
    reload(gateway, with_keys(gateway, named, new))
    reload(gateway, with_keys(gateway, new, named))
    assert gateway.get("/mine/x", ann.line).status == 200
    assert signer_of(gateway.login(ann.email).token) == "k2"


def test_roles_in_tokens_follow_the_file(start: Start, fleet: Fleet) -> None:
    """The declared roles, their implications, and whether tokens contain them."""
    gateway = start(
        {"web": fleet.urls},
        roles={"boss": ["clerk"], "clerk": [], "user": []},
        accounts={"default_roles": ["boss"]},
        tokens={"include_roles": True},
    )
    ann = gateway.newcomer()
    assert claims_of(ann.token)["roles"] == ["boss", "clerk"]
    changed = configuration_of(gateway)
    changed["roles"]["boss"] = ["clerk", "user"]
    reload(gateway, changed)
    assert claims_of(gateway.login(ann.email).token)["roles"] == ["boss", "clerk", "user"]
    silent = copy.deepcopy(changed)
    silent["tokens"]["include_roles"] = False
    assert "restart" not in reload(gateway, silent)
    assert "roles" not in claims_of(gateway.login(ann.email).token)
