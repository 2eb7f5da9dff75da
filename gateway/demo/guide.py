"""What the demo tells its user: commands that work when pasted, with nothing but curl and python3."""

import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

ADMIN_EMAIL: Final = "admin@example.com"
_EXTRACT: Final = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""


class Step(NamedTuple):
    """Something to try: what it shows, and the command."""

    shows: str
    command: str


def steps(*, url: str, password: str, configuration: Path) -> list[Step]:
    """What to try, in this order. `password` is the administrator's, `url` the gateway's without a path."""
    gateway = shlex.join([sys.executable, "-m", "gateway"])
    return [
        Step(
            "Everybody may call /public. The answer is what the upstream received:",
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
            "Sign in, and keep the token:",
            f"TOKEN=$(curl -s {url}/auth/login -d username=ada@example.com -d 'password=correct horse' \\\n"
            f"  | {_EXTRACT})",
        ),
        Step(
            "Call the API. The upstream is told who calls, and the forged header never reaches it:",
            f'''curl -s '{url}/api/orders?new' -H 'X-User-Roles: admin' -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "/reports asks for the role admin, so this is 403:",
            f'''curl -si {url}/reports/2026 -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "The administrator of this demo may:",
            f"ADMIN=$(curl -s {url}/auth/login -d username={ADMIN_EMAIL} -d password={password} \\\n"
            f"  | {_EXTRACT})\n"
            f'''curl -s {url}/reports/2026 -H "Authorization: Bearer $ADMIN"''',
        ),
        Step(
            "The accounts, straight from the database:",
            f"{gateway} users list --config {shlex.quote(str(configuration))}",
        ),
    ]
