"""A gateway without requests leaves the CPU to others."""

import time
from pathlib import Path

import psutil

from bench.processes import free_port
from tests.support.processes import Gateway
from tests.support.small import small

_SECONDS = 1.5
_WAKES = 30  # a second: four ticks and the steps of one probe of the database are fourteen


def test_an_idle_gateway_wakes_for_its_ticks_and_for_the_probe_of_its_database_only(tmp_path: Path) -> None:
    gateway = Gateway("serve", small(tmp_path, {"web": f"http://127.0.0.1:{free_port()}"}), tmp_path).start()
    try:
        assert gateway.process is not None
        process = psutil.Process(gateway.process.pid)
        began, wakes = time.monotonic(), process.num_ctx_switches().voluntary
        time.sleep(_SECONDS)
        wakes = process.num_ctx_switches().voluntary - wakes
        assert wakes < _WAKES * (time.monotonic() - began)
    finally:
        gateway.kill()
