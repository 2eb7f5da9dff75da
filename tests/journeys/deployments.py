"""Two deployments of the gateway: one process over SQLite, and two replicas over PostgreSQL and Redis."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from bench.stores.postgres import PostgresServer, running_postgres
from bench.stores.valkey import ValkeyServer
from bench.stores.valkey import running as running_valkey
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import FACES, Configuration, Gateway, command, write_configuration
from tests.support.waiting import eventually, promised

_PROPAGATION: Final = promised(0.1)


@dataclass(frozen=True, slots=True)
class Deployment:
    """Gateways that clients see as one. `propagation` is the maximum seconds until all see the change of a command."""

    first: Gateway
    second: Gateway
    propagation: float

    @property
    def all(self) -> tuple[Gateway, ...]:
        return (self.first,) if self.first is self.second else (self.first, self.second)

    def command(self, *arguments: str, input: str | None = None) -> float:
        """Run a command; returns the monotonic time of its end."""
        self.first.command(*arguments, input=input)
        return time.monotonic()


@dataclass(frozen=True)
class Replicated:
    """Two replicas, one for each server, and their stores, which tests can stop."""

    deployment: Deployment
    postgres: PostgresServer
    valkey: ValkeyServer

    @cached_property
    def redis_prefix(self) -> str:
        """The common prefix of all keys and channels in Redis."""
        with self.valkey.client() as client:
            channel: str = next(iter(client.pubsub_channels("gateway:2:*:changes")))
            return channel.removesuffix("changes")

    def mend(self) -> None:
        """Wait until both replicas report that all stores are up, at most 5 s after the return of a store."""
        eventually(
            lambda: all(degraded(gateway) == [] for gateway in self.deployment.all), timeout=promised(5.0), every=0.1
        )


def degraded(gateway: Gateway) -> list[str]:
    """The stores that a gateway reports as down."""
    answer = gateway.get("/_gateway/ready")
    assert answer.status == 200, answer
    names: list[str] = answer.json().get("degraded", [])
    return names


@contextmanager
def replicated(gateways: Gateways, folder: Path, **sections: Mapping[str, object]) -> Iterator[Replicated]:
    """Two replicas over their own PostgreSQL and Valkey."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        valkey = stack.enter_context(running_valkey(folder))
        storage = {"database": postgres.url(postgres.create_database()), "redis": valkey.url}
        sections["storage"] = storage | dict(sections.get("storage", {}))
        configuration = changed(gateways.configuration(folder), **sections)
        first, second = _started(configuration, folder, stack)
        yield Replicated(Deployment(first, second, propagation=_PROPAGATION), postgres, valkey)


@contextmanager
def replicas_over(gateways: Gateways, folder: Path, database: str, redis: str) -> Iterator[tuple[Gateway, Gateway]]:
    """Two replicas over the stores at these addresses."""
    with ExitStack() as stack:
        storage = {"database": database, "redis": redis}
        yield _started(changed(gateways.configuration(folder), storage=storage), folder, stack)


def _started(configuration: Configuration, folder: Path, stack: ExitStack) -> tuple[Gateway, Gateway]:
    done = command(write_configuration(folder, configuration), "db", "upgrade")
    assert done.returncode == 0, done.stdout + done.stderr
    gateways = [Gateway(face, configuration, folder) for face in FACES]
    for gateway in gateways:
        gateway.launch()
        stack.callback(gateway.kill)
    for gateway in gateways:
        gateway.ready()
    return gateways[0], gateways[1]
