"""How soon a revocation is seen on the other replica: from its answer (or the command's exit) to the first refusal."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from bench.accounts.town import PASSWORD, Account, Caller, Gateway, Town
from bench.processes import BenchError

LIMIT_MS = 100.0
_PATIENCE = 5.0  # seconds

Revoke = Callable[[Account], None]


def measure(town: Town, *, trials: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds by each way, for each trial; over PostgreSQL and Valkey, changed on one replica, seen on another."""
    database, redis = town.postgres(), town.valkey()
    with ExitStack() as stack:
        here, there = (stack.enter_context(town.gateway(database, redis=redis)) for _ in range(2))
        caller, watcher = stack.enter_context(here.caller()), stack.enter_context(there.caller())
        found: dict[str, list[float]] = {}
        admin = here.newcomer(caller)
        here.command("users", "set-roles", admin.email, "admin", "user")
        for name, (path, revoke) in _ways(here, caller, admin).items():
            tell(f"revocation: {name}")
            found[name] = []
            for _ in range(trials):
                account = here.newcomer(caller)
                if path != "/api/x":  # the role that is taken away must have been given
                    roles = {"roles": ["auditor", "user"]}
                    caller.must("PATCH", f"/auth/users/{account.id}", roles, admin.token)
                found[name].append(_trial(watcher, account, path, revoke))
        return found


def _trial(watcher: Caller, account: Account, path: str, revoke: Revoke) -> float:
    begun = time.perf_counter()
    while watcher.ask("GET", path, token=account.token).status != 200:
        if time.perf_counter() - begun > _PATIENCE:
            raise BenchError("the other replica does not serve what was just given")
    revoke(account)
    revoked = time.perf_counter()
    while watcher.ask("GET", path, token=account.token).status == 200:
        if time.perf_counter() - revoked > _PATIENCE:
            raise BenchError("a revocation was not seen")
    return (time.perf_counter() - revoked) * 1000


def _ways(here: Gateway, caller: Caller, admin: Account) -> dict[str, tuple[str, Revoke]]:
    """By name: the path that is served before and refused afterwards, and what is done."""

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

    def command(account: Account) -> None:
        here.command("users", "disable", account.email)

    return {
        "API: disable": ("/api/x", api("PATCH", "", {"is_active": False})),
        "API: roles": ("/api/audit/x", api("PATCH", "", {"roles": ["user"]})),
        "API: revoke": ("/api/x", api("POST", "/revoke")),
        "API: delete": ("/api/x", api("DELETE", "")),
        "command: disable": ("/api/x", command),
        "logout": ("/api/x", own("logout")),
        "logout-all": ("/api/x", own("logout-all")),
        "password change": ("/api/x", password),
    }
