"""A changed configuration in a running process: routes, upstreams, roles and limits change, no request is lost.

What runs goes on with what it was admitted by. Upstreams whose settings are the same keep their engines, and with them
their connections and what is known of their health; those that are gone are closed once nothing can ask for them any
more. What cannot change in a running process is kept as it is, and named.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from gateway.gate import Gate
from gateway.identity.credentials import Credentials
from gateway.identity.directory import Directory
from gateway.identity.principals import PrincipalFactory
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.loading import Configuration, compile_policy
from gateway.proxy.engines import import_engines
from gateway.proxy.proxy import Proxy
from gateway.proxy.tls import TlsContexts
from gateway.runtime import Runtime
from gateway.settings.model import Settings

# Whole sections that a process takes at its start, and keys of `server` that belong to its socket.
_STARTED_WITH: Final = ("storage", "cache", "accounts", "tokens", "observability")
_OF_THE_SOCKET: Final = ("host", "port", "workers", "operations_port", "trusted_proxies")


class Reloader:
    """Applies new configurations to one runtime."""

    def __init__(
        self, configuration: Configuration, runtime: Runtime, *, credentials: Credentials, directory: Directory
    ) -> None:
        self.configuration = configuration
        self._runtime = runtime
        self._credentials = credentials
        self._directory = directory

    async def reload(self, load: Callable[[], Configuration]) -> tuple[str, ...]:
        """Load and apply. The keys that differ but need a restart, which were kept as they are.

        Raises ConfigurationError and CannotStart, and then nothing has changed. Loading may take seconds for thousands
        of routes: it runs beside the loop.
        """
        configuration, kept, tls = await asyncio.to_thread(self._prepare, load)
        self._apply(configuration, tls)
        return kept

    def _prepare(self, load: Callable[[], Configuration]) -> tuple[Configuration, tuple[str, ...], TlsContexts]:
        """All that takes long, and all that can fail."""
        configuration, kept = merged(self.configuration, load())
        import_engines(configuration.settings.upstreams.values())
        return configuration, kept, TlsContexts(configuration.settings.upstreams)

    def _apply(self, configuration: Configuration, tls: TlsContexts) -> None:
        """All of it between two requests: nothing here waits."""
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
        runtime.observer.declare(route.name for route in policy.routes)
        runtime.proxy = after
        runtime.gate = runtime.watch.gate = Gate(
            policy=policy,
            credentials=self._credentials,
            directory=self._directory,
            limits=runtime.gate.limits.renewed(policy.routes),
            relaxed=settings.server.paths == "relaxed",
        )
        runtime.server = settings.server
        if settings.roles != self.configuration.settings.roles:  # every copy of a user has to be made anew for this
            self._directory.renew(PrincipalFactory(settings.identity, RoleHierarchy(settings.roles).expand))
        self.configuration = configuration
        before.close_unless_used_by(after)


def merged(old: Configuration, new: Configuration) -> tuple[Configuration, tuple[str, ...]]:
    """The new configuration, but for what a running process cannot change; and the keys of that which differ.

    Raises ConfigurationError where routes of the new one do not go with what stays.
    """
    settings, kept = _merged_settings(old.settings, new.settings)
    if not kept:
        return new, ()
    return replace(new, settings=settings, policy=compile_policy(settings)), kept


def _merged_settings(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    kept = [name for name in _STARTED_WITH if getattr(old, name) != getattr(new, name)]
    server = {
        name: getattr(old.server, name)
        for name in _OF_THE_SOCKET
        if getattr(old.server, name) != getattr(new.server, name)
    }
    changes: dict[str, Any] = {name: getattr(old, name) for name in kept}
    if old.identity != new.identity:  # the names that only the gateway may set are decided once for each spelling
        changes["identity"] = old.identity
    if server:
        changes["server"] = replace(new.server, **server)
    names = (*kept, *(f"server.{name}" for name in server), *(("identity",) if "identity" in changes else ()))
    return (replace(new, **changes) if changes else new), names
