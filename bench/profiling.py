"""Profile one peer: `python -m bench.profiling [NAME] [--seconds 8]`.

py-spy samples Python frames, which include the C code they call. If perf is installed and permitted, its cpu-clock
shows the shares of the kernel, the interpreter, uvloop and the parser. Both run under the load of the comparison.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bench.driver import Driver
from bench.machine import split_cpus
from bench.peers import ALL
from bench.peers.caddy import find_program
from bench.peers.signer import Signer
from bench.processes import BenchError, pinned
from bench.report import table
from bench.rounds import Environment, RunningPeer, measure
from bench.upstream import start_upstream

RATE = 250
FRAME = re.compile(r"^(?P<name>.*) \((?P<place>.*):(?P<line>\d+)\)$")


def self_times(raw: Iterable[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Samples by innermost line, by innermost function and by file, from py-spy's `raw` format."""
    lines: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for entry in raw:
        stack, _, count = entry.rstrip().rpartition(" ")
        found = FRAME.match(stack.rpartition(";")[2])
        if found is None:
            continue
        name, place, line = found["name"], found["place"], found["line"]
        lines[f"{place}:{line} {name}"] += int(count)
        functions[f"{place} {name}"] += int(count)
        files[place] += int(count)
    return lines, functions, files


def shares(counted: Counter[str], title: str, most: int) -> str:
    """A table of the largest shares."""
    total = sum(counted.values()) or 1
    rows = [[name, f"{count / total:.1%}"] for name, count in counted.most_common(most)]
    return table([title, "self"], rows)


def under_load(running_peer: RunningPeer, driver: Driver, profiler: list[str], seconds: float) -> str:
    """Run the profiler during the load; returns the cost of a request."""
    with pinned(driver.cpus):
        process = subprocess.Popen(profiler, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        window = measure(running_peer, driver, seconds + 1)
        process.wait(seconds + 60)
    finally:
        if process.poll() is None:
            process.kill()
    return f"{window.cpu_us:.1f} µs CPU per request, {window.rps:,.0f} requests/s"


def python_profile(running_peer: RunningPeer, driver: Driver, seconds: float, most: int) -> None:
    """Print py-spy's samples."""
    spy = find_program("py-spy")
    if spy is None:
        raise BenchError("py-spy is not installed")
    output = running_peer.place.directory / "stacks.txt"
    where = ["-p", str(running_peer.running.process.pid), "-o", str(output)]
    how = ["--format", "raw", "--rate", str(RATE), "--duration", str(round(seconds)), "--full-filenames", "--gil"]
    print(f"under py-spy: {under_load(running_peer, driver, [spy, 'record', *where, *how], seconds)}\n")
    short = [_short(line) for line in output.read_text().splitlines()]
    lines, functions, files = self_times(short)
    for counted, title in ((files, "file"), (functions, "function"), (lines, "line")):
        print(shares(counted, title, most))


def system_profile(running_peer: RunningPeer, driver: Driver, seconds: float, most: int) -> None:
    """Print perf's samples, by shared object and by symbol."""
    perf = shutil.which("perf")
    if perf is None:
        print("perf is not installed: no shares of kernel and libraries")
        return
    output = running_peer.place.directory / "perf.data"
    pid = str(running_peer.running.process.pid)
    record = [perf, "record", "-e", "cpu-clock", "-F", "997", "-p", pid, "-o", str(output)]
    print(f"under perf: {under_load(running_peer, driver, [*record, '--', 'sleep', str(seconds)], seconds)}\n")
    for key, lines in (("dso", 10), ("dso,symbol", most)):
        done = subprocess.run(
            [perf, "report", "-i", str(output), "--sort", key, "--stdio", "--percent-limit", "0.4"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        shown = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("#")]
        print("\n".join(shown[:lines]) + "\n")


def _short(stack: str) -> str:
    return re.sub(r"\([^()]*?(?:site-packages|lib/python3\.\d+)/|\([^()]*?/(?=(?:gateway|bench)/)", "(", stack)


def main() -> int:
    """Exit code 2 if the peer cannot be profiled."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiling", description=__doc__)
    parser.add_argument("name", nargs="?", default="gateway", choices=[peer.name for peer in ALL])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--most", type=int, default=30, help="number of lines of each table")
    options = parser.parse_args()
    peer = next(peer for peer in ALL if peer.name == options.name)
    proxy_cpus, load_cpus = split_cpus()
    driver = Driver(load_cpus, 32)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        upstream = start_upstream(Path(directory), load_cpus)
        try:
            with Environment(Path(directory), proxy_cpus, upstream.port, Signer()).running_peer(peer) as running_peer:
                measure(running_peer, driver, 2)
                python_profile(running_peer, driver, options.seconds, options.most)
                system_profile(running_peer, driver, options.seconds, options.most)
        except BenchError as failure:
            print(f"{peer.name}: {failure}", file=sys.stderr)
            return 2
        finally:
            upstream.running.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
