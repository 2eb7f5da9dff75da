"""The cost of a login and of a first lookup with a million users in the store, relative to a thousand."""

import asyncio
import hashlib
import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from random import Random

import asyncpg
import bcrypt
import jwt

from bench.accounts.deployment import PASSWORD, SECRET, Caller, Deployment, Gateway, run_command

LIMIT = 1.2
SMALL = 1_000

_USERS = """
INSERT INTO users (id, email, canonical, password_hash, is_active, version, created_at)
SELECT {id}, 'user' || n || '@example.com', 'user' || n || '@example.com', '{hash}', {true}, 1, 0 FROM {numbers}
"""
_ROLES = "INSERT INTO user_roles (user_id, role) SELECT id, 'user' FROM users"
_POSTGRES = {"id": "md5(n::text)::uuid::text", "true": "true", "numbers": "generate_series(1, {count}) AS t(n)"}


def measure(
    deployment: Deployment, *, large: int, trials: int, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of logins and first lookups by store and size. bcrypt runs at its lowest cost, so that the store
    dominates."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind, make in (("sqlite", deployment.sqlite), ("postgresql", lambda _: deployment.postgres())):
        with ExitStack() as stack:
            databases, callers = {size: make(f"users-{size}") for size in (SMALL, large)}, {}
            for size, database in databases.items():
                tell(f"{size:,} users in {kind}")
                run_command(deployment.configuration(database)[0], "db", "upgrade")
                fill(database, size)
            for size, database in databases.items():  # after filling both, so that no gateway idles
                gateway = stack.enter_context(deployment.gateway(database))
                callers[size] = stack.enter_context(gateway.caller())
                _warm_up(gateway, callers[size])
            tell(f"logins and first lookups in {kind}")
            found |= _compare(kind, callers, trials)
    return found


def _compare(kind: str, callers: dict[int, Caller], trials: int) -> dict[str, dict[str, list[float]]]:
    """Measure both sizes in turn, so that drifts of the machine affect both alike."""
    random = Random(7)
    found: dict[str, dict[str, list[float]]] = {
        f"{kind}: {what}": {str(size): [] for size in callers} for what in ("login", "first lookup")
    }
    chosen = {size: random.sample(range(1, size + 1), 2 * trials) for size in callers}  # each user at most once
    for _ in range(trials):
        for size, caller in callers.items():
            login = {"email": f"user{chosen[size].pop()}@example.com", "password": PASSWORD}
            begun = time.perf_counter()
            caller.must("POST", "/auth/login", login)
            found[f"{kind}: login"][str(size)].append((time.perf_counter() - begun) * 1000)
            token = token_of(chosen[size].pop(), kind)
            begun = time.perf_counter()
            caller.must("GET", "/api/x", token=token)
            found[f"{kind}: first lookup"][str(size)].append((time.perf_counter() - begun) * 1000)
    return found


def _warm_up(gateway: Gateway, caller: Caller) -> None:
    for _ in range(20):
        account = gateway.newcomer(caller)
        caller.must("POST", "/auth/login", {"email": account.email, "password": PASSWORD})


def fill(database: str, count: int) -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    if database.startswith("sqlite"):
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
            rows = ((_id(n, "sqlite"), f"user{n}@example.com", f"user{n}@example.com", hashed) for n in _numbers(count))
            connection.executemany(
                "INSERT INTO users (id, email, canonical, password_hash, is_active, version, created_at)"
                " VALUES (?, ?, ?, ?, 1, 1, 0)",
                rows,
            )
            connection.execute(_ROLES)
            connection.execute("ANALYZE")
            connection.commit()
        return
    asyncio.run(_fill_postgres(database, count, hashed))


async def _fill_postgres(database: str, count: int, hashed: str) -> None:
    connection = await asyncpg.connect(database)
    values = _POSTGRES | {"numbers": _POSTGRES["numbers"].format(count=count), "hash": hashed}
    await connection.execute(_USERS.format(**values), timeout=600)
    await connection.execute(_ROLES, timeout=600)
    await connection.execute("VACUUM ANALYZE", timeout=600)
    await connection.close()


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _id(number: int, kind: str) -> str:
    if kind == "sqlite":
        return str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128)))
    return str(uuid.UUID(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()))


def token_of(number: int, kind: str) -> str:
    now = int(time.time())
    claims = {"iss": "gateway", "aud": "gateway", "sub": _id(number, kind), "iat": now, "nbf": now, "exp": now + 900}
    unique = {"jti": uuid.uuid4().hex, "sid": uuid.uuid4().hex}
    return jwt.encode(claims | unique, SECRET, algorithm="HS256", headers={"kid": "k1", "typ": "at+jwt"})


def ratio(times: dict[str, list[float]]) -> float:
    """The larger store's median over the smaller one's."""
    small, large = (statistics.median(times[size]) for size in sorted(times, key=int))
    return large / small
