"""schemathesis tests the gateway against its own OpenAPI document.

It looks for undocumented statuses or formats, server errors, accepted invalid data, refused valid data, and operations
without authentication.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, PROJECT, Face, Gateway
from tests.support.scale import WHOLE, scaled

FOLDER = Path(__file__).parent
# It guesses passwords, and lockout must not stop it.
LENIENT = {"password": {"bcrypt_rounds": 4}, "lockout": {"failures": 100_000, "per_address_failures": 100_000}}
FEW = ["--max-examples", str(scaled(4)), "--no-shrink"]


def schemathesis(gateway: Gateway, email: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it with a fixed seed signed in with this account."""
    host, port = gateway.address
    url = f"http://{host}:{port}"
    settings = {"GATEWAY_URL": url, "GATEWAY_EMAIL": email, "GATEWAY_PASSWORD": PASSWORD}
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(FOLDER / "schemathesis.toml"), "run"]
    arguments = [f"{url}/_gateway/openapi.json", "--url", url, "--seed", "1", "--no-color", *options]
    return subprocess.run(
        [*command, *arguments],
        env=os.environ | settings | {"SCHEMATHESIS_HOOKS": "tests.api.openapi.signing_in"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=115,
    )


@pytest.mark.parametrize(
    ("face", "email", "options"),
    [
        ("serve", "admin@example.com", FEW),
        # The phase `coverage` is most of the work, and the other face runs it too.
        ("asgi", "user@example.com", ["--phases", "coverage"] if WHOLE else ["--phases", "fuzzing", *FEW]),
    ],
)
def test_schemathesis_finds_nothing(gateways: Gateways, face: Face, email: str, options: list[str]) -> None:
    gateway = gateways.gateway("described", face, accounts=LENIENT)
    done = schemathesis(gateway, email, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    there, tested = (re.search(rf"{word}: +(\d+)", done.stdout) for word in ("Operations", "Tested"))
    assert there is not None and tested is not None and int(tested[1]) == int(there[1]) > 20, done.stdout
