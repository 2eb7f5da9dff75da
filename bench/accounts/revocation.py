"""How soon a revocation is seen on the other replica: from its answer (or the command's exit) to the first refusal."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from bench.accounts.town import PASSWORD, Account, Caller, Gateway, Town
from bench.processes import BenchError

LIMIT_MS = 100.0
_PATIENCE = 5.0  # seconds

Revoke = Callable[[Account], None]


class Way(NamedTuple):
    """One way to revoke: the path that is served before and refused afterwards, what is done, and the credential that
    is presented."""

    path: str
    revoke: Revoke
    presented: Callable[[Account], str] = lambda account: account.token


def measure(town: Town, *, trials: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds by each way, for each trial; over PostgreSQL and Valkey, changed on one replica, seen on another."""
    database, redis = town.postgres(), town.valkey()
    with ExitStack() as stack:
        here, there = (stack.enter_context(town.gateway(database, redis=redis)) for _ in range(2))
        caller, watcher = stack.enter_context(here.caller()), stack.enter_context(there.caller())
        found: dict[str, list[float]] = {}
        admin = here.newcomer(caller)
        here.command("users", "set-roles", admin.email, "admin", "user")
        for name, way in _ways(here, caller, admin).items():
            tell(f"revocation: {name}")
            found[name] = []
            for _ in range(trials):
                account = here.newcomer(caller)
                if way.path != "/api/x":  # the role that is taken away must have been given
                    roles = {"roles": ["auditor", "user"]}
                    caller.must("PATCH", f"/auth/users/{account.id}", roles, admin.token)
                found[name].append(_trial(watcher, account, way))
        return found


def _trial(watcher: Caller, account: Account, way: Way) -> float:
    begun, presented = time.perf_counter(), way.presented(account)
    while watcher.ask("GET", way.path, token=presented).status != 200:
        if time.perf_counter() - begun > _PATIENCE:
            raise BenchError("the other replica does not serve what was just given")
    way.revoke(account)
    revoked = time.perf_counter()
    while watcher.ask("GET", way.path, token=presented).status == 200:
        if time.perf_counter() - revoked > _PATIENCE:
            raise BenchError("a revocation was not seen")
    return (time.perf_counter() - revoked) * 1000


def _ways(here: Gateway, caller: Caller, admin: Account) -> dict[str, Way]:
    """Every way, by name."""

    def api(method: str, path: str, body: object = None) -> Revoke:
        def revoke(account: Account) -> None:
            caller.must(method, f"/auth/users/{account.id}{path}", body, admin.token)

        return revoke

    def own(path: str, body: object = None) -> Revoke:
        def revoke(account: Account) -> None:
            caller.must("POST", f"/auth/{path}", body, account.token)

        return revoke

    def password(account: Account) -> None:
        change = {"current_password": PASSWORD, "new_password": "another good password"}
        other = caller.must("POST", "/auth/login", {"email": account.email, "password": PASSWORD}).json()
        caller.must("POST", "/auth/password", change, other["access_token"])

    def elsewhere(account: Account) -> None:
        sessions = caller.must("GET", "/auth/sessions", token=account.token).json()["sessions"]
        caller.must("DELETE", f"/auth/sessions/{sessions[0]['id']}", token=account.token)

    def key(account: Account) -> str:
        made: str = caller.must("POST", "/auth/api-keys", {"name": "bench"}, account.token).json()["key"]
        return made

    def delete_key(account: Account) -> None:
        (made,) = caller.must("GET", "/auth/api-keys", token=account.token).json()["api_keys"]
        caller.must("DELETE", f"/auth/api-keys/{made['id']}", token=account.token)

    def command(account: Account) -> None:
        here.command("users", "disable", account.email)

    return {
        "API: disable": Way("/api/x", api("PATCH", "", {"is_active": False})),
        "API: roles": Way("/api/audit/x", api("PATCH", "", {"roles": ["user"]})),
        "API: revoke": Way("/api/x", api("POST", "/revoke")),
        "API: delete": Way("/api/x", api("DELETE", "")),
        "command: disable": Way("/api/x", command),
        "logout": Way("/api/x", own("logout")),
        "logout-all": Way("/api/x", own("logout-all")),
        "password change": Way("/api/x", password),
        "session removed": Way("/api/x", elsewhere),
        "API key: deleted": Way("/api/x", delete_key, key),
        "API key: owner disabled": Way("/api/x", api("PATCH", "", {"is_active": False}), key),
    }
