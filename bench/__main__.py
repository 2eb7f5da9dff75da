"""`python -m bench`: run the comparison, print it, and write it to bench/results."""

import argparse
import datetime
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench import bulk, footprint, latency, machine, plot, report, scale, websocket
from bench.driver import Driver
from bench.figures import outcome_from_json
from bench.peers import ALL
from bench.peers.gateway import Native, compile_native
from bench.peers.peer import Peer
from bench.peers.signer import Signer
from bench.processes import BenchError, pinned
from bench.rounds import Comparison, Environment, Plan
from bench.targets import further_verdicts, verdicts
from bench.upstream import start_upstream

RESULTS = Path(__file__).with_name("results")
# Many short windows hit more quiet moments of a shared machine than few long ones.
FULL = Plan(rounds=15, seconds=1, warm_up=2)
QUICK = Plan(rounds=3, seconds=1, warm_up=1)
BULK_BYTES = 200_000_000
# Every figure of the native build that has a target, and the interpreted build beside it.
HEADLINE = Plan(rounds=9, seconds=1, warm_up=1)
HEADLINE_PEERS = (
    "gateway-native",
    "gateway",
    "gateway-native-log",
    "gateway-native-10000-routes",
    "gateway-native-asgi",
    "envoy-jwt",
    "envoy-jwt-log",
    "nginx",
    "uvicorn-hello",
)
WEBSOCKET_PEERS = ("gateway-native", "gateway", "gateway-asgi", "envoy-jwt", "envoy")
BULK_PEERS = ("gateway-native", "gateway", "gateway-asgi", "envoy-jwt", "envoy", "nginx", "caddy")
FOOTPRINT_PEERS = (
    "gateway-native",
    "gateway",
    "gateway-native-10000-routes",
    "gateway-asgi",
    "uvicorn-hello",
    "envoy-jwt",
    "nginx",
    "caddy",
)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [peer.name for peer in ALL]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="main peers, three rounds: under two minutes")
    parser.add_argument("--headline", action="store_true", help="the figures with targets: under eight minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of: {' '.join(names)}")
    parser.add_argument("--rounds", type=int, help="number of measurements of each peer")
    parser.add_argument("--seconds", type=float, help="length of one measurement (whole seconds with wrk)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--no-wrk", action="store_true", help="use bench.load instead of wrk")
    parser.add_argument("--no-bulk", action="store_true", help="leave out large bodies")
    parser.add_argument("--no-websocket", action="store_true", help="leave out WebSockets and event streams")
    parser.add_argument("--no-latency", action="store_true", help="leave out latency at a fixed rate")
    parser.add_argument("--no-scale", action="store_true", help="leave out growth of routes, users, connections, …")
    parser.add_argument("--no-footprint", action="store_true", help="leave out start-up and idle figures")
    parser.add_argument("--no-requests", action="store_true", help="leave out the comparison of requests")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed or a peer fails")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="folder for the results")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """The peers to run, and the reasons why others cannot run."""
    peers = [peer for peer in ALL if not options.only or peer.name in options.only]
    if options.quick and not options.only:
        peers = [peer for peer in peers if peer.quick]
    elif options.headline and not options.only:
        peers = [peer for peer in peers if peer.name in HEADLINE_PEERS]
    missing = {peer.name: f"not installed: {reason}" for peer in peers if (reason := peer.missing())}
    return [peer for peer in peers if peer.name not in missing], missing


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run the selected measurements; returns the value for the JSON file."""
    peers, left_out = chosen(options)
    if any(isinstance(peer, Native) for peer in peers):
        tell("native build: compiles for some minutes, unless build/native has the same source")
        compile_native()
    plan = QUICK if options.quick else HEADLINE if options.headline else FULL
    plan = Plan(options.rounds or plan.rounds, options.seconds or plan.seconds, plan.warm_up)
    proxy_cpus, load_cpus = machine.split_cpus()
    driver = Driver(load_cpus, options.connections, use_wrk=not options.no_wrk)
    begun = {"machine": machine.facts(), "versions": machine.package_versions(), "commit": machine.commit()}
    upstream = start_upstream(directory, load_cpus)
    try:
        environment = Environment(directory, proxy_cpus, upstream.port, Signer())
        comparison = Comparison(environment, driver, tell)
        outcomes = [] if options.no_requests else comparison.run(peers, plan)
        standing = {} if options.no_footprint else _footprint(environment, peers, quick=options.quick)
        delays = (
            {} if options.no_latency or options.quick else _latency(environment, peers, load_cpus, options.headline)
        )
    finally:
        upstream.running.stop()
    return {
        "format": 1,
        **begun,
        "options": {
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "connections": options.connections,
            "driver": driver.description,
            "upstream": upstream.description,
            "pinned": proxy_cpus is not None,
        },
        "peers": [outcome.as_json() for outcome in outcomes],
        "footprint": standing,
        "latency": delays,
        **_over_ours(directory, peers, options),
        "scale": {} if options.no_scale or options.quick or options.headline else _scale(),
        "left_out": {**left_out, **comparison.failed},
    }


def _footprint(environment: Environment, peers: Sequence[Peer], *, quick: bool) -> dict[str, float]:
    tell("start-up and idle")
    standing = [peer for peer in peers if peer.name in FOOTPRINT_PEERS]
    patience = footprint.Patience(times=1, idle=3.0) if quick else footprint.Patience()
    return footprint.measure(environment, standing, patience=patience, tell=tell)


def _latency(
    environment: Environment, peers: Sequence[Peer], cpus: frozenset[int] | None, headline: bool
) -> latency.Result:
    tell("latency at a fixed rate")
    moderate = [peer for peer in peers if peer.name in latency.PEERS]
    with pinned(cpus):
        return latency.measure(
            environment, moderate, rates=(2000,) if headline else (500, 2000), rounds=5, seconds=3.0, tell=tell
        )


def _scale() -> scale.Result:
    tell("cost of a request by size of its surroundings")
    return scale.in_memory() | scale.with_processes()


def _over_ours(directory: Path, peers: Sequence[Peer], options: argparse.Namespace) -> dict[str, object]:
    """Measurements that need bench.upstream, which counts bodies, echoes messages and sends event streams."""
    proxy_cpus, load_cpus = machine.split_cpus()
    upstream = start_upstream(directory, load_cpus, ours=True)
    try:
        environment = Environment(directory, proxy_cpus, upstream.port, Signer())
        return {
            "websocket": {} if options.no_websocket else _websocket(environment, peers, load_cpus, quick=options.quick),
            "bulk": {}
            if options.no_bulk
            else _bulk(environment, peers, load_cpus, 1 if options.quick else 9 if options.headline else 25),
        }
    finally:
        upstream.running.stop()


def _websocket(
    environment: Environment, peers: Sequence[Peer], cpus: frozenset[int] | None, *, quick: bool
) -> dict[str, object]:
    tell("WebSockets and event streams")
    lasting = [peer for peer in peers if peer.name in WEBSOCKET_PEERS]
    rounds = 3 if quick else 9
    return websocket.measure(environment, lasting, rounds=rounds, seconds=1.0, tell=tell, cpus=cpus)


def _bulk(
    environment: Environment, peers: Sequence[Peer], cpus: frozenset[int] | None, rounds: int
) -> dict[str, object]:
    tell("large bodies")
    moved = [peer for peer in peers if peer.name in BULK_PEERS]
    return bulk.measure_pinned(environment, moved, size=BULK_BYTES, rounds=rounds, tell=tell, cpus=cpus)


def write(result: dict[str, Any], folder: Path, *, quick: bool) -> list[Path]:
    """Write the result as JSON, Markdown and pictures; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    stem = folder / f"{'quick-' if quick else ''}{stamp}"
    files = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    files[0].write_text(json.dumps(result, indent=1) + "\n")
    files[1].write_text(report.markdown(result))
    if result["peers"] and plot.available():
        files.append(stem.with_suffix(".svg"))
        plot.plot(result, files[-1])
        for part, draw in (("latency", plot.plot_latency), ("scale", plot.plot_growth)):
            if result.get(part):
                files.append(stem.with_name(f"{stem.name}-{part}.svg"))
                draw(result[part], files[-1])
    elif result["peers"]:
        tell("no picture: matplotlib is not installed")
    return files


def tell(message: str) -> None:
    """Print progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 with --check if a target is missed; 2 if nothing could be measured."""
    options = options_of(arguments)
    # Turns SIGTERM into an exception, so that the servers are stopped too.
    signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
            result = run(options, Path(directory))
    except BenchError as failure:
        tell(f"bench: {failure}")
        return 2
    print(report.markdown(result))
    for path in write(result, options.output, quick=options.quick or options.headline or bool(options.only)):
        tell(f"written: {path}")
    outcomes = {outcome.key: outcome for outcome in map(outcome_from_json, result["peers"])}
    judged = [*verdicts(outcomes, result["footprint"]), *further_verdicts(result)]
    missed = [verdict for verdict in judged if not verdict.met]
    return 1 if options.check and (missed or result["left_out"]) else 0


if __name__ == "__main__":
    sys.exit(main())
