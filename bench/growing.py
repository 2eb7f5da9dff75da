"""The cost of a request in memory (bench/stage.py) as routes, targets, header fields, cached tokens and users grow, and
the longest pause.

In memory, a request can be timed to a tenth of a microsecond. The cost should stay flat, except for header fields, each
of which is processed.
"""

import gc
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from bench.peers.peer import ITEM
from bench.stage import InMemoryHarness, staged
from gateway.gate.gate import Gate
from gateway.gate.rate_limits import Limits
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.directory import Directory
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.principal import PrincipalFactory
from gateway.identity.user import UserRecord
from gateway.policy.roles import RoleHierarchy
from gateway.server.garbage import Collector

Points = dict[str, float]

ROUTES = (10, 100, 1000, 10_000)
TARGETS = (1, 10, 100)
HEADERS = (5, 10, 20, 50)
CACHED = (10, 1000, 10_000, 100_000)
PLAYED = 50  # requests per timing; the best timing counts
TIMINGS = 400
BETWEEN_TICKS = 7_500  # requests; 30,000 per second
TICKS = 40
ROLES = frozenset({"user"})
LIFETIME = 3600.0  # seconds that a cached user stays


def best(play: Callable[[], None]) -> float:
    """Microseconds of one call, the minimum of many timings, without garbage collection."""
    for _ in range(PLAYED):
        play()
    gc.collect()
    return round(min(timeit.repeat(play, number=PLAYED, repeat=TIMINGS)) / PLAYED * 1e6, 2)


async def by_routes() -> Points:
    """By number of routes."""
    return {str(count): await _repeated(routes=count) for count in ROUTES}


async def by_targets() -> Points:
    """By number of targets, used in turn."""
    return {str(count): await _repeated(targets=count) for count in TARGETS}


async def _repeated(**grown: Any) -> float:
    async with staged(**grown) as stage:
        return best(stage.scenarios()["repeated"])


async def by_headers() -> Points:
    """By number of header fields, one of them different in each request, so that all are parsed."""
    found = {}
    async with staged() as stage:
        for count in HEADERS:
            fields = [(f"X-Field-{number}", "a value of some length") for number in range(count - 6)]
            requests = [stage.request(ITEM, *fields, ("X-Turn", str(turn))) for turn in range(PLAYED)]
            found[str(count)] = best(_served(stage, requests))
    return found


async def by_tokens() -> tuple[Points, Points]:
    """By number of cached tokens and users, all in use: microseconds per request, and the longest pause in
    milliseconds."""
    cost, pause = {}, {}
    async with staged(cached=2 * max(CACHED)) as stage:
        users = Users(stage, cached=2 * max(CACHED))
        requests: list[bytes] = []
        for count in CACHED:
            while len(requests) < count:
                requests.append(stage.request(ITEM, token=users.token(len(requests))))
                if len(requests) % 50 == 0:
                    _renew(stage)
            for number, request in enumerate(requests):  # verifies each token once
                await users.look_up(number)
                stage.serve(request)
            cost[str(count)] = best(_served(stage, requests))
            pause[str(count)] = longest_pause(stage, requests, users)
    return cost, pause


def longest_pause(stage: InMemoryHarness, requests: Sequence[bytes], users: "Users") -> float:
    """CPU milliseconds of the longest uninterrupted step: a request with any garbage collection inside it, a tick, or
    the flush of all users, as after an outage of Redis."""
    collector = Collector(lambda: True, stage.runtime.request_ids.count)
    play, longest = _served(stage, requests), 0.0
    with _collecting_as_before():
        collector.collect_and_freeze(0.0)
        for tick in range(TICKS):
            longest = max(longest, *(_seconds(play) for _ in range(BETWEEN_TICKS)))
            _renew(stage)
            longest = max(longest, _seconds(partial(collector.tick, tick / 4)))
        longest = max(longest, _seconds(users.directory.flush))
    return round(longest * 1e3, 2)


def _seconds(play: Callable[[], object]) -> float:
    """CPU time of this thread, which excludes other work on the machine."""
    begun = time.thread_time()
    play()
    return time.thread_time() - begun


@contextmanager
def _collecting_as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


class Users:
    """Any number of users, whose records cost no database, behind a gate of their own in the stage."""

    def __init__(self, stage: InMemoryHarness, *, cached: int) -> None:
        settings = stage.configuration.settings
        self._tokens = Tokens(
            KeyRing([SigningKey(ec.generate_private_key(ec.SECP256R1()), "ES256", "bench")]),
            settings.tokens,
            remembered=cached,
        )
        self.directory = Directory(
            self,
            factory=PrincipalFactory(settings.identity, RoleHierarchy(settings.roles).expand),
            cache_settings=replace(settings.cache, user_ttl=LIFETIME),
        )
        stage.runtime.gate = Gate(
            policy=stage.configuration.policy,
            credentials=Authenticator(self._tokens),
            directory=self.directory,
            limits=Limits(),
        )

    async def user(self, user_id: str) -> UserRecord:
        """The record of a user, as from the database."""
        return UserRecord(user_id, f"{user_id}@example.com", True, ROLES, datetime.now(UTC), 1)

    async def look_up(self, number: int) -> None:
        """Put a user into the cache."""
        await self.directory.principal(_id(number))

    def token(self, number: int) -> str:
        """An access token of a user."""
        return self._tokens.issue(user_id=_id(number), session_id=f"session-{number:08}", roles=ROLES).token


def _id(number: int) -> str:
    return f"user-{number:08}"


def _renew(stage: InMemoryHarness) -> None:
    """Advance the gateway's clock, which does not run while the stage is busy."""
    stage.runtime.ticker.now = stage.runtime.loop.time()


def _served(stage: InMemoryHarness, requests: Sequence[bytes]) -> Callable[[], None]:
    turn, serve = cycle(requests), stage.serve
    return lambda: serve(next(turn))


async def grow() -> dict[str, Points]:
    """All measurements."""
    routes, targets, headers = await by_routes(), await by_targets(), await by_headers()
    tokens, pauses = await by_tokens()
    return {
        "routes": routes,
        "upstream targets": targets,
        "header fields, each read": headers,
        "cached tokens and users": tokens,
        "longest pause, ms, cached users": pauses,
    }
