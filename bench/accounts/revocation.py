"""The delay of a revocation on another replica: from its response (or the command's exit) to the first refusal."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from bench.accounts.deployment import PASSWORD, Account, Caller, Deployment, Gateway
from bench.processes import BenchError

LIMIT_MS = 100.0
_PATIENCE = 5.0  # seconds

Revoke = Callable[[Account], None]


class Revocation(NamedTuple):
    """A kind of revocation: a path that is served before and refused afterwards, the action, and the credential."""

    path: str
    revoke: Revoke
    presented: Callable[[Account], str] = lambda account: account.token


def measure(deployment: Deployment, *, trials: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds by kind and trial, over PostgreSQL and Valkey, changed on one replica and observed on another."""
    database, redis = deployment.postgres(), deployment.valkey()
    with ExitStack() as stack:
        here, there = (stack.enter_context(deployment.gateway(database, redis=redis)) for _ in range(2))
        caller, watcher = stack.enter_context(here.caller()), stack.enter_context(there.caller())
        found: dict[str, list[float]] = {}
        admin = here.newcomer(caller)
        here.command("users", "set-roles", admin.email, "admin", "user")
        for name, revocation in _revocations(here, caller, admin).items():
            tell(f"revocation: {name}")
            found[name] = []
            for _ in range(trials):
                account = here.newcomer(caller)
                if revocation.path != "/api/x":  # a role can only be removed after it was given
                    roles = {"roles": ["auditor", "user"]}
                    caller.must("PATCH", f"/auth/users/{account.id}", roles, admin.token)
                found[name].append(_trial(watcher, account, revocation))
        return found


def _trial(watcher: Caller, account: Account, revocation: Revocation) -> float:
    begun, presented = time.perf_counter(), revocation.presented(account)
    while watcher.ask("GET", revocation.path, token=presented).status != 200:
        if time.perf_counter() - begun > _PATIENCE:
            raise BenchError("the other replica refuses a new credential")
    revocation.revoke(account)
    revoked = time.perf_counter()
    while watcher.ask("GET", revocation.path, token=presented).status == 200:
        if time.perf_counter() - revoked > _PATIENCE:
            raise BenchError("a revocation was not seen")
    return (time.perf_counter() - revoked) * 1000


class _Administrator(NamedTuple):
    """Changes the accounts of others over HTTP."""

    caller: Caller
    account: Account

    def doing(self, method: str, path: str, body: object = None) -> Revoke:
        def revoke(account: Account) -> None:
            self.caller.must(method, f"/auth/users/{account.id}{path}", body, self.account.token)

        return revoke


def _revocations(here: Gateway, caller: Caller, admin: Account) -> dict[str, Revocation]:
    """All kinds of revocation by name."""
    administrator = _Administrator(caller, admin)

    def command(account: Account) -> None:
        here.command("users", "disable", account.email)

    return {
        **_by_the_administrator(administrator),
        "command: disable": Revocation("/api/x", command),
        **_by_oneself(caller),
        **_of_keys(caller, administrator),
    }


def _by_the_administrator(admin: _Administrator) -> dict[str, Revocation]:
    return {
        "API: disable": Revocation("/api/x", admin.doing("PATCH", "", {"is_active": False})),
        "API: roles": Revocation("/api/audit/x", admin.doing("PATCH", "", {"roles": ["user"]})),
        "API: revoke": Revocation("/api/x", admin.doing("POST", "/revoke")),
        "API: delete": Revocation("/api/x", admin.doing("DELETE", "")),
    }


def _by_oneself(caller: Caller) -> dict[str, Revocation]:
    def logout(account: Account) -> None:
        caller.must("POST", "/auth/logout", token=account.token)

    def logout_all(account: Account) -> None:
        caller.must("POST", "/auth/logout-all", token=account.token)

    def password(account: Account) -> None:
        change = {"current_password": PASSWORD, "new_password": "another good password"}
        other = caller.must("POST", "/auth/login", {"email": account.email, "password": PASSWORD}).json()
        caller.must("POST", "/auth/password", change, other["access_token"])

    def elsewhere(account: Account) -> None:
        sessions = caller.must("GET", "/auth/sessions", token=account.token).json()["sessions"]
        caller.must("DELETE", f"/auth/sessions/{sessions[0]['id']}", token=account.token)

    return {
        "logout": Revocation("/api/x", logout),
        "logout-all": Revocation("/api/x", logout_all),
        "password change": Revocation("/api/x", password),
        "session removed": Revocation("/api/x", elsewhere),
    }


def _of_keys(caller: Caller, admin: _Administrator) -> dict[str, Revocation]:
    def key(account: Account) -> str:
        made: str = caller.must("POST", "/auth/api-keys", {"name": "bench"}, account.token).json()["key"]
        return made

    def delete_key(account: Account) -> None:
        (made,) = caller.must("GET", "/auth/api-keys", token=account.token).json()["api_keys"]
        caller.must("DELETE", f"/auth/api-keys/{made['id']}", token=account.token)

    disable = admin.doing("PATCH", "", {"is_active": False})
    return {
        "API key: deleted": Revocation("/api/x", delete_key, key),
        "API key: owner disabled": Revocation("/api/x", disable, key),
    }
