"""Concurrent requests of which exactly one must succeed, over two replicas."""

import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from bench.accounts.deployment import PASSWORD, Account, Caller, Deployment, Gateway

REGISTRATIONS = 50
REFRESHES = 20


def measure(deployment: Deployment, *, trials: int, tell: Callable[[str], None]) -> dict[str, dict[str, int]]:
    """The number of correct outcomes of each race: one account, one rotation."""
    tell("races")
    database, redis = deployment.postgres(), deployment.valkey()
    with deployment.gateway(database, redis=redis) as one, deployment.gateway(database, redis=redis) as other:
        both = (one, other)
        registered = [_registrations(both) for _ in range(trials)]
        refreshed = [_refreshes(both) for _ in range(trials)]
    return {
        f"{REGISTRATIONS} registrations make one account": {"trials": trials, "as it must be": sum(registered)},
        f"{REFRESHES} refreshes make one rotation": {"trials": trials, "as it must be": sum(refreshed)},
    }


def _registrations(both: tuple[Gateway, ...]) -> bool:
    body = {"email": f"{secrets.token_hex(8)}@example.com", "password": PASSWORD}
    answers = _at_once(both, REGISTRATIONS, lambda caller: caller.ask("POST", "/auth/register", body).status)
    return Counter(answers) == {201: 1, 400: REGISTRATIONS - 1}


def _refreshes(both: tuple[Gateway, ...]) -> bool:
    with both[0].caller() as caller:
        account: Account = both[0].newcomer(caller)
    body = {"refresh_token": account.refresh}

    def refresh(caller: Caller) -> str:
        answer = caller.ask("POST", "/auth/refresh", body)
        return str(answer.json().get("refresh_token", answer.status))

    successors = set(_at_once(both, REFRESHES, refresh))
    return len(successors) == 1 and not successors & {"401", "503", account.refresh}


def _at_once(both: tuple[Gateway, ...], times: int, work: Callable[[Caller], object]) -> list[object]:
    """Run `work` concurrently, each time on a new connection, alternating between the replicas."""
    ready = Barrier(times)

    def one(number: int) -> object:
        with both[number % len(both)].caller() as caller:
            ready.wait(30)
            return work(caller)

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(one, range(times)))
