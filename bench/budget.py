"""The cost of one proxied request in instructions: `python -m bench.budget [--write] [--callgrind]`.

Counts Python bytecode instructions by cost centre. The counts are the same on every machine and in every run of one
version of Python. `bench/budget.json` holds the budget, which the test suite enforces within five percent, so a more
expensive hot path requires a change of the file. `--callgrind` adds processor instructions, including C code (requires
valgrind and half a minute).
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gateway
from bench.processes import BenchError
from bench.report import table
from bench.stage import staged

BUDGET = Path(__file__).with_name("budget.json")
SLACK = 1.05
HANDFUL = 10
SOURCE = Path(gateway.__file__).parent
WARM = 100
# The first match decides. Paths are relative to the package.
CENTRES = (
    ("wire/problem.py", "face"),
    ("server/", "face"),
    ("errors.py", "face"),
    ("gate/", "gate"),
    ("policy/", "gate"),
    ("identity/", "gate"),
    ("cache.py", "gate"),
    ("wire/", "gate"),
    ("proxy/native/", "engine"),
    ("proxy/forward", "forward"),
    ("proxy/response_head", "engine"),
    ("proxy/proxy.py", "forward"),
    ("proxy/", "engine"),
    ("observability/", "observe"),
    ("samples.py", "observe"),
)
CALLGRIND = 500  # requests
COLLECTED = "takewhile_next"  # the C function of itertools.takewhile, which nothing else here uses

Costs = dict[str, dict[str, int]]


def version() -> str:
    """Bytecode differs between minor versions of Python."""
    return ".".join(platform.python_version_tuple()[:2])


def centre_of(path: str) -> str:
    inside = str(Path(path).relative_to(SOURCE))
    return next((centre for prefix, centre in CENTRES if inside.startswith(prefix)), "other")


def instructions(play: Callable[[], object]) -> Counter[str]:
    """Bytecode instructions of the package in one call, by cost centre."""
    counted: Counter[str] = Counter()
    with _monitored(counted) if sys.version_info >= (3, 12) else _traced(counted):
        play()
    return counted


@contextmanager
def _traced(counted: Counter[str]) -> Iterator[None]:
    """Count with a trace function, set for each frame."""

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
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _monitored(counted: Counter[str]) -> Iterator[None]:
    """Count with `sys.monitoring` (PEP 669). Since Python 3.12, a trace function misses instructions."""
    if sys.version_info < (3, 12):
        raise NotImplementedError
    monitoring = sys.monitoring
    centres: dict[CodeType, str | None] = {}

    def count(code: CodeType, offset: int) -> None:
        if code not in centres:
            path = code.co_filename
            centres[code] = centre_of(path) if path.startswith(str(SOURCE)) else None
        centre = centres[code]
        if centre is not None:
            counted[centre] += 1

    tool = monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "gateway's budget")
    monitoring.register_callback(tool, monitoring.events.INSTRUCTION, count)
    monitoring.set_events(tool, monitoring.events.INSTRUCTION)
    try:
        yield
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(tool)


async def measure() -> Costs:
    """Bytecode instructions by scenario and cost centre, with the total."""
    found: Costs = {}
    async with staged() as stage:
        for name, play in stage.scenarios().items():
            found[name] = _counted(play)
    with _unheard():
        async with staged("json") as stage:
            found["logged"] = _counted(stage.scenarios()["repeated"])
    async with staged(credential="token beside sessions") as stage:
        found["beside sessions"] = _counted(stage.scenarios()["repeated"])
    async with staged(credential="cookie") as stage:
        found["cookie"] = _counted(stage.scenarios()["repeated"])
        found["cookie, asgi"] = _counted(stage.scenarios()["asgi"])
    return found


@contextmanager
def _unheard() -> Iterator[None]:
    """Redirect standard output, which carries the access log, to /dev/null."""
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
    """The minimum of several calls. Some requests do extra work, such as flushing a batch of log lines."""
    for _ in range(WARM):
        play()
    costs = min((instructions(play) for _ in range(5)), key=lambda counted: counted.total())
    return {**dict(sorted(costs.items())), "total": costs.total()}


def exceeded(costs: Costs, budget: Costs) -> list[str]:
    """Describe costs that exceed the budget by more than five percent and more than HANDFUL."""
    return [
        f"{name}, {centre}: {cost} bytecode instructions, where the budget has {allowed}"
        for name, centres in costs.items()
        for centre, cost in centres.items()
        if cost > max((allowed := budget.get(name, {}).get(centre, 0)) * SLACK, allowed + HANDFUL)
    ]


def budget_of(version: str) -> Costs | None:
    """The budget for a version of Python, or None."""
    known: dict[str, Costs] = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    return known.get(version)


def write(costs: Costs) -> None:
    """Store the measured costs as the budget of this version of Python."""
    known = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    known[version()] = costs
    BUDGET.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def shown(costs: Costs, budget: Costs | None) -> str:
    """A table of the costs beside the budget."""
    centres = sorted({centre for row in costs.values() for centre in row} - {"total"})
    rows = []
    for name, row in costs.items():
        allowed = str(budget[name]["total"]) if budget and name in budget else "–"
        rows.append([name, *(str(row.get(centre, 0)) for centre in centres), str(row["total"]), allowed])
    return table(["bytecode instructions", *centres, "total", "budget"], rows)


# ---- processor instructions


async def play_for_callgrind(names: Sequence[str]) -> None:
    """Runs under valgrind, which counts only while COLLECTED is active. The requests run inside it. Valgrind writes one
    file per scenario."""
    async with staged() as stage:
        scenarios = stage.scenarios()
        for name in names:
            for _ in range(WARM):
                scenarios[name]()
        gc.disable()
        _command_valgrind("instrumentation", "on")  # Startup without instrumentation takes a tenth of the time.
        for name in names:
            play = scenarios[name]
            play()  # The first instrumented request includes the translation of its code.
            assert sum(1 for _ in takewhile(lambda _: play() is None, range(CALLGRIND))) == CALLGRIND  # noqa: B023
            _command_valgrind("dump", name)


def _command_valgrind(*command: str) -> None:
    control = subprocess.Popen(["vgdb", f"--pid={os.getpid()}", *command], stdout=subprocess.DEVNULL)
    while control.poll() is None:  # Valgrind reads commands while the program runs.
        sum(range(10_000))
    if control.returncode:
        raise BenchError(f"valgrind refused the command {command}")


def callgrind(*names: str, package: Path = SOURCE.parent) -> dict[str, int]:
    """Processor instructions of one request by scenario, including C code. Raises BenchError."""
    with tempfile.TemporaryDirectory() as folder:
        how = ["--instr-atstart=no", f"--toggle-collect={COLLECTED}", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", *how, sys.executable, "-m", "bench.budget", "--play", *names],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=package,
            env={"PYTHONHASHSEED": "0", "PYTHONPATH": str(package), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        if done.returncode:
            raise BenchError(f"callgrind failed: {done.stderr[-500:]}")
        # The last file, `out`, has the counts since the last command.
        totals = [_total(Path(folder, f"out.{number}")) for number in range(1, len(names) + 1)]
    if 0 in totals:
        raise BenchError(f"this Python has no symbol {COLLECTED} because it was stripped")
    return {name: round(total / CALLGRIND) for name, total in zip(names, totals, strict=True)}


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE)
    if found is None:
        raise BenchError(f"no total in {dump.name}")
    return int(found[1])


def main() -> int:
    """Exit code 1 if the budget is exceeded; 2 if nothing can be counted."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the measured costs as the budget")
    parser.add_argument("--callgrind", action="store_true", help="count processor instructions too: half a minute")
    parser.add_argument("--play", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        asyncio.run(play_for_callgrind(options.play))
        return 0
    if gateway.build() == "native":
        print("compiled modules have no bytecode: make interpreted, or python -m bench.native_budget")
        return 2
    costs, budget = asyncio.run(measure()), budget_of(version())
    print(shown(costs, budget))
    if options.callgrind:
        _show_callgrind()
    if options.write:
        write(costs)
        return 0
    problems = exceeded(costs, budget or {})
    print(*problems, sep="\n")
    return 1 if problems else 0


def _show_callgrind() -> None:
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: no processor instructions")
        return
    for name, count in callgrind("repeated", "fresh", "refused", "asgi").items():
        print(f"{name}: {count:,} processor instructions for each request")


if __name__ == "__main__":
    sys.exit(main())
