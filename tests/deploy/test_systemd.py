"""The systemd unit uses the gateway's own commands and signals to start, reload and stop it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.settings.model import ServerSettings
from tests.cli.running import ROOT
from tests.cli.test_image import assert_runs

UNIT = ROOT / "deploy/systemd/gateway.service"
PROGRAM = "/opt/gateway/bin/gateway"


def settings() -> dict[str, str]:
    """The keys of the unit; the last value of repeated keys."""
    lines = (line.partition("=") for line in UNIT.read_text().splitlines() if line and line[0] not in "#[;")
    return {key: value for key, _, value in lines}


@pytest.mark.parametrize("key", ["ExecStart", "ExecStartPre"])
def test_it_runs_a_command_there_is(key: str) -> None:
    program, *arguments = settings()[key].split()
    assert program == PROGRAM
    assert_runs(arguments)


def test_it_reloads_stops_and_gives_up_as_the_gateway_does() -> None:
    unit = settings()
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["KillMode"] == "mixed", "several workers are stopped by the process that supervises them"
    assert unit["RestartPreventExitStatus"] == "2"
    assert int(unit["TimeoutStopSec"]) > ServerSettings().drain
    assert int(unit["LimitNOFILE"]) > ServerSettings().max_connections * 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_it_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, timeout=60
    )
    exposure = float(judged.stdout.rpartition("level for gateway.service: ")[2].split()[0])
    assert exposure < 2.0, judged.stdout
