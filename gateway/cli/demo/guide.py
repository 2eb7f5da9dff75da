"""The instructions of the demo: commands to paste that need only curl and python3."""

import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

ADMIN_EMAIL: Final = "admin@example.com"
_EXTRACT: Final = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""


class Step(NamedTuple):
    """A command to try, and a description of its result."""

    shows: str
    command: str


def steps(*, url: str, password: str, configuration: Path) -> list[Step]:
    """The commands in order. `password` is the administrator's, `url` the gateway's without a path."""
    gateway = shlex.join([sys.executable, "-m", "gateway"])
    return [
        Step(
            "Everyone can call /public. The response shows the request that the upstream received:",
            f"curl -s {url}/public/hello",
        ),
        Step(
            "/api is for signed-in users, so this is 401:",
            f"curl -si {url}/api/orders",
        ),
        Step(
            "Register:",
            f"curl -s {url}/auth/register -H 'Content-Type: application/json' \\\n"
            """  -d '{"email": "ada@example.com", "password": "correct horse"}'""",
        ),
        Step(
            "Sign in and store the token:",
            f"TOKEN=$(curl -s {url}/auth/login -d username=ada@example.com -d 'password=correct horse' \\\n"
            f"  | {_EXTRACT})",
        ),
        Step(
            "Call the API. The upstream receives your identity, and the forged header never reaches it:",
            f'''curl -s '{url}/api/orders?new' -H 'X-User-Roles: admin' -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "/reports requires the role admin, so this is 403:",
            f'''curl -si {url}/reports/2026 -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "The administrator of this demo can:",
            f"ADMIN=$(curl -s {url}/auth/login -d username={ADMIN_EMAIL} -d password={password} \\\n"
            f"  | {_EXTRACT})\n"
            f'''curl -s {url}/reports/2026 -H "Authorization: Bearer $ADMIN"''',
        ),
        Step(
            "The accounts in the database:",
            f"{gateway} users list --config {shlex.quote(str(configuration))}",
        ),
    ]
