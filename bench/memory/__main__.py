"""`python -m bench.memory`: the resident memory of a gateway before, during and after each attack.

Each attack runs at full rate against a new gateway. Limits: a growth of 32 MiB after a minute, 16 MiB half a minute
later, and 16 KiB for each idle connection.
"""

import argparse
import asyncio
import http.client
import json
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop
import yaml

from bench.memory.attacks import (
    ATTACKS,
    HANDSHAKE,
    LARGE,
    Attack,
    bearer,
    configuration,
    of_short_fields,
    request,
    same,
)
from bench.memory.driving import Driver, Idle, upstream_of
from bench.peers.gateway import EMAIL, PASSWORD, GatewayAsgi, GatewayServe
from bench.peers.peer import Place
from bench.peers.signer import Signer
from bench.processes import MIB, BenchError, Running, free_port, start, wait_for_port
from bench.report import table

FACES = {"serve": GatewayServe, "asgi": GatewayAsgi}
MOST_GROWTH, MOST_LEFT = 32.0, 16.0  # MiB
MOST_IDLE = 16.0  # KiB for each connection
TOO_MUCH = 4096.0  # MiB of growth at which an attack is stopped
WARM_UP = Attack("warm-up", 0, same("/open/x"), closes=True)
WARM_UP_REQUESTS = 500
LOOK = 0.5  # seconds

# The last request head before a connection idles. Each function takes the token of a user.
IDLE: dict[str, Callable[[str], bytes]] = {
    "idle-bare": lambda token: request("/open/x"),
    "idle-one-field": lambda token: request("/open/x", size=LARGE),
    "idle-many-fields": lambda token: of_short_fields("/open/x"),
    "idle-remembered": lambda token: request(
        "/api/x", bearer(token), *(b"X-%02d: %b" % (i, b"v" * 40) for i in range(29))
    ),
    "idle-query": lambda token: request("/open/x?" + "q" * LARGE),
    "idle-events": lambda token: request("/open/events", size=LARGE),
    "idle-socket": lambda token: request("/sockets/x", *HANDSHAKE, bearer(token), size=LARGE),
}


class Growth(NamedTuple):
    """The growth of memory during an attack, in MiB above `start`."""

    requests: int
    start: float
    peak: float
    end: float
    left: float

    @property
    def is_good(self) -> bool:
        return self.end <= MOST_GROWTH and self.left <= MOST_LEFT


class Target(NamedTuple):
    """The attacked gateway."""

    running: Running
    address: tuple[str, int]
    token: str

    @property
    def resident(self) -> float:
        """Resident memory in MiB."""
        return self.running.memory().rss / MIB


@contextmanager
def gateway(face: str, attack: Attack | None, upstream_port: int) -> Iterator["Target"]:
    """Run a gateway in a new folder."""
    with tempfile.TemporaryDirectory(prefix="gateway-memory-") as name:
        port, folder = free_port(), Path(name)
        settings = configuration(attack, f"http://127.0.0.1:{upstream_port}", folder)
        settings["server"] |= {"host": "127.0.0.1", "port": port}
        peer = FACES[face]()
        peer.configuration = lambda place: yaml.safe_dump(settings)  # type: ignore[method-assign]
        launch = peer.launch(Place(folder, port, upstream_port, Signer()))
        running = start(launch.command, cpus=None, environment=launch.environment, directory=folder, name="gateway")
        try:
            wait_for_port(running, port)
            yield Target(running, ("127.0.0.1", port), "")
        finally:
            running.stop()


def token_of(address: tuple[str, int]) -> str:
    """Register an account; returns its access token."""
    link = http.client.HTTPConnection(*address, timeout=10)
    body = json.dumps({"email": EMAIL, "password": PASSWORD})
    link.request("POST", "/auth/register", body, {"Content-Type": "application/json"})
    token: str = json.loads(link.getresponse().read())["access_token"]
    link.close()
    return token


async def attacked(face: str, attack: Attack | None, measure: Callable[[Target], Awaitable[object]]) -> object:
    """Run `measure` on a warm gateway."""
    async with upstream_of(attack) as upstream:
        with gateway(face, attack, upstream.sockets[0].getsockname()[1]) as target:
            target = target._replace(token=await asyncio.to_thread(token_of, target.address))
            if attack is None or attack.answers is None:
                await Driver(WARM_UP, target.address, target.token).drive(seconds=10, requests=WARM_UP_REQUESTS)
            await asyncio.sleep(1)
            return await measure(target)


async def growth(target: Target, attack: Attack, seconds: float, rest: float) -> Growth:
    """Memory before, during and after an attack."""
    begun = peak = target.resident
    driver = Driver(attack, target.address, target.token)
    driving = asyncio.create_task(driver.drive(seconds=seconds))
    while not driving.done() and peak < begun + TOO_MUCH:
        await asyncio.wait((driving,), timeout=LOOK)
        peak = max(peak, target.resident)
    end = target.resident
    if driving.done():
        driving.result()
        await asyncio.sleep(rest)
    driving.cancel()
    return Growth(driver.sent, begun, peak - begun, end - begun, target.resident - begun)


async def idle(target: Target, head: bytes, connections: int) -> float:
    """KiB of resident memory per idle connection."""
    waiting = Idle()
    await waiting.add(target.address, head, 50)
    await asyncio.sleep(1)
    before = target.resident
    await waiting.add(target.address, head, connections)
    await asyncio.sleep(1)
    each = (target.resident - before) * 1024 / connections
    await waiting.close()
    return each


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("attack", nargs="*", help=f"of: {' '.join((*ATTACKS, *IDLE))}")
    parser.add_argument("--face", choices=FACES, default="serve")
    parser.add_argument("--row", type=int, help="run only the attacks with this row number")
    parser.add_argument("--seconds", type=float, default=60, help="duration of each attack")
    parser.add_argument("--rest", type=float, default=30, help="seconds of rest after each attack")
    parser.add_argument("--connections", type=int, default=10_000, help="number of idle connections")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if a limit is exceeded."""
    options = options_of(arguments)
    names = [name for name, attack in ATTACKS.items() if options.row in (None, attack.row)]
    names += [name for name in IDLE if options.row in (None, 4)]
    names = list(options.attack or names)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows, is_good = [], True
    for name in names:
        try:
            row, good = _measured(name, options)
        except BenchError as failure:
            row, good = [name, f"not measured: {failure}", "", "", "", ""], False
        print(*row, sep="\t", flush=True)
        rows.append(row)
        is_good = is_good and good
    print(table(["attack", "requests", "at the start", "peak", "at the end", "after a rest"], rows))
    return 0 if is_good else 1


def _measured(name: str, options: argparse.Namespace) -> tuple[list[str], bool]:
    face = options.face
    if name in ATTACKS:
        attack = ATTACKS[name]
        grown = uvloop.run(attacked(face, attack, lambda target: growth(target, attack, options.seconds, options.rest)))
        assert isinstance(grown, Growth)
        figures = [f"{value:+.1f} MiB" for value in (grown.peak, grown.end, grown.left)]
        return [name, f"{grown.requests}", f"{grown.start:.1f} MiB", *figures], grown.is_good
    head = IDLE[name]
    each = uvloop.run(attacked(face, None, lambda target: idle(target, head(target.token), options.connections)))
    assert isinstance(each, float)
    return [name, f"{options.connections}", "", "", f"{each:.1f} KiB each", ""], each <= MOST_IDLE


if __name__ == "__main__":
    sys.exit(main())
