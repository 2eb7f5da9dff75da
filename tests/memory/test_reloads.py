"""A reload frees the previous configuration, including the first one."""

import signal
from pathlib import Path

import yaml

from gateway.observability.metrics.metrics import resident_memory
from tests.support.processes import Configuration, Gateway
from tests.support.small import small
from tests.support.waiting import eventually

ROUTES = 10_000
RELOADS = 2
# Two configurations exist for a moment during each reload. CPython keeps part of that memory for the next reload.
MOST = 1.4  # times the memory at the start; a leaked configuration makes it 1.55


def configuration(folder: Path, version: int) -> Configuration:
    routes = [
        {"path": f"/resource-{number}/items/{{id}}/v{version}", "upstream": "web", "roles": ["user"]}
        for number in range(ROUTES)
    ]
    return small(folder, {"web": "http://127.0.0.1:9"}, routes=routes)


def settled(gateway: Gateway) -> int:
    """Return the memory of the gateway once it has stopped shrinking."""
    assert gateway.process is not None
    statm = Path(f"/proc/{gateway.process.pid}/statm")
    sizes = [resident_memory(statm) or 0]

    def is_stable() -> bool:
        sizes.append(resident_memory(statm) or 0)
        return len(sizes) > 5 and max(sizes[-5:]) - min(sizes[-5:]) < 1 << 20

    eventually(is_stable, timeout=20, every=0.5)
    return sizes[-1]


def test_the_memory_of_ten_thousand_routes_returns_after_reloads(tmp_path: Path) -> None:
    gateway = Gateway("serve", configuration(tmp_path, 0), tmp_path)
    try:
        start = settled(gateway.start(60))
        for version in range(1, RELOADS + 1):
            gateway.config.write_text(yaml.dump(configuration(tmp_path, version), Dumper=yaml.CSafeDumper))
            gateway.signal(signal.SIGHUP)
            eventually(lambda version=version: gateway.log().count("is in force") == version, timeout=30, every=0.05)  # type: ignore[misc]
        end = settled(gateway)
        assert end < MOST * start, f"{start >> 20} MiB at the start, {end >> 20} MiB after {RELOADS} reloads"
    finally:
        gateway.kill()
