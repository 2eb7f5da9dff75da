"""Whether the time of a refused login reveals that the account exists."""

import time
from collections.abc import Callable

from bench.accounts.deployment import Deployment

LIMIT = 0.10  # of the slower median


def measure(deployment: Deployment, *, trials: int, rounds: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds of refused logins, for as many known as unknown users, alternating."""
    tell(f"timing of {trials} refused logins each")
    found: dict[str, list[float]] = {"known": [], "unknown": []}
    with deployment.gateway(deployment.sqlite("timing"), rounds=rounds) as gateway, gateway.caller() as caller:
        known = gateway.newcomer(caller).email
        for number in range(2 * trials):
            # known unknown unknown known …: drifts of the machine affect both alike
            kind = "known" if number % 4 in (0, 3) else "unknown"
            email = known if kind == "known" else f"nobody-{number}@example.com"
            begun = time.perf_counter()
            status = caller.ask("POST", "/auth/login", {"email": email, "password": f"wrong {number}"}).status
            found[kind].append((time.perf_counter() - begun) * 1000)
            assert status == 401, status
    return found
