"""Gateways for a single test, with a minimal configuration."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateways import unhandled
from tests.support.processes import Configuration, Face, Gateway, command, write_configuration
from tests.support.waiting import eventually

Upstream = str | list[str] | Mapping[str, Any]
Start = Callable[..., Gateway]


def small(
    folder: Path,
    upstreams: Mapping[str, Upstream],
    *,
    routes: Sequence[Mapping[str, Any]] = (),
    **sections: Mapping[str, Any],
) -> Configuration:
    """A configuration with an open route `/NAME/**` for each upstream, and additional `routes`. The folder gets a
    database with empty tables, because creating them is half of the CPU time of a start."""
    database = empty_database(folder)
    targets = {name: {"targets": one} if isinstance(one, list) else one for name, one in upstreams.items()}
    configuration: Configuration = {
        "server": {"drain": "5s"},
        "storage": {"database": f"sqlite:///{database}"},
        "accounts": {"password": {"bcrypt_rounds": 4}, "registration_limit": None},
        "observability": {"access_log": "off"},
        "upstreams": targets,
        "routes": [{"path": f"/{name}/**", "auth": "none", "upstream": name} for name in targets] + [*routes],
    }
    for name, values in sections.items():
        configuration[name] = {**configuration.get(name, {}), **values}
    return configuration


def empty_database(folder: Path) -> Path:
    """The database of a folder. A new one gets empty tables."""
    database = folder / "gateway.db"
    if not database.exists():
        database.write_bytes(_empty_tables())
        database.chmod(0o600)
    return database


@cache
def _empty_tables() -> bytes:
    with TemporaryDirectory() as folder:
        database = Path(folder, "gateway.db")
        key = {"kid": "k1", "algorithm": "HS256", "secret": "0123456789abcdef" * 2}
        content = {"storage": {"database": f"sqlite:///{database}"}, "tokens": {"keys": [key]}}
        done = command(write_configuration(Path(folder), content), "db", "upgrade")
        assert done.returncode == 0, done.stderr
        return database.read_bytes()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gateways: `start(upstreams, face, **sections)`. At the end of the test they must be running without
    errors."""
    started: list[Gateway] = []

    def start(upstreams: Mapping[str, Upstream], face: Face = "serve", **sections: Any) -> Gateway:
        patches = sections.pop("patches", None)
        configuration = small(tmp_path, upstreams, **sections)
        gateway = (Gateway if patches is None else Patched)(face, configuration, tmp_path)
        if isinstance(gateway, Patched):
            gateway.patches = patches
        started.append(gateway)
        return gateway.start()

    yield start
    for gateway in started:
        gateway.kill()
    for gateway in started:
        assert not unhandled(gateway), unhandled(gateway)[0]


_RUN = """
import collections, gc, importlib, json, signal, sys

def census(*_):
    gc.collect()
    counts = collections.Counter(type(one).__name__ for one in gc.get_objects())
    print("census: " + json.dumps(counts), file=sys.stderr, flush=True)

signal.signal(signal.SIGUSR1, census)
for name, value in {patches!r}.items():
    room, _, constant = name.rpartition(".")
    before = getattr(importlib.import_module(room), constant)
    for module in list(sys.modules.values()):
        if vars(module).get(constant) is before:
            setattr(module, constant, value)
sys.argv[0] = "gateway"
from gateway.__main__ import main
main()
"""


class Patched(Gateway):
    """A gateway with other values for some constants, because some limits take a minute to reach. Modules that have
    imported a constant get the other value too. It can report its objects."""

    patches: Mapping[str, float]

    def census(self) -> "Counter[str]":
        """The number of objects of each type in the process."""
        before = len(self._told())
        self.signal(signal.SIGUSR1)
        eventually(lambda: len(self._told()) > before, timeout=20)
        return Counter(json.loads(self._told()[-1]))

    def _told(self) -> list[str]:
        lines = self.log().split("\n")[:-1]
        return [line.removeprefix("census: ") for line in lines if line.startswith("census: ")]

    @property
    def arguments(self) -> list[str]:
        """`gateway serve`, run by a program that changes the constants first."""
        assert self.face == "serve"
        return ["-c", _RUN.format(patches=dict(self.patches)), *super().arguments[2:]]


def descriptors(gateway: Gateway) -> int:
    """The number of open files and sockets of the gateway."""
    assert gateway.process is not None
    descriptors: int = psutil.Process(gateway.process.pid).num_fds()
    return descriptors


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of the values of a metric with these labels."""
    page = gateway.get("/_gateway/metrics").body.decode()
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
    assert found, name
    return sum(found)
