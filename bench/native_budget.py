"""Processor instructions of one request on the native build: `python -m bench.native_budget [--write]`.

Compiles the copy of the native tests (`make test-native`) and counts with valgrind. The counts differ by less than a
percent between runs of the same compiler, optimisation level and build of Python, so `bench/native_budget.json` has a
budget for each of them.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.budget import callgrind, version
from bench.peers.peer import ROOT
from hatch_build import OPTIMIZE, missing_tool

BUDGET = Path(__file__).with_name("native_budget.json")
SLACK = 1.05
SCENARIOS = ("fresh", "repeated", "refused", "asgi")
COPY = ROOT / "build" / "native-test"

Counts = dict[str, int]


def missing_program() -> str | None:
    """The program without which nothing can be counted, or None."""
    return next((name for name in ("valgrind", "vgdb") if shutil.which(name) is None), None)


def key() -> str:
    """The builds of Python and of the gateway, on which the counts depend."""
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC")).split()[0]
    done = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False)
    compiler_version = done.stdout.strip().partition(".")[0]
    interpreter = f"{platform.python_implementation()} {version()}{' optimised' if optimised else ''}"
    level = os.environ.get(OPTIMIZE, "2")
    return f"{interpreter} {platform.machine()}, {compiler} {compiler_version} -O{level}"


def budget_of(build: str) -> Counts | None:
    """The budget of a key, or None."""
    known: dict[str, Counts] = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    return known.get(build)


def exceeded(counts: Counts, budget: Counts) -> list[str]:
    """Describe counts that differ from the budget by more than five percent. A request that became cheaper by as much
    needs a new budget, or a later change could spend the difference unseen."""
    return [
        f"{name}: {count:,} processor instructions, where the budget has {budget[name]:,}"
        for name, count in counts.items()
        if not budget[name] / SLACK <= count <= budget[name] * SLACK
    ]


def main() -> int:
    """Exit code 1 if the counts differ from the budget; 2 if nothing can be counted."""
    parser = argparse.ArgumentParser(prog="python -m bench.native_budget", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the counts as the budget")
    options = parser.parse_args()
    if missing := missing_program() or missing_tool():
        print(f"not installed: {missing}")
        return 2
    os.environ.setdefault(OPTIMIZE, "0")
    subprocess.run([sys.executable, str(ROOT / "hatch_build.py"), "--copy", str(COPY)], check=True)
    counts = callgrind(*SCENARIOS, package=COPY)
    print(f"{key()}: {counts}")
    if options.write:
        known = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
        BUDGET.write_text(json.dumps(dict(sorted({**known, key(): counts}.items())), indent=1) + "\n")
        return 0
    budget = budget_of(key())
    problems = exceeded(counts, budget) if budget else [f"no budget for {key()}"]
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
