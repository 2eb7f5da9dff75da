"""`python -m bench.modes`: the cost of a request in each mode of operation, in CPU time of all processes.

Compares the gateway alone, the gateway behind a proxy that asks it for decisions, and Envoy with the exported policy.
Rounds are interleaved, and each mode is checked first, as in `python -m bench`.
"""

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.driver import Driver
from bench.figures import Outcome, cpu_us, ratio, rps
from bench.peers.fronts import FRONTS
from bench.peers.gateway import GatewayServe
from bench.peers.signer import Signer
from bench.rounds import Comparison, Environment, Plan
from bench.traffic import VARYING
from bench.upstream import start_upstream


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures as Markdown. The first outcome is the reference."""
    lines = ["| way | what it does | µs CPU / request | × gateway alone | requests/s |", "|---|---|---|---|---|"]
    for each in outcomes:
        cost, times, pace = each.spread(cpu_us), ratio(each, outcomes[0], cpu_us), each.spread(rps)
        best = min(map(cpu_us, each.windows)) / min(map(cpu_us, outcomes[0].windows))
        lines.append(
            f"| {each.title} | {each.does} | {cost.median:.0f} ({cost.low:.0f}–{cost.high:.0f}) "
            f"| {times.median:.2f} (best windows {best:.2f}) | {pace.median:,.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Exit code 1 if a mode could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.modes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="a file for the table")
    options = parser.parse_args()
    proxy_cpus, load_cpus = machine.split_cpus()
    peers = [peer for peer in (GatewayServe(), *FRONTS) if peer.missing() is None]
    with tempfile.TemporaryDirectory(prefix="gateway-modes-") as directory:
        upstream = start_upstream(Path(directory), load_cpus)
        try:
            environment = Environment(Path(directory), proxy_cpus, upstream.port, Signer())
            comparison = Comparison(
                environment, Driver(load_cpus, 32), lambda text: print(text, file=sys.stderr, flush=True)
            )
            measured = comparison.run(peers, Plan(options.rounds, 1, 2))
            outcomes = [outcome for outcome in measured if outcome.traffic == VARYING.name]
        finally:
            upstream.running.stop()
    facts = machine.facts()
    date = datetime.datetime.now(datetime.UTC).date()
    text = f"{date}, {facts['cpu']}, {facts['cpus']} CPUs, commit {machine.commit()}\n\n{table(outcomes)}\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 1 if comparison.failed else 0


if __name__ == "__main__":
    sys.exit(main())
