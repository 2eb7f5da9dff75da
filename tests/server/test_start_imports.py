"""The modules that `gateway serve` imports at its start: those that its configuration needs, and no others."""

import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.processes import free_port
from tests.support.processes import Gateway
from tests.support.small import small

# Imported at the start with the settings of CONFIGURED, and not without them.
CONFIGURED_PARTS = [
    "aiosmtplib",
    "gateway.accounts.texts",
    "gateway.api.browser_sessions",
    "gateway.api.links",
    "gateway.api.pages",
    "gateway.identity.discovery",
    "gateway.server.mail",
    "gateway.storage.redis",
    "jinja2",
    "redis",
]
# Imported by the first use, by other commands, or by settings that these tests leave out.
OTHER_PARTS = [
    "alembic",
    "asyncpg",
    "difflib",
    "email_validator",
    "gateway.analysis",
    "gateway.api.console.endpoints",
    "gateway.api.openapi.page",
    "gateway.proxy.httpx_engine",
    "gateway.settings.documentation",
    "gateway.settings.schema",
    "publicsuffixlist",
    "rich",
    "uvicorn.protocols",
    "websockets",
]


class _Traced(Gateway):
    """A gateway that logs its imports."""

    imports = True

    @property
    def arguments(self) -> list[str]:
        return ["-X", "importtime", *super().arguments]

    def imported(self) -> set[str]:
        """The modules that the process has imported so far."""
        return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", self.log(), re.MULTILINE))


def _started(folder: Path, **sections: Any) -> Iterator[_Traced]:
    gateway = _Traced("serve", small(folder, {"web": f"http://127.0.0.1:{free_port()}"}, **sections), folder)
    gateway.start(within=60)
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[_Traced, Collection[str]]]:
    """A gateway whose configuration has upstreams, routes and a database, and the imports of its start."""
    for gateway in _started(tmp_path_factory.mktemp("bare")):
        yield gateway, gateway.imported()


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection[str]]:
    """The imports of a gateway with sessions, pages, mail, an external issuer and Redis. None of the servers runs."""
    unused = free_port()
    sections: dict[str, Any] = {
        "server": {"public_url": "http://localhost:8000"},
        "sessions": {},
        "accounts": {"pages": {}},
        "mail": {"from": "gateway@example.com", "smtp": f"smtp://127.0.0.1:{unused}"},
        "tokens": {
            "external": [
                {
                    "name": "partner",
                    "issuer": "https://issuer.example",
                    "audience": "api",
                    "jwks_url": f"http://127.0.0.1:{unused}/jwks",
                }
            ]
        },
        "storage": {"redis": f"redis://127.0.0.1:{unused}/0"},
    }
    for gateway in _started(tmp_path_factory.mktemp("configured"), **sections):
        yield gateway.imported()


def _within(part: str, imported: Collection[str]) -> list[str]:
    return [name for name in imported if name == part or name.startswith(f"{part}.")]


@pytest.mark.parametrize("part", [*CONFIGURED_PARTS, *OTHER_PARTS])
def test_a_start_without_settings_for_a_part_imports_nothing_of_it(
    bare: tuple[_Traced, Collection[str]], part: str
) -> None:
    _, imported = bare
    assert find_spec(part) is not None
    assert "gateway.server.serve" in imported
    assert _within(part, imported) == []


@pytest.mark.parametrize("part", CONFIGURED_PARTS)
def test_a_start_with_settings_for_a_part_imports_it_before_the_first_request(
    configured: Collection[str], part: str
) -> None:
    assert _within(part, configured)


def test_the_first_request_for_the_console_imports_it(bare: tuple[_Traced, Collection[str]]) -> None:
    gateway, at_start = bare
    first, second = gateway.get("/_gateway/console"), gateway.get("/_gateway/console")
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body
    new = gateway.imported() - set(at_start)
    assert "gateway.api.console.endpoints" in new
