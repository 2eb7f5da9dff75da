"""What is valid and not there yet is named at its place; what is there, or merely assumed, is not."""

import os
from pathlib import Path

import pytest

from gateway.settings import availability
from gateway.settings.availability import described, not_available
from gateway.settings.reading import read_settings
from gateway.settings.reference import reference
from tests.settings.reading import settings_of

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = "upstreams:\n  web:\n    targets: ['http://h']\n    {}\n"
ROUTE = "upstreams: {{web: 'http://h'}}\nroutes:\n  - path: /a\n    upstream: web\n    {}\n"

THERE = [
    "server: {operations_port: null}",
    "server: {operations_port: 9000}",
    "tokens: {external: []}",
    "tokens: {external: [{issuer: 'https://idp/', audience: a, name: idp}]}",
    "identity: {assertion: null}",
    "identity: {assertion: {}}",
    "observability: {tracing: null}",
    "observability: {tracing: {otlp_endpoint: 'http://localhost:4318'}}",
    "accounts: {password: {bcrypt_rounds: 12}}",
    "accounts: {lockout: {failures: 3}}",
    "upstreams: {web: {targets: ['http://a', 'http://b']}}",
    UPSTREAM.format("balance: least_requests"),
    UPSTREAM.format("health: {path: /z}"),
    UPSTREAM.format("eject: {failures: 5}"),
    UPSTREAM.format("retry_budget: 0.2"),
    UPSTREAM.format("retries: 2"),
    ROUTE.format("websocket: true"),
    UPSTREAM.format("balance: round_robin"),
    UPSTREAM.format("health: null"),
    UPSTREAM.format("eject: null"),
    UPSTREAM.format("retries: 1"),
    UPSTREAM.format("retries: 0"),
    UPSTREAM.format("engine: native"),
    UPSTREAM.format("engine: httpx"),
    UPSTREAM.format("preserve_host: true"),
    "upstreams: {web: {targets: ['https://h'], tls: {server_name: h, verify: true}}}",
    ROUTE.format("websocket: false"),
    ROUTE.format("shadow: true"),
    ROUTE.format("shadow: false"),
    ROUTE.format("cors: {origins: ['*']}"),
    ROUTE.format("rate_limit: {requests: 1, per: 1s}"),
    ROUTE.format("forward_credentials: true"),
    ROUTE.format("encoded_slash: keep"),
    ROUTE.format("response_timeout: null"),
]


@pytest.mark.parametrize("text", THERE)
def test_what_is_there_is_not_named(text: str) -> None:
    assert not_available(settings_of(text)) == ()


def test_everything_that_is_not_there_yet_is_named_in_the_order_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_GLOBAL", (("server.public_url", bool, "is not there"),))
    monkeypatch.setattr(availability, "_ROUTE", (("websocket", bool, "is not there"),))
    text = (
        "routes:\n  - {path: /a, upstream: web, websocket: true}\n"
        "server: {public_url: https://a.example}\nupstreams: {web: 'http://h'}\n"
    )

    assert [problem.line for problem in not_available(settings_of(text))] == [2, 3]


@pytest.mark.parametrize("name", ["gateway.yaml", "demo.yaml"])
def test_the_examples_use_only_what_is_there(name: str) -> None:
    settings = read_settings(ROOT / "config" / name, {}).settings

    assert settings is not None
    assert not_available(settings) == ()


def test_what_is_not_there_is_named_in_the_documentation_and_else_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(described()) and "Not available yet" not in reference()
    monkeypatch.setattr(availability, "_GLOBAL", (("server.public_url", bool, "is not there"),))
    assert "- `server.public_url`: is not there" in reference()


def test_the_environment_of_this_process_is_not_needed_for_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)

    assert read_settings(ROOT / "config/gateway.yaml", os.environ).settings is not None
