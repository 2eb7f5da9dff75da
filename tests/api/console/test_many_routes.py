"""The console of a gateway with many routes: bounded pages, built beside the event loop."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from starlette.requests import Request

from gateway.api.console.endpoints import Console
from gateway.api.console.memory import ConsoleMemory
from gateway.api.console.session import SigningIn
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.observer import Observer
from gateway.policy.loader import Configuration, load_configuration
from gateway.settings.model import ObservabilitySettings
from tests.observability.requests import finished
from tests.support.calls import calls_here

FEW, MANY = 150, 1500
VIEWS = {
    "overview": {"view": "overview"},
    "routes": {"view": "routes"},
    "sorted routes": {"view": "routes", "q": "s", "sort": "requests"},
    "a route": {"view": "route", "name": "route-7"},
    "matrix": {"view": "matrix"},
    "explain": {"view": "explain", "url": "/s7/x/y"},
    "a path without a route": {"view": "explain", "url": "/nothing"},
    "a host without routes": {"view": "explain", "url": "http://a.example/s7"},
}


class Administrator(SigningIn):
    """The sign-in of an administrator. tests/api/console/test_console.py has the sign-ins of others."""

    def __init__(self) -> None:
        pass

    async def administrator(self, request: Request) -> Any:
        return SimpleNamespace(id="u1", email="admin@example.com"), None


def configured(folder: Path, routes: int, **sections: Any) -> Configuration:
    file = folder / f"gateway-{routes}.yaml"
    listed = [{"path": f"/s{n}/{{id}}/**", "name": f"route-{n}", "upstream": "web"} for n in range(routes)]
    file.write_text(yaml.safe_dump({"upstreams": {"web": "http://127.0.0.1:9"}, "routes": listed, **sections}))
    return load_configuration(file, {})


def console_of(configuration: Configuration) -> Console:
    """A console in the running loop. Every route has served a request."""
    names = [route.name for route in configuration.policy.routes]
    observer = Observer(ObservabilitySettings(access_log="off"), names)
    for name in names:
        observer.completed(finished(route=name))
    metrics = Metrics(observer)
    return Console(
        Administrator(),
        metrics,
        memory=ConsoleMemory.of(metrics),
        current=lambda: configuration,
        version=lambda: "0123456789ab",
    )


async def page(console: Console, **query: str) -> str:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": urlencode(query).encode()}
    return bytes((await console.look(Request(scope))).body).decode()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    return configured(tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    return configured(tmp_path_factory.mktemp("many"), MANY)


@pytest.mark.parametrize("query", VIEWS.values(), ids=VIEWS)
async def test_the_loop_does_little_work_however_many_routes_there_are(
    few: Configuration, many: Configuration, query: dict[str, str]
) -> None:
    counts = []
    for console in (console_of(few), console_of(many)):
        await page(console, **query)
        with calls_here() as calls:
            await page(console, **query)
        counts.append(len(calls))
    assert counts[1] < counts[0] + FEW / 2
    assert max(counts) < 2 * FEW


@pytest.mark.parametrize("view", ["routes", "matrix"])
async def test_every_route_is_on_one_of_the_pages(few: Configuration, view: str) -> None:
    console = console_of(few)
    first, second, beyond = [await page(console, view=view, page=number) for number in ("1", "2", "99")]
    shown = [set(re.findall(r"/s\d+/", text)) for text in (first, second)]
    assert [len(each) for each in shown] == [100, FEW - 100]
    assert not shown[0] & shown[1]
    assert f"1 to 100 of {FEW}" in first and f"101 to {FEW} of {FEW}" in second
    assert f'href="/_gateway/console?view={view}&amp;page=2">Next' in first and "Previous" not in first
    assert ">Previous" in second and "Next" not in second
    assert f"101 to {FEW}" in beyond


@pytest.mark.parametrize("number", ["", "0", "-1", "x", "1e9", "9" * 5000, "²", "<b>"])
async def test_a_number_that_is_none_is_the_first_page(few: Configuration, number: str) -> None:
    text = await page(console_of(few), view="matrix", page=number)
    assert f"1 to 100 of {FEW}" in text
    assert "<b>" not in text.partition("<main>")[2]


async def test_a_policy_with_many_roles_has_columns_for_those_of_the_page(tmp_path: Path) -> None:
    roles: dict[str, list[str]] = {"admin": [], "user": [], **{f"role-{number}": [] for number in range(120)}}
    configuration = configured(tmp_path, 3, roles=roles)
    assert "more roles" not in await page(console_of(configured(tmp_path, 3)), view="matrix")
    text = await page(console_of(configuration), view="matrix")
    assert "role-7" not in text
    assert "122 more roles" in text


async def test_a_large_policy_is_compared_by_the_command(few: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(few)
    assert "Nothing about access" in await page(console, view="matrix", compare="1")
    monkeypatch.setattr("gateway.api.console.endpoints.MOST_COMPARED", FEW - 1)
    assert "gateway diff" in await page(console, view="matrix", compare="1")


async def test_a_name_that_no_route_has_is_not_found(few: Configuration) -> None:
    text = await page(console_of(few), view="route", name="<b>")
    assert "No such route" in text and "<b>" not in text
