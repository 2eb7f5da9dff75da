"""What one proxied request costs, counted and not timed: `python -m bench.budget [--write] [--callgrind]`.

Bytecode instructions by cost centre, with Python's own trace function: the same number on every machine and in every
run of one version of Python. `bench/budget.json` holds what each may be; the test suite holds them to it within five
percent, so that whoever makes the hot path dearer says so by changing a number. `--callgrind` adds the instructions of
the processor, C code included (needs valgrind).
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gateway
from bench.processes import BenchError
from bench.report import table
from bench.stage import staged

BUDGET = Path(__file__).with_name("budget.json")
SLACK = 1.05
HANDFUL = 10
SOURCE = Path(gateway.__file__).parent
WARM = 50
# The first that fits; paths within the package.
CENTRES = (
    ("server/", "face"),
    ("runtime.py", "face"),
    ("responses.py", "face"),
    ("errors.py", "face"),
    ("gate.py", "gate"),
    ("admission.py", "gate"),
    ("policy/", "gate"),
    ("identity/", "gate"),
    ("limits/", "gate"),
    ("wire/", "gate"),
    ("proxy/native/", "engine"),
    ("proxy/forward", "forward"),
    ("proxy/upstream_request", "forward"),
    ("proxy/response_head", "engine"),
    ("proxy/proxy.py", "forward"),
    ("proxy/", "engine"),
    ("operations/", "observe"),
    ("counting.py", "observe"),
)
CALLGRIND = 1000  # requests; a run without any is taken off

Costs = dict[str, dict[str, int]]


def version() -> str:
    """Bytecode is another in every minor version of Python."""
    return ".".join(platform.python_version_tuple()[:2])


def centre_of(path: str) -> str:
    """The cost centre of a file of the package."""
    inside = str(Path(path).relative_to(SOURCE))
    return next((centre for prefix, centre in CENTRES if inside.startswith(prefix)), "other")


def instructions(play: Callable[[], None]) -> Counter[str]:
    """Bytecode instructions of one call by cost centre, those of the package only."""
    counted: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(str(SOURCE)):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        centre = centre_of(path)

        def count(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                counted[centre] += 1
            return count

        return count

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        play()
    finally:
        sys.settrace(before)
    return counted


async def measure() -> Costs:
    """Bytecode instructions by scenario and centre, with the total."""
    found: Costs = {}
    async with staged() as stage:
        for name, play in stage.scenarios().items():
            found[name] = _counted(play)
    with _unheard():
        async with staged("json") as stage:
            found["logged"] = _counted(stage.scenarios()["repeated"])
    return found


@contextmanager
def _unheard() -> Iterator[None]:
    """Standard output goes nowhere: that is where access logs are written."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _counted(play: Callable[[], None]) -> dict[str, int]:
    """The least of several: now and then a request has more to do, as when a batch of log lines leaves."""
    for _ in range(WARM):
        play()
    costs = min((instructions(play) for _ in range(5)), key=lambda counted: counted.total())
    return {**dict(sorted(costs.items())), "total": costs.total()}


def exceeded(costs: Costs, budget: Costs) -> list[str]:
    """Sentences about what costs more than it may: five percent more, and more than a handful."""
    return [
        f"{name}, {centre}: {cost} bytecode instructions, where the budget has {allowed}"
        for name, centres in costs.items()
        for centre, cost in centres.items()
        if cost > max((allowed := budget.get(name, {}).get(centre, 0)) * SLACK, allowed + HANDFUL)
    ]


def budget_of(version: str) -> Costs | None:
    """The budget for this version of Python; None where there is none."""
    known: dict[str, Costs] = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    return known.get(version)


def write(costs: Costs) -> None:
    """Make what was measured the budget of this version of Python."""
    known = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    known[version()] = costs
    BUDGET.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def shown(costs: Costs, budget: Costs | None) -> str:
    """A table, beside the budget."""
    centres = sorted({centre for row in costs.values() for centre in row} - {"total"})
    rows = []
    for name, row in costs.items():
        allowed = str(budget[name]["total"]) if budget and name in budget else "–"
        rows.append([name, *(str(row.get(centre, 0)) for centre in centres), str(row["total"]), allowed])
    return table(["bytecode instructions", *centres, "total", "budget"], rows)


# ---- instructions of the processor


async def play_for_callgrind(name: str, times: int) -> None:
    """What runs under valgrind: the same with and without the requests, so that the difference is theirs."""
    async with staged() as stage:
        play = stage.scenarios()[name]
        gc.disable()
        for _ in range(WARM + times):
            play()


def callgrind(name: str) -> float:
    """Instructions of the processor for one request, by two runs that differ in nothing else."""
    few, many = (_instructions_of(name, times) for times in (0, CALLGRIND))
    return (many - few) / CALLGRIND


def _instructions_of(name: str, times: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, "-m"]
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(SOURCE.parent), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [*command, "bench.budget", "--play", name, "--times", str(times)],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
            check=False,
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise BenchError(f"callgrind failed: {done.stderr[-500:]}")
    return int(found[1])


def main() -> int:
    """Exit code 1 where the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make what is measured the budget")
    parser.add_argument("--callgrind", action="store_true", help="instructions of the processor as well")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        asyncio.run(play_for_callgrind(options.play, options.times))
        return 0
    costs, budget = asyncio.run(measure()), budget_of(version())
    print(shown(costs, budget))
    if options.callgrind:
        _show_callgrind(costs)
    if options.write:
        write(costs)
        return 0
    problems = exceeded(costs, budget or {})
    print(*problems, sep="\n")
    return 1 if problems else 0


def _show_callgrind(costs: Mapping[str, object]) -> None:
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no instructions of the processor")
        return
    for name in ("repeated", "fresh"):
        print(f"{name}: {callgrind(name):,.0f} instructions of the processor for each request")


if __name__ == "__main__":
    sys.exit(main())
