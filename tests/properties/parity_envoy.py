"""Compare the decisions of the gateway and of Envoy with its exported configuration:
`python -m tests.properties.parity_envoy`.

Policies and requests are random. Each request is sent to both, which must refuse it alike or send the same request to
the same upstream. Prints every difference; the exit code is 1 if there is one.
"""

import argparse
import json
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import Refusal
from gateway.wire.fields import fold
from gateway.wire.paths import canonical_path
from tests.properties.parity import IDENTITY, Asked, PolicyGenerator
from tests.properties.parity_lab import ParityLab

CALLER: Final = "127.0.0.9"  # not a trusted proxy, unlike Envoy at 127.0.0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a request: a refusal with status and code, or the request received by the upstream."""

    status: int
    code: str = ""
    upstream: str = ""
    line: str = ""
    seen: tuple[tuple[str, ...], ...] = ()

    def like(self, other: "Outcome", *, native: bool) -> bool:
        """Whether two outcomes are equivalent. Refusals by Envoy itself have no code."""
        if self.upstream or other.upstream:
            if not native:
                return self == other
            mine, its = (_canonical(each.line) for each in (self, other))
            return (self.upstream, mine, self.seen[:1], self.seen[2:]) == (
                other.upstream, its, other.seen[:1], other.seen[2:],
            )  # fmt: skip
        if self.status != other.status:
            return False
        return native or not other.code or self.code == other.code


def _canonical(line: str) -> tuple[str, bytes, str]:
    method, target, _ = line.split(" ")
    path, _, query = target.partition("?")
    try:
        return method, canonical_path(path.encode("latin-1"), relaxed=False), query
    except Refusal:
        return method, path.encode("latin-1"), query


def outcome(port: int, data: bytes) -> Outcome:
    """Send a request and return its outcome."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(CALLER, 0)) as link:
        link.sendall(data)
        received = _answer(link, has_body=not data.startswith(b"HEAD "))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    echoed = next((field.partition(":")[2] for field in fields if field.lower().startswith("x-echo:")), None)
    number = int(status.split(" ")[1])
    if echoed is not None:
        echo = json.loads(echoed)
        return Outcome(number, "", echo["upstream"], echo["line"], tuple(_seen(echo["fields"], name) for name in _SEEN))
    try:
        return Outcome(number, json.loads(body).get("code", ""))
    except ValueError:
        return Outcome(number)


def _answer(link: socket.socket, *, has_body: bool) -> bytes:
    """Read one response. Envoy delays closing by a second, so this does not read to the end of the connection."""
    received = b""
    while piece := link.recv(65536):
        received += piece
        head, blank, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if blank and (not has_body or (length is not None and len(body) >= int(length[1]))):
            break
    return received


_SEEN: Final = (
    *IDENTITY, "Authorization", "X-Forwarded-For", "X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Prefix",
    "X-Forwarded", "Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP", "X-Original-URI", "X-Rewrite-URL",
    "Proxy", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override",
    "Script-Name", "Path-Info", "X-Script-Name", "Daphne-Root-Path",
)  # fmt: skip


def _seen(fields: list[str], name: str) -> tuple[str, ...]:
    """The values of a field for an upstream that folds names. Empty values do not count."""
    lowered = name.lower()
    pairs = (field.partition(":") for field in fields)
    folded = ((fold(key.encode("latin-1")).decode(), value.strip()) for key, _, value in pairs)
    found = tuple(value for key, value in folded if key == lowered and value)
    # Envoy joins repeated lines (RFC 9110, section 5.3).
    found = (",".join(found),) if found and lowered == "authorization" else found
    # A request through the gateway and Envoy has one more hop. The client comes first.
    return tuple(value.partition(",")[0] for value in found) if lowered == "x-forwarded-for" else found


# ---- the comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """A request with different outcomes."""

    seed: int
    asked: Asked
    gateway: Outcome
    envoy: Outcome


@dataclass(slots=True)
class Tally:
    """Counts of compared requests by outcome."""

    requests: int = 0
    passed: int = 0
    refused: int = 0


def compare(lab: ParityLab, seed: int, count: int, *, native: bool, tally: Tally) -> Iterator[Difference]:
    """Compare `count` requests for one policy."""
    generator = PolicyGenerator(seed, native=native)
    routes = generator.routes(12)
    with lab.pair(routes, native=native) as pair:
        for _ in range(count):
            asked = generator.asked(routes)
            data = asked.as_bytes(pair.tokens)
            ours, its = outcome(pair.gateway, data), outcome(pair.envoy, data)
            tally.requests += 1
            tally.passed += bool(ours.upstream)
            tally.refused += not ours.upstream
            if not ours.like(its, native=native):
                yield Difference(seed, asked, ours, its)


def main() -> int:
    """Exit code 1 if there is a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties.parity_envoy", description=__doc__)
    parser.add_argument("--policies", type=int, default=12)
    parser.add_argument("--requests", type=int, default=200, help="for each policy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory(prefix="gateway-parity-") as directory:
        lab = ParityLab(Path(directory))
        for native in (False, True):
            tally = Tally()
            for seed in range(options.seed, options.seed + options.policies):
                for difference in compare(lab, seed, options.requests, native=native, tally=tally):
                    found += 1
                    print(difference)
            way = "--native" if native else "ext_authz"
            print(f"{way}: {options.policies} policies, {tally.requests} requests, "
                  f"{tally.passed} passed and {tally.refused} refused by the gateway")  # fmt: skip
        lab.close()
    print(f"{found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
