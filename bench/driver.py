"""Run the load generator in a separate process: wrk if installed, else bench.load."""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.load import Load
from bench.machine import first_line
from bench.processes import BenchError, pinned

SCRIPT = Path(__file__).with_name("wrk_requests.lua")
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

    def drive(self, url: str, requests: Sequence[bytes], seconds: float, *, status: int = 200) -> Load:
        """Send the requests in turn to the server of `url` for about `seconds`. Responses with another status are
        errors. Raises BenchError if the generator fails."""
        with tempfile.NamedTemporaryFile(prefix="gateway-bench-") as file, pinned(self.cpus):
            file.write(b"".join(requests))
            file.flush()
            command = self._wrk(url, file.name, seconds) if self.wrk else self._own(url, file.name, seconds, status)
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + 30, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode != 0 or not lines:
            raise BenchError(f"the load generator failed: {(done.stderr or done.stdout).strip()[-500:]}")
        load = Load(**json.loads(lines[-1]))
        if self.wrk and status >= 400:
            load.errors["status"] = load.requests - load.errors["status"]  # wrk counts every status from 400
        return load

    def _wrk(self, url: str, requests: str, seconds: float) -> list[str]:
        assert self.wrk is not None
        # wrk accepts whole seconds only.
        size = ["-t1", f"-c{self.connections}", f"-d{max(1, math.ceil(seconds))}s", "--timeout", "10s"]
        return [self.wrk, *size, "-s", str(SCRIPT), url, "--", requests]

    def _own(self, url: str, requests: str, seconds: float, status: int) -> list[str]:
        size = ["--connections", str(self.connections), "--seconds", str(seconds), "--status", str(status)]
        return [sys.executable, "-m", "bench.load", url, requests, *size]
