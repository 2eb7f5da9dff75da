"""The translation of httpx errors, and the deferred import of httpx."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gateway.errors import CODES
from gateway.proxy.httpx_engine.transport import refusal_of
from gateway.proxy.target import Target

ROOT = Path(__file__).resolve().parents[3]
TARGET = Target("10.0.0.1", 8080, None, None, "10.0.0.1:8080")
WANTED = {
    httpx.ConnectTimeout: "upstream_timeout",
    httpx.ReadTimeout: "upstream_timeout",
    httpx.WriteTimeout: "upstream_timeout",
    httpx.PoolTimeout: "overloaded",
    httpx.ConnectError: "upstream_unreachable",
    httpx.ReadError: "upstream_unreachable",
    httpx.WriteError: "upstream_unreachable",
    httpx.CloseError: "upstream_unreachable",
    httpx.ProxyError: "upstream_unreachable",
    httpx.UnsupportedProtocol: "upstream_unreachable",
    httpx.RemoteProtocolError: "upstream_invalid",
    httpx.LocalProtocolError: "upstream_invalid",
}


def subclasses(kind: type[httpx.TransportError]) -> set[type[httpx.TransportError]]:
    found = {kind}
    for below in kind.__subclasses__():
        found |= subclasses(below)
    return found


def test_every_error_of_a_transport_has_a_code() -> None:
    kinds = subclasses(httpx.TransportError)
    assert len(kinds) > len(WANTED)
    for kind in kinds:
        refusal = refusal_of(kind("what happened"), TARGET)
        assert CODES[refusal.code][0] in (502, 503, 504)
        assert "what happened" not in refusal.detail
        assert "10.0.0.1" not in refusal.detail
        assert refusal.reason == "http://10.0.0.1:8080: what happened"


@pytest.mark.parametrize(("kind", "code"), WANTED.items(), ids=lambda value: getattr(value, "__name__", value))
def test_each_kind_of_error_has_its_own(kind: type[httpx.TransportError], code: str) -> None:
    refusal = refusal_of(kind("x"), TARGET)
    assert refusal.code == code
    assert (refusal.retry_after is not None) == (code == "overloaded")


def test_an_error_without_text_is_named() -> None:
    assert refusal_of(httpx.ReadError(""), TARGET).reason.endswith("ReadError")


ASKED = """
import asyncio, sys
import gateway.server.serve
from gateway.proxy.proxy import engine_of
from gateway.settings.model import UpstreamSettings
from gateway.ticker import Ticker

async def made(engine):
    loop = asyncio.get_running_loop()
    upstream = UpstreamSettings(name="web", targets=("http://127.0.0.1:9",), engine=engine)
    engine_of(upstream, loop=loop, ticker=Ticker(loop), tls=None)
    return "httpx" in sys.modules

print(asyncio.run(made("native")), asyncio.run(made("httpx")))
"""


def test_httpx_is_imported_when_an_upstream_asks_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"], done.stderr
