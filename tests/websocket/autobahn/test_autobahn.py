"""The public conformance suite of WebSocket: every case that passes directly also passes through the gateway.

A whole run covers all 517 cases. By default every tenth one of three sections runs, whose cases differ only in sizes
and in parameters of the compression. The upstream is an echo server of the `websockets` library. Cases that only repeat
a message a thousand times use fewer repetitions here.
"""

import asyncio
import threading
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Address
from tests.support.recording import RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.websockets import echoing
from tests.websocket.autobahn.cases import load
from tests.websocket.autobahn.peer import Verdict, run

SECTIONS: Final = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits and performance",
    "10": "auto-fragmentation",
    "12": "compression, different payloads",
    "13": "compression, different parameters",
}
GOOD: Final = {"OK", "NON-STRICT", "INFORMATIONAL"}
REPEATED: Final = 20  # times, instead of 1000
AT_ONCE: Final = 8
PATH: Final = "/public-sockets/autobahn"

LARGE: Final = ("9", "12", "13")  # sections
STEP: Final = 1 if WHOLE else 10


def _of_section(section: str) -> list[str]:
    """The numbers of the cases of a section that run."""
    numbers = [number for number in cases() if number.partition(".")[0] == section]
    return numbers[:: STEP if section in LARGE else 1]


@cache
def cases() -> dict[str, type]:
    """All cases by their number. Loading them takes 0.2 s, which each worker would spend at the collection."""
    loaded = load()
    for case in loaded.values():
        if hasattr(case, "COUNT"):
            case.COUNT = REPEATED
    return loaded


# The cases of autobahntestsuite leave the files of their messages open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*autobahntestsuite:ResourceWarning")

Verdicts = dict[str, Verdict]


async def _echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[Address]:
    """The echo server, in its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="echo", daemon=True)
    thread.start()

    async def start() -> Server:
        return await serve(_echo, "127.0.0.1", 0, max_size=None, ping_interval=None)

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    yield server.sockets[0].getsockname()[:2]
    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture(scope="module")
def before_it(
    gateways: Gateways, face: Face, echo: Address, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway in front of the echo server."""
    folder = tmp_path_factory.mktemp("autobahn")
    configuration = gateways.configuration(folder)
    configuration["upstreams"]["echo"] = {"targets": [f"http://{echo[0]}:{echo[1]}"], "eject": None}
    configuration["routes"].append({"path": PATH, "auth": "none", "websocket": True, "upstream": "echo"})
    gateway = Gateway(face, configuration, folder).start()
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def directly(echo: Address) -> Verdicts:
    """The verdict of every case without a gateway."""
    return asyncio.run(_run_all([number for section in SECTIONS for number in _of_section(section)], echo, "/"))


def test_the_suite_is_whole(directly: Verdicts) -> None:
    """All cases loaded on Python 3, and nearly all pass without a gateway."""
    assert len(cases()) == 517
    assert len(directly) == (517 if WHOLE else 275)
    failed = {number for number, verdict in directly.items() if not _is_good(verdict)}
    # The library rejects a Close within a fragmented message, and a message of tens of thousands of fragments.
    assert {number for number in failed if not number.startswith(("9.3.", "9.4."))} <= {"7.1.5"}
    assert len(failed) <= 8


def test_the_cases_find_a_careless_server_out(upstream: RecordingUpstream) -> None:
    """A server that echoes everything fails the cases about invalid input."""
    upstream.on("/careless", echoing())
    numbers = [number for number in cases() if number.partition(".")[0] in ("1", "3", "4")]
    verdicts = asyncio.run(_run_all(numbers, upstream.address, "/careless"))
    assert {number[0] for number, verdict in verdicts.items() if not _is_good(verdict)} == {"3", "4"}
    assert all(_is_good(verdict) for number, verdict in verdicts.items() if number[0] == "1")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: f"{section}-{SECTIONS[section]}")
def test_cases_that_pass_directly_pass_through_the_gateway(
    before_it: Gateway, directly: Verdicts, section: str
) -> None:
    through = asyncio.run(_run_all(_of_section(section), before_it.address, PATH))
    worse = {
        number: (directly[number], verdict)
        for number, verdict in through.items()
        if _is_good(directly[number]) and not _is_good(verdict)
    }
    assert worse == {}
    assert before_it.running


def _is_good(verdict: Verdict) -> bool:
    return verdict.behavior in GOOD and verdict.close in GOOD


async def _run_all(numbers: list[str], address: Address, target: str) -> Verdicts:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: str) -> Verdict:
        async with free:
            return await run(cases()[number], address, target)

    return dict(zip(numbers, await asyncio.gather(*map(one, numbers)), strict=True))
