"""`python -m bench.accounts`: measure the targets for accounts, print them, and write them to bench/results."""

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import machine
from bench.accounts import flood, races, report, revocation, store_size, timing
from bench.accounts.deployment import Deployment
from bench.processes import BenchError

RESULTS = Path(__file__).resolve().parent.parent / "results"
PARTS = ("revocation", "races", "store_size", "flood", "timing")


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accounts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of all trials, as a functional check")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of: {' '.join(PARTS)}"
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="folder for the results")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, folder: Path, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the selected parts; returns the value for the JSON file. Calls `keep` after each part."""
    result: dict[str, Any] = {
        "format": 1,
        "machine": machine.facts(),
        "versions": machine.package_versions(),
        "commit": machine.commit(),
        "load_before": machine.load_average(),
    }
    with ExitStack() as stack:
        deployment = Deployment(folder, stack)
        for name, measure in _parts(deployment, quick=options.quick).items():
            if name in options.only:
                result[name] = measure()
                keep(result | {"load_after": machine.load_average()})
    return result | {"load_after": machine.load_average()}


def _parts(deployment: Deployment, *, quick: bool) -> dict[str, Callable[[], Any]]:
    less = 10 if quick else 1
    return {
        "revocation": lambda: revocation.measure(deployment, trials=60 // less, tell=tell),
        "races": lambda: races.measure(deployment, trials=20 // less, tell=tell),
        "store_size": lambda: store_size.measure(deployment, large=1_000_000 // less, trials=400 // less, tell=tell),
        "flood": lambda: flood.measure(
            deployment, times=1 if quick else 5, seconds=1.0 if quick else 5.0, rounds=6 if quick else 12, tell=tell
        ),
        "timing": lambda: timing.measure(deployment, trials=200 // less, rounds=4 if quick else 12, tell=tell),
    }


def tell(message: str) -> None:
    """Print progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 with --check if a target is missed; 2 if nothing could be measured."""
    options = options_of(arguments)
    partial = options.quick or set(options.only) != set(PARTS)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    stem = options.output / f"{'quick-' if partial else ''}accounts-{stamp}"
    options.output.mkdir(parents=True, exist_ok=True)

    def keep(result: dict[str, Any]) -> None:
        stem.with_suffix(".json").write_text(json.dumps(result) + "\n")
        stem.with_suffix(".md").write_text(report.markdown(result))

    try:
        with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
            result = run(options, Path(folder), keep)
    except BenchError as failure:
        tell(f"bench: {failure}")
        return 2
    print(report.markdown(result))
    tell(f"written: {stem.with_suffix('.md')}")
    return 1 if options.check and not all(each.met for each in report.verdicts(result)) else 0


if __name__ == "__main__":
    sys.exit(main())
