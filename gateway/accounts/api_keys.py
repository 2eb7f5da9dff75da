"""The API keys of an account, managed by its holder.

Methods raise Refusal for errors of the client. StorageUnavailable propagates.
"""

import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from gateway.accounts.change_publisher import ChangePublisher, key_known_until
from gateway.accounts.commands import KeyRequest
from gateway.accounts.confirmation import require_fresh
from gateway.accounts.service import account_holder
from gateway.errors import FieldError, Refusal
from gateway.identity.api_keys import ApiKey, ApiKeyStore, NewApiKey, key_digest, new_key
from gateway.identity.principal import Principal
from gateway.identity.user import ChangeFeed, Claims, ClientInfo
from gateway.settings.model import Settings

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


class MadeKey(NamedTuple):
    """A new key and its secret text, shown only once."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"MadeKey({self.key!r}, ********)"


class ApiKeyService:
    """The service. `clock` returns seconds since the epoch and must equal the store's clock."""

    def __init__(
        self,
        keys: ApiKeyStore,
        feed: ChangeFeed,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._announcer = ChangePublisher(feed)
        self.settings = settings
        self._clock = clock

    def renew(self, settings: Settings) -> None:
        """Apply new settings, which can declare other roles."""
        self.settings = settings

    def require_fresh(self, claims: Claims) -> None:
        """Raise `reauthentication_required`: a key outlives a stolen token."""
        require_fresh(claims, self.settings, now=self._clock())

    async def list(self, claims: Claims, origin: ClientInfo) -> tuple[ApiKey, ...]:
        """The caller's keys, newest first. Raises `forbidden` like account_holder."""
        return await self._keys.living(account_holder(claims, origin).id)

    async def create(self, principal: Principal, claims: Claims, request: KeyRequest, origin: ClientInfo) -> MadeKey:
        """Create a key, by default with all own roles of the caller and the maximum lifetime.

        Raises `invalid_fields` for roles that the caller lacks, `reauthentication_required`, `too_many_api_keys`,
        `forbidden` like account_holder, and `token_revoked` if the session has just ended.
        """
        holder = account_holder(claims, origin)
        self.require_fresh(claims)
        roles = _roles(principal, request.roles)
        text = new_key()
        new = NewApiKey(
            id=secrets.token_urlsafe(16),
            user_id=principal.id,
            session_id=claims.session,
            digest=_digest(text),
            name=request.name,
            roles=roles,
            expires_at=self._expiry(request.expires_in),
        )
        made = await self._announcer.finish(self._keys.create(new, by=holder))
        if made is None:
            raise Refusal("token_revoked", "the session or the account has just ended", presented=True)
        return MadeKey(made, text)

    async def delete(self, claims: Claims, key_id: str, origin: ClientInfo) -> None:
        """Delete a key of the caller on all replicas. Raises `not_found` for other keys, `forbidden` like
        account_holder."""
        holder = account_holder(claims, origin)
        if _ID(key_id) is None:
            raise Refusal("not_found")
        known_until = key_known_until(self.settings, self._clock)
        ending = self._keys.end(holder.id, key_id, known_until=known_until, by=holder)
        if await self._announcer.changed(ending) is None:
            raise Refusal("not_found")

    def _expiry(self, expires_in: int | None) -> datetime | None:
        life = self.settings.accounts.api_keys.max_ttl if expires_in is None else expires_in
        return None if life is None else datetime.fromtimestamp(self._clock(), UTC) + timedelta(seconds=life)


def _digest(text: str) -> bytes:
    digest = key_digest(text.encode("ascii"))
    assert digest is not None, "new_key returns well-formed keys"
    return digest


def _roles(principal: Principal, requested: frozenset[str] | None) -> frozenset[str]:
    if requested is None:
        return principal.own_roles
    if not requested <= principal.roles:
        known = ", ".join(sorted(principal.roles)) or "none"
        raise Refusal("invalid_fields", fields=[FieldError("roles", f"must be roles that you have yourself ({known})")])
    return requested
