"""The figures of a policy with ten thousand routes: `python -m bench.policy`, a minute on one core.

    load     read, check and compile the file; at most 2 s
    match    cost of one request relative to ten routes; at most 1.1
    diff     compare two files that differ in everything, without reading them; at most 5 s
    replay   access log lines per second, each with another path; at least 50,000

CPU time of this process, the best of several rounds, because other work on the machine can only add to it.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.analysis.diff import compare
from gateway.analysis.lint import lint
from gateway.analysis.replay import Replay
from gateway.policy.loader import Configuration, load_configuration
from gateway.policy.policy import Policy
from gateway.policy.version import policy_version
from gateway.wire.paths import RequestTarget, canonical_target

ROUTES: Final = 10_000
LINES: Final = 50_000
_SERVICES: Final = 100


class Figure(NamedTuple):
    """One measured value and its limit. None: no limit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is within the limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        text = f"{self.name:<22} {self.value:>10,.2f} {self.unit}"
        if self.limit is None:
            return text
        sign = ">=" if self.at_least else "<="
        return f"{text:<44} {sign} {self.limit:,.1f}  {'kept' if self.holds else 'MISSED'}"


def configuration_text(routes: int, *, upstream: str = "web", role: str = "editor") -> str:
    """A file with `routes` routes of one shape, spread over a hundred services."""
    lines = ["upstreams: {web: http://127.0.0.1:9000, api: http://127.0.0.1:9001}"]
    lines += ["roles: {admin: [editor], editor: [user], user: []}", "routes:"]
    for number in range(routes):
        lines += [
            f"  - path: /service{number % _SERVICES}/things{number // _SERVICES}/{{id}}",
            "    methods: [GET]",
            f"    roles: [{role if number % 3 == 0 else 'user'}]",
            f"    upstream: {upstream}",
        ]
    return "\n".join(lines) + "\n"


def log_lines(count: int, routes: int = ROUTES) -> Iterator[bytes]:
    """Access log lines with different paths, spread over the routes."""
    for number in range(count):
        service, things = number % _SERVICES, number // _SERVICES % (routes // _SERVICES)
        line = {
            "time": "2026-11-22T16:05:16.767Z",
            "request_id": f"{number:016x}",
            "client": "192.0.2.1",
            "host": "api.example.com",
            "method": "GET",
            "path": f"/service{service}/things{things}/{number}",
            "route": f"GET /service{service}/things{things}/{{id}}",
            "status": 200,
            "code": "",
            "user": f"user-{number % 1000}",
            "roles": ["editor"],
            "duration_ms": 1.25,
            "received": 0,
            "sent": 68,
        }
        yield json.dumps(line, separators=(",", ":")).encode() + b"\n"


def best(work: Callable[[], object], rounds: int = 3) -> float:
    """CPU seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def figures(folder: Path) -> Iterator[Figure]:
    """Compute all figures in order."""
    files = {name: folder / f"{name}.yaml" for name in ("ten", "old", "new")}
    files["ten"].write_text(configuration_text(10))
    files["old"].write_text(configuration_text(ROUTES))
    files["new"].write_text(configuration_text(ROUTES, upstream="api", role="admin"))
    yield Figure("load", best(lambda: load_configuration(files["old"], {})), "s", 2.0)
    ten, old, new = (load_configuration(file, {}) for file in files.values())
    few, many = (_matching(each.policy, paths) for each, paths in ((ten, range(10)), (old, range(0, ROUTES, 1001))))
    yield Figure("match with 10 routes", few * 1e6, "us")
    yield Figure(f"match with {ROUTES:,}", many / few, "x ten", 1.1)
    yield Figure("diff", best(lambda: compare(old, new)), "s", 5.0)
    yield Figure("version", best(lambda: policy_version(old.settings)), "s")
    yield Figure("warnings", best(lambda: lint(old)), "s")
    yield Figure("replay", LINES / _replaying(old), "lines/s", 50_000, at_least=True)


def _matching(policy: Policy, routes: Sequence[int]) -> float:
    """CPU seconds for one match, the mean over some routes. Few routes are used, so that both policies stay in the
    processor's caches: this compares the search and not the memory."""
    paths = [f"/service{number % _SERVICES}/things{number // _SERVICES}/7" for number in routes]
    targets: list[RequestTarget] = [canonical_target(path.encode(), relaxed=False) for path in paths]
    calls = 2000

    def work() -> None:
        for _ in range(calls):
            for target in targets:
                policy.match(b"api.example.com", target, b"GET")

    return best(work, rounds=15) / (calls * len(targets))


def _replaying(configuration: Configuration) -> float:
    lines = list(log_lines(LINES))

    def work() -> None:
        replay = Replay(configuration)
        for line in lines:
            replay.line(line)
        assert replay.report.replayed == LINES, "a line of this benchmark was not replayed"

    return best(work)


def main() -> int:
    """Print the figures. Exit code 1 if a limit is missed."""
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for figure in figures(Path(folder)):
            print(figure, flush=True)
            held = held and figure.holds
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
