"""The keys of an issuer over time: renewed early, kept during outages, and fetched for unknown ids at intervals."""

import asyncio
import json
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.discovery.fetch import Document, FetchFailed
from gateway.identity.discovery.jwks_client import COOLDOWN, LEAST_AGE, MOST_AGE, USUAL_AGE, PublishedKeySet
from tests.identity.stores import Clock, settle
from tests.support.issuers import jwk_of

CURVE = ec.generate_private_key(ec.SECP256R1())


class Server:
    """A key server: key ids, max-age, an optional error, and answers at once or on demand."""

    def __init__(self, *kids: str) -> None:
        self.kids = kids
        self.max_age: float | None = None
        self.error: Exception | None = None
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.text: bytes | None = None

    async def fetch(self) -> Document:
        self.asked += 1
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        keys = [jwk_of(CURVE, kid) for kid in self.kids]
        text = json.dumps({"keys": keys}).encode() if self.text is None else self.text
        return Document(text, self.max_age)


def middle(low: float, high: float) -> float:
    return (low + high) / 2


class Harness:
    def __init__(self, *kids: str, chance: Callable[[float, float], float] = middle) -> None:
        self.clock = Clock()
        self.server = Server(*kids)
        self.keys = PublishedKeySet("idp", self.server.fetch, algorithms=("ES256",), clock=self.clock, chance=chance)
        self.losses = 0
        self.keys.on_loss(self._lost)

    def _lost(self) -> None:
        self.losses += 1

    async def tick(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.keys.tick(self.clock.now)
        await settle()

    def known(self, *kids: str) -> bool:
        return all(self.keys.get(kid, "ES256") for kid in kids)


async def test_keys_are_fetched_at_the_first_tick_and_not_before() -> None:
    harness = Harness("k1")
    assert harness.server.asked == 0 and not harness.known("k1")
    await harness.tick()
    assert harness.server.asked == 1 and harness.known("k1")
    assert harness.keys.get("k1", "RS256") == ()


@pytest.mark.parametrize(
    ("max_age", "age"),
    [(None, USUAL_AGE), (0.0, LEAST_AGE), (1.0, LEAST_AGE), (300.0, 300.0), (10**8, MOST_AGE)],
)
async def test_they_are_renewed_before_they_are_stale(max_age: float | None, age: float) -> None:
    harness = Harness("k1")
    harness.server.max_age = max_age
    await harness.tick()
    await harness.tick(age * 0.69)
    assert harness.server.asked == 1
    await harness.tick(age * 0.12)
    assert harness.server.asked == 2


async def test_a_renewal_fails_no_verification_while_it_runs() -> None:
    harness = Harness("k1")
    await harness.tick()
    harness.server.answering.clear()
    await harness.tick(USUAL_AGE)
    assert harness.known("k1") and harness.server.asked == 2
    await harness.tick(USUAL_AGE)
    assert harness.server.asked == 2  # one at a time
    harness.server.kids = ("k2",)
    harness.server.answering.set()
    await settle()
    assert harness.known("k2") and not harness.known("k1") and harness.losses == 1


FAILURES: list[Callable[[Server], Any]] = [
    lambda server: setattr(server, "error", FetchFailed("refused")),
    lambda server: setattr(server, "error", RuntimeError("a mistake of ours")),
    lambda server: setattr(server, "text", b"<html>maintenance</html>"),
    lambda server: setattr(server, "text", b'{"error": "unavailable"}'),
]


@pytest.mark.parametrize("fail", FAILURES)
async def test_keys_outlast_an_outage_of_the_issuer(fail: Callable[[Server], Any]) -> None:
    harness = Harness("k1")
    await harness.tick()
    fail(harness.server)
    for _ in range(100):
        await harness.tick(MOST_AGE)
    assert harness.known("k1") and harness.losses == 0
    harness.server.error = harness.server.text = None
    harness.server.kids = ("k2",)
    await harness.tick(31.0)
    assert harness.known("k2") and not harness.known("k1")


async def test_an_issuer_that_is_out_is_asked_again_soon_and_then_less_often() -> None:
    harness = Harness("k1")
    harness.server.error = FetchFailed("refused")
    for _ in range(600):
        await harness.tick(0.5)
    assert 10 <= harness.server.asked <= 20
    harness.server.error = None
    await harness.tick(30.0)
    assert harness.known("k1")


async def test_each_failure_is_logged_with_its_reason_and_the_end_of_an_outage_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness("k1")
    await harness.tick()
    with caplog.at_level(logging.WARNING, "gateway.issuers"):
        for reason in ("answered 503", "answered 503", "ConnectError"):
            harness.server.error = FetchFailed(reason)
            await harness.tick(MOST_AGE)
        harness.server.error = None
        await harness.tick(MOST_AGE)
    messages = [record.getMessage() for record in caplog.records]
    assert [line.partition("(")[2].partition(")")[0] for line in messages[:3]] == ["answered 503"] * 2 + [
        "ConnectError"
    ]
    assert "1 earlier keys" in messages[0]
    assert len(messages) == 4 and "again" in messages[3]


async def test_an_issuer_without_usable_keys_is_believed_and_named(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness("k1")
    await harness.tick()
    harness.server.kids = ()
    await harness.tick(USUAL_AGE)
    assert not harness.known("k1") and harness.losses == 1 and "no usable key" in caplog.text


# ---- unknown keys


async def test_an_unknown_key_is_asked_for_at_most_every_thirty_seconds() -> None:
    harness = Harness("k1")
    await harness.tick()
    assert COOLDOWN == 30.0
    for second in range(60):
        harness.clock.now += 1.0
        if harness.keys.may_be_asked:
            await harness.keys.ask()
            assert second in (0, 30)
        await harness.keys.ask()  # callers that skip the check cause no further fetch either
    assert harness.server.asked == 3


async def test_a_new_key_is_known_as_soon_as_a_token_uses_it() -> None:
    harness = Harness("k1")
    await harness.tick()
    harness.server.kids = ("k2", "k1")
    assert harness.keys.may_be_asked
    await harness.keys.ask()
    assert harness.known("k1", "k2") and harness.losses == 0 and not harness.keys.may_be_asked


async def test_all_waiting_callers_share_one_fetch() -> None:
    harness = Harness("k1")
    harness.server.answering.clear()
    harness.keys.tick(harness.clock.now)  # the first fetch is in progress
    askers = [asyncio.create_task(harness.keys.ask()) for _ in range(50)]
    await settle()
    askers[0].cancel()
    await settle()
    assert harness.keys.may_be_asked and harness.server.asked == 1 and not any(asker.done() for asker in askers[1:])
    harness.server.answering.set()
    await asyncio.gather(*askers[1:])
    assert harness.server.asked == 1 and harness.known("k1")


async def test_waiting_for_a_renewal_costs_no_fetch() -> None:
    harness = Harness("k1")
    harness.server.answering.clear()
    harness.keys.tick(harness.clock.now)
    asker = asyncio.create_task(harness.keys.ask())
    await settle()
    harness.server.answering.set()
    await asker
    assert harness.keys.may_be_asked


async def test_an_issuer_that_is_down_is_no_error_for_waiting_callers() -> None:
    harness = Harness("k1")
    harness.server.error = FetchFailed("refused")
    await harness.keys.ask()
    assert not harness.known("k1") and not harness.keys.may_be_asked


async def test_closing_releases_waiting_callers() -> None:
    harness = Harness("k1")
    harness.server.answering.clear()
    asker = asyncio.create_task(harness.keys.ask())
    await settle()
    harness.keys.close()
    async with asyncio.timeout(1):
        await asker
    await harness.tick(MOST_AGE)
    assert harness.server.asked == 1


async def test_replicas_do_not_ask_all_at_once() -> None:
    rigs = [Harness("k1", chance=Random(seed).uniform) for seed in range(20)]
    for harness in rigs:
        await harness.tick()
        await harness.tick(USUAL_AGE * 0.75)
    assert {harness.server.asked for harness in rigs} == {1, 2}
