"""A running `gateway serve` for the comparison, with people whose ids are fixed."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from gateway.accounts.store import NewUser
from gateway.analysis.explain import Person
from gateway.identity.access_token import Tokens
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.user import COMMAND_LINE
from gateway.settings.model import TokensSettings
from gateway.storage.database import Database
from gateway.storage.schema import prepare
from gateway.storage.users import Users
from tests.properties.parity import UPSTREAMS, Asked
from tests.properties.parity_envoy import outcome
from tests.properties.parity_lab import Echo
from tests.support.processes import Gateway

_SECRET: Final = "for the comparison of decisions only"
# Refusals that follow the decision of the policy.
_LATER: Final = frozenset(("body_too_large",))


class Live:
    """Starts a gateway for each policy, one at a time, in one folder."""

    def __init__(self, folder: Path, people: Mapping[str, Person | None]) -> None:
        self._folder = folder
        self._people = {
            name: person for name, person in people.items() if person is not None and person.state == "active"
        }
        self._database = f"sqlite:///{folder / 'gateway.db'}"
        self._echoes = [Echo(name) for name in UPSTREAMS]
        self._port = 0
        self._tokens = {"garbage": "Bearer a.b.c", "basic": "Basic dXNlcjpwYXNz"}

    def __enter__(self) -> Self:
        asyncio.run(self._make_people())
        tokens = Tokens(KeyRing([SigningKey.from_secret(_SECRET, "HS256", "k1")]), TokensSettings(access_ttl=86_400.0))
        for name, person in self._people.items():
            issued = tokens.issue(user_id=person.id, session_id="s", roles=())
            self._tokens[name] = f"Bearer {issued.token}"
        return self

    def __exit__(self, *_: object) -> None:
        for echo in self._echoes:
            echo.close()

    async def _make_people(self) -> None:
        database = Database.open(self._database)
        await prepare(database)
        for name, person in self._people.items():
            email = f"{name}@example.com"
            user = NewUser(id=person.id, email=email, canonical=email, password_hash="-", roles=person.own_roles)
            await Users(database).create(user, by=COMMAND_LINE)
        await database.close()

    @contextmanager
    def serving(self, document: dict[str, Any]) -> Iterator[None]:
        """Run a gateway with this configuration. Raises AssertionError if it does not start."""
        gateway = Gateway("serve", self._completed(document), self._folder).start()
        try:
            self._port = gateway.address[1]
            yield
        finally:
            gateway.stop()

    def _completed(self, document: dict[str, Any]) -> dict[str, Any]:
        return {
            **document,
            "server": {**document["server"], "drain": "0s"},
            "storage": {"database": self._database},
            "tokens": {"keys": [{"kid": "k1", "algorithm": "HS256", "secret": _SECRET}]},
            "observability": {"access_log": "off"},
            "upstreams": {echo.name: {"targets": [f"http://127.0.0.1:{echo.port}"]} for echo in self._echoes},
        }

    def outcome(self, asked: Asked) -> str:
        """The outcome of the request: `allowed`, `answered`, a code, or a status without a code."""
        found = outcome(self._port, asked.as_bytes(self._tokens))
        if found.upstream or found.code in _LATER:
            return "allowed"
        if found.status == 204:
            return "answered"
        is_bad = found.code == "token_invalid" and asked.person in ("garbage", "basic")
        return "token_missing" if is_bad else found.code or str(found.status)
