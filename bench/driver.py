"""Run the load generator in a separate process: wrk if installed, else bench.load."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.load import Load
from bench.machine import first_line
from bench.processes import BenchError, pinned

REPORT = Path(__file__).with_name("wrk_report.lua")
ROOT = Path(__file__).resolve().parent.parent


class Driver:
    """A load generator pinned to `cpus`."""

    def __init__(self, cpus: frozenset[int] | None, connections: int, *, use_wrk: bool = True) -> None:
        self.cpus = cpus
        self.connections = connections
        self.wrk = shutil.which("wrk") if use_wrk else None

    @property
    def description(self) -> str:
        if self.wrk is None:
            return "bench.load (asyncio)"
        done = subprocess.run([self.wrk, "-v"], capture_output=True, text=True, check=False)
        return done.stdout.partition(" [")[0].strip() or first_line([self.wrk, "-v"])

    def drive(self, url: str, headers: Sequence[tuple[str, str]], seconds: float) -> Load:
        """Load `url` for about `seconds`. Raises BenchError if the generator fails."""
        command = self._wrk(url, headers, seconds) if self.wrk else self._own(url, headers, seconds)
        with pinned(self.cpus):
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + 30, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode != 0 or not lines:
            raise BenchError(f"the load generator failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return Load(**json.loads(lines[-1]))

    def _wrk(self, url: str, headers: Sequence[tuple[str, str]], seconds: float) -> list[str]:
        assert self.wrk is not None
        fields = [part for name, value in headers for part in ("-H", f"{name}: {value}")]
        # wrk accepts whole seconds only.
        size = ["-t1", f"-c{self.connections}", f"-d{max(1, math.ceil(seconds))}s", "--timeout", "10s"]
        return [self.wrk, *size, *fields, "-s", str(REPORT), url]

    def _own(self, url: str, headers: Sequence[tuple[str, str]], seconds: float) -> list[str]:
        fields = [part for name, value in headers for part in ("--header", f"{name}: {value}")]
        size = ["--connections", str(self.connections), "--seconds", str(seconds)]
        return [sys.executable, "-m", "bench.load", url, *size, *fields]
