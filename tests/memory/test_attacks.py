"""Hostile traffic does not raise the resident memory of a running gateway. The attacks are short and use real sockets.

`python -m bench.memory` runs each of them for a minute at full rate.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

import pytest
import uvloop

from bench.memory.attacks import ATTACKS, HANDSHAKE, LARGE, Attack, bearer, configuration, of_short_fields, request
from bench.memory.driving import Driver, Idle, upstream_of
from tests.support.processes import FACES, Face, Gateway, free_port
from tests.support.small import empty_database

T = TypeVar("T")

MIB = 1024 * 1024
SECONDS = 20  # the limit of an attack that is measured by its requests, which can take long on a busy machine
IDLE = 400

# The number of requests, and the MiB by which they can grow the memory: a third of the least growth of a gateway
# without a fix.
FLAT: tuple[tuple[Face, str, int, int], ...] = (
    ("serve", "refused-token-missing", 6000, 12),
    ("serve", "closed-fields", 600, 12),
    ("serve", "names", 1200, 12),
    ("serve", "names-of-a-mebibyte", 60, 20),
    ("serve", "zones", 1200, 12),
    ("serve", "upstream-names", 1200, 12),
    ("serve", "upstream-reasons", 1200, 12),
    ("asgi", "refused-token-missing", 6000, 12),
    ("asgi", "names", 1200, 12),
    ("asgi", "upstream-names", 1200, 12),
)


class Attacked:
    """A gateway of one face, and the port of its upstream."""

    def __init__(
        self, face: Face, folder: Path, attack: Attack | None = None, *, kind: type[Gateway] = Gateway
    ) -> None:
        self._port = free_port()
        empty_database(folder)
        self.gateway = kind(face, configuration(attack, f"http://127.0.0.1:{self._port}", folder), folder)

    def __enter__(self) -> Self:
        self.gateway.start()
        self.token = self.gateway.newcomer().token
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()

    def _run(self, attack: Attack | None, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` while the upstream of the attack listens."""

        async def working() -> T:
            async with upstream_of(attack, self._port):
                return await work()

        return uvloop.run(working())

    def drive(self, attack: Attack, requests: int) -> float:
        """Return the MiB by which the memory grows during an attack."""

        async def driving() -> float:
            await Driver(attack, self.gateway.address, self.token).drive(seconds=SECONDS, requests=100)
            before = self.gateway.memory()
            await Driver(attack, self.gateway.address, self.token).drive(seconds=SECONDS, requests=requests)
            return (self.gateway.memory() - before) / MIB

        return self._run(attack, driving)

    def idle(self, head: bytes, connections: int) -> float:
        """Return the KiB of each connection that idles after a request with this head."""

        async def idling() -> float:
            idle = Idle()
            await idle.add(self.gateway.address, head, 50)
            before = self.gateway.memory()
            await idle.add(self.gateway.address, head, connections)
            each = (self.gateway.memory() - before) / 1024 / connections
            await idle.close()
            return each

        return self._run(None, idling)


@pytest.mark.parametrize(("face", "name", "requests", "limit"), FLAT)
def test_an_attack_leaves_the_memory_as_it_was(
    tmp_path: Path, face: Face, name: str, requests: int, limit: int
) -> None:
    with Attacked(face, tmp_path, ATTACKS[name]) as attacked:
        grown = attacked.drive(ATTACKS[name], requests)
    print(f"\n{name}: {grown:+.1f} MiB")
    assert grown < limit


class Defective(Gateway):
    """A gateway that keeps each request head in a reference cycle."""

    @property
    def arguments(self) -> list[str]:
        return ["-m", "tests.memory.defective", *super().arguments[1:]]


@pytest.mark.parametrize("face", FACES)
def test_cycles_of_a_defect_do_not_fill_the_memory(tmp_path: Path, face: Face) -> None:
    attack = ATTACKS["closed-large"]
    with Attacked(face, tmp_path, kind=Defective) as attacked:
        grown = attacked.drive(attack, 2000)
    print(f"\n{face}: {grown:+.1f} MiB")
    assert grown < 40


HEADS: dict[str, Callable[[str], bytes]] = {
    "990 fields": lambda token: of_short_fields("/open/x"),
    "a long query": lambda token: request("/open/x?" + "q" * LARGE),
    "a remembered head": lambda token: request("/api/x", bearer(token), *(b"X-%02d: v" % i for i in range(29))),
    "an event stream": lambda token: request("/open/events", size=LARGE),
    "a WebSocket": lambda token: request("/sockets/x", *HANDSHAKE, bearer(token), size=LARGE),
}


@pytest.mark.parametrize("head", HEADS)
def test_an_idle_connection_costs_sixteen_kibibytes_at_most(tmp_path: Path, head: str) -> None:
    with Attacked("serve", tmp_path) as attacked:
        each = attacked.idle(HEADS[head](attacked.token), IDLE)
    print(f"\n{head}: {each:.1f} KiB")
    assert each <= 16
