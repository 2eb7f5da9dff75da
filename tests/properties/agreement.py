"""`python -m tests.properties.agreement`: compare all components that decide on requests.

Generates random policies and requests, 100,000 pairs by default. A naive reference, `decide`, `gateway explain`,
`gateway test`, `gateway matrix`, the gate and `/_gateway/verify` decide each pair, and with --live a running proxy too.
Prints every difference; the exit code is 1 if there is one.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.analysis.explain import Person
from gateway.errors import CODES
from gateway.settings.loader import read_content
from tests.properties.agreement_faces import Faces, Outcome
from tests.properties.agreement_live import Live
from tests.properties.parity import ROLES, UPSTREAMS, PolicyGenerator, Route

PEOPLE: Final[Mapping[str, Person | None]] = {
    "user": Person("OWN", frozenset({"user"})),
    "editor": Person("me", frozenset({"editor"})),
    "admin": Person("7", frozenset({"admin"})),
    "auditor": Person("a", frozenset({"auditor"})),
    "disabled": Person("x-y", frozenset({"admin"}), state="disabled"),
    "nobody": None,
    "garbage": None,
    "basic": None,
}
_REQUESTS: Final = 100


@dataclass(slots=True)
class Agreement:
    """The number of comparisons, and the differences."""

    pairs: int = 0
    allowed: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def compare(self, what: str, outcomes: Mapping[str, Outcome]) -> None:
        """Record one request. The first outcome is the expected one."""
        first = next(iter(outcomes.values()))
        self.pairs += 1
        self.allowed += first.startswith(("allowed", "answered"))
        for face, outcome in outcomes.items():
            self.asked[face] = self.asked.get(face, 0) + 1
            if not _alike(first, outcome):
                self.differences.append(f"{what}: {face} says {outcome!r}, others {first!r}")


def _alike(one: Outcome, other: Outcome) -> bool:
    """Compare loosely: an outcome can lack the route, and an answer to HEAD has only a status."""
    code = one.split(" ")[0]
    return other in (one, code) or (code in CODES and other == str(CODES[code][0]))


def compare(seed: int, requests: int, agreement: Agreement, live: Live | None = None) -> None:
    """Compare decisions for one policy, relaxed for every third seed."""
    generator = PolicyGenerator(seed)
    routes = list(_extended(generator.routes(12), seed))
    document = configuration(routes, relaxed=seed % 3 == 0)
    draft = read_content(json.dumps(document).encode(), "gateway.yaml", {})
    if draft.settings is None:
        raise ValueError(f"seed {seed} made a configuration that cannot be read: {draft.problems[:3]}")
    with ExitStack() as stack:
        faces = stack.enter_context(Faces(draft.settings, routes, PEOPLE))
        if live is not None:
            stack.enter_context(live.serving(document))
        for number in range(requests):
            asked = generator.asked(routes)
            if asked.person not in PEOPLE:  # spellings of credentials are not part of a policy
                asked.person = "basic"
            if live is None and number % 13 == 0:
                asked.person = "disabled"
            handshake = asked.method == "GET" and asked.body is None and (seed + number) % 9 == 0
            outcomes = faces.outcomes(asked, handshake=handshake)
            if live is not None and not handshake:
                outcomes["proxy"] = live.outcome(asked)
            agreement.compare(f"seed {seed}: {asked.method} {asked.target} at {asked.host} by {asked.person}", outcomes)


def _extended(routes: list[Route], seed: int) -> Iterator[Route]:
    """Add handshakes to some routes, and shadow rules, which must change nothing."""
    for number, route in enumerate(routes):
        yield {**route, "websocket": (seed + number) % 4 == 0}
        if (seed + number) % 7 == 0:
            rest = {name: value for name, value in route.items() if name in ("path", "methods", "host", "upstream")}
            yield {**rest, "auth": "none", "shadow": True, "name": f"shadow-{number}"}


def configuration(routes: list[Route], *, relaxed: bool) -> dict[str, Any]:
    """The configuration file of one policy, without the sections that only a running gateway needs."""
    return {
        "server": {"paths": "relaxed" if relaxed else "strict"},
        "roles": ROLES,
        "upstreams": dict.fromkeys(UPSTREAMS, "http://127.0.0.1:9"),
        "routes": routes,
    }


def main() -> int:
    """Exit code 1 if there is a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties.agreement", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=_REQUESTS, help="for each policy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="compare with a running proxy too")
    options = parser.parse_args()
    agreement = Agreement()
    with tempfile.TemporaryDirectory(prefix="gateway-agreement-") as folder, ExitStack() as stack:
        live = stack.enter_context(Live(Path(folder), PEOPLE)) if options.live else None
        for seed in range(options.seed, options.seed + -(-options.pairs // options.requests)):
            compare(seed, options.requests, agreement, live)
    for difference in agreement.differences:
        print(difference)
    asked = ", ".join(f"{face} {count:,}" for face, count in agreement.asked.items())
    print(f"{agreement.pairs:,} pairs, {agreement.allowed:,} of them allowed; asked: {asked}")
    print(f"{len(agreement.differences)} differences")
    return 1 if agreement.differences else 0


if __name__ == "__main__":
    sys.exit(main())
