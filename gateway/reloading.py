"""A changed configuration in a running process: routes, upstreams, roles, limits and signing keys change, no request is
lost.

What runs goes on with what it was admitted by. Upstreams whose settings are the same keep their engines, and with them
their connections and what is known of their health; those that are gone are closed once nothing can ask for them any
more. What cannot change in a running process is kept as it is, and named.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from gateway.daemon_thread import in_daemon_thread
from gateway.identity.credentials import Credentials
from gateway.identity.directory import Directory
from gateway.identity.key_loading import key_ring
from gateway.identity.keys import KeyRing
from gateway.identity.principals import PrincipalFactory
from gateway.operations.events import event
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.loading import Configuration, compile_policy
from gateway.policy.version import policy_version
from gateway.proxy.engines import import_engines
from gateway.proxy.proxy import Proxy
from gateway.proxy.tls import TlsContexts
from gateway.runtime import Runtime
from gateway.settings.model import Settings

# Whole sections that a process takes at its start, and of others the keys that it does: those that belong to its
# socket, and those that say what a token is that is out already.
_STARTED_WITH: Final = ("storage", "cache", "accounts", "observability")
_PARTLY_STARTED_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "server": ("host", "port", "workers", "operations_port", "trusted_proxies"),
    "tokens": ("issuer", "audience", "access_ttl", "refresh_ttl", "refresh_grace", "leeway", "external"),
}


class Follower(Protocol):
    """Something that was made from the settings, and goes by those in force."""

    def renew(self, settings: Settings) -> None:
        """Go by these settings from now on. Must not fail, nor wait."""


class _Prepared(NamedTuple):
    """A new configuration with all that it takes. `keys` is None where the keys are the old ones."""

    configuration: Configuration
    kept: tuple[str, ...]
    tls: TlsContexts
    keys: KeyRing | None
    policy: str


class Reloader:
    """Applies new configurations to one runtime. `followers` are told of the settings after everything else."""

    def __init__(
        self,
        configuration: Configuration,
        runtime: Runtime,
        *,
        credentials: Credentials,
        directory: Directory,
        followers: Sequence[Follower] = (),
    ) -> None:
        self.configuration = configuration
        self._runtime = runtime
        self._credentials = credentials
        self._directory = directory
        self._followers = followers

    @property
    def policy(self) -> str:
        """The version of the policy in force."""
        return self._runtime.policy

    async def reload(self, load: Callable[[], Configuration]) -> tuple[str, ...]:
        """Load and apply. The keys that differ but need a restart, which were kept as they are.

        Raises ConfigurationError and CannotStart, and then nothing has changed. Loading may take seconds for thousands
        of routes: it runs beside the loop.
        """
        prepared = await asyncio.wrap_future(in_daemon_thread(partial(self._prepare, load)))
        self._apply(prepared)
        return prepared.kept

    def _prepare(self, load: Callable[[], Configuration]) -> _Prepared:
        """All that takes long, and all that can fail."""
        configuration, kept = merged(self.configuration, load())
        settings = configuration.settings
        import_engines(settings.upstreams.values())
        # A key that was made because none is named is not looked for again: it is in use, wherever its file has gone.
        have_changed = settings.tokens.keys != self.configuration.settings.tokens.keys
        return _Prepared(
            configuration,
            kept,
            TlsContexts(settings.upstreams),
            key_ring(settings) if have_changed else None,
            policy_version(settings),
        )

    def _apply(self, prepared: _Prepared) -> None:
        """All of it between two requests: nothing here waits."""
        configuration, _, tls, keys, version = prepared
        runtime, settings, policy = self._runtime, configuration.settings, configuration.policy
        before = runtime.proxy
        after = Proxy(
            settings,
            policy.routes,
            rules=runtime.rules,
            ticker=runtime.ticker,
            loop=runtime.loop,
            tls=tls,
            before=before,
        )
        runtime.observer.declare(route.name for route in (*policy.own, *policy.routes))
        runtime.proxy = after
        runtime.gate = runtime.watch.gate = runtime.make_gate(
            policy=policy,
            credentials=self._credentials,
            directory=self._directory,
            limits=runtime.gate.limits.renewed(policy.routes),
            relaxed=settings.server.paths == "relaxed",
        )
        runtime.server, runtime.policy = settings.server, version
        # Every principal is made anew for other roles; and for a key that has gone, with what it has signed about them.
        if self._renew_tokens(keys, settings) or settings.roles != self.configuration.settings.roles:
            self._directory.renew(PrincipalFactory(settings.identity, RoleHierarchy(settings.roles).expand))
        for follower in self._followers:
            follower.renew(settings)
        self.configuration = configuration
        before.close_unless_used_by(after)

    def _renew_tokens(self, keys: KeyRing | None, settings: Settings) -> bool:
        """Whether a key has gone."""
        tokens = self._credentials.tokens
        ring, before = tokens.keys, tokens.keys.ids
        has_lost = tokens.renew(keys, settings.tokens)
        if keys is None:
            return False
        signer = ring.signer.kid
        event("reload", f"tokens are signed with {signer} and verified with {', '.join(ring.ids)}")
        if signer not in before:
            event("reload", f"{signer} is new and signs already: who does not know it yet refuses what it signs")
        return has_lost


def merged(old: Configuration, new: Configuration) -> tuple[Configuration, tuple[str, ...]]:
    """The new configuration, but for what a running process cannot change; and the keys of that which differ.

    Raises ConfigurationError where routes of the new one do not go with what stays.
    """
    settings, kept = _merged_settings(old.settings, new.settings)
    if not kept:
        return new, ()
    return replace(new, settings=settings, policy=compile_policy(settings)), kept


def _merged_settings(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    changes: dict[str, Any] = _differing(old, new, _STARTED_WITH)
    if old.identity != new.identity:  # the names that only the gateway may set are decided once for each spelling
        changes["identity"] = old.identity
    names = list(changes)
    for name, keys in _PARTLY_STARTED_WITH.items():
        kept = _differing(getattr(old, name), getattr(new, name), keys)
        if kept:
            changes[name] = replace(getattr(new, name), **kept)
            names += [f"{name}.{key}" for key in kept]
    return (replace(new, **changes) if changes else new), tuple(names)


def _differing(old: object, new: object, keys: Sequence[str]) -> dict[str, Any]:
    """The old values of those keys that have another value in `new`."""
    return {key: getattr(old, key) for key in keys if getattr(old, key) != getattr(new, key)}
