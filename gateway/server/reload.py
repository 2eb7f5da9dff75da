"""Apply a changed configuration to a running process: routes, upstreams, roles, limits and signing keys, without losing
requests.

Requests in progress continue under their old admission. Upstreams with unchanged settings keep their engines,
connections and health states; removed ones are closed when no request can use them. Settings that need a restart keep
their old values and are reported.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from gateway.identity.credentials import Authenticator
from gateway.identity.directory import Directory
from gateway.identity.keys import KeyRing
from gateway.identity.signing_keys import key_ring
from gateway.observability.events import event
from gateway.policy.loader import Configuration, compile_policy
from gateway.policy.shadow import shadows_of
from gateway.policy.version import policy_version
from gateway.proxy.proxy import Proxy, import_engines
from gateway.proxy.tls import TlsContexts
from gateway.server.certificates import server_context
from gateway.server.resources import principal_factory
from gateway.server.runtime import Runtime
from gateway.server.workers import in_daemon_thread
from gateway.settings.declare import declared
from gateway.settings.model import AccountsSettings, SessionSettings, Settings

# Only annotations. Pages and mail are imported if they are configured.
if TYPE_CHECKING:
    from gateway.api.pages.endpoints import Pages
    from gateway.api.pages.site import Site
    from gateway.server.mail import MailServices

# Settings that need a restart: whole sections, and the keys bound to the listening socket or to credentials already
# issued. A section that appears or disappears needs a restart too.
_STARTED_WITH: Final = ("storage", "cache", "mail", "observability")
_PARTLY_STARTED_WITH: Final[Mapping[str, Iterable[str]]] = {
    "server": ("host", "port", "workers", "operations_port", "trusted_proxies", "public_url"),
    "server.tls": (),  # Certificates are exchanged while the gateway runs; the protocol of its port is not.
    "accounts": declared(AccountsSettings).keys() - {"pages"},
    "accounts.pages": ("path",),
    "sessions": declared(SessionSettings).keys() - {"origins", "sign_in"},
    "tokens": ("issuer", "audience", "access_ttl", "refresh_ttl", "refresh_grace", "leeway", "external"),
}


class Reloadable(Protocol):
    """A component that is built from settings and can apply new ones."""

    def renew(self, settings: Settings) -> None:
        """Apply new settings. Must not fail or block."""


class _Prepared(NamedTuple):
    """A loaded configuration and everything derived from it. `keys` is None if the keys are unchanged, `server_tls` if
    the listener has no TLS, `site` without pages."""

    configuration: Configuration
    kept: tuple[str, ...]
    tls: TlsContexts
    server_tls: ssl.SSLContext | None
    keys: KeyRing | None
    policy: str
    site: "Site | None"


class Reloader:
    """Applies new configurations to one runtime. `followers` receive the settings last. `pages` and `mail` are None
    where they are not configured."""

    def __init__(
        self,
        configuration: Configuration,
        runtime: Runtime,
        *,
        credentials: Authenticator,
        directory: Directory,
        followers: Sequence[Reloadable] = (),
        pages: "Pages | None" = None,
        mail: "MailServices | None" = None,
    ) -> None:
        self.configuration = configuration
        self._runtime = runtime
        self._credentials = credentials
        self._directory = directory
        self._followers = followers
        self._pages = pages
        self._mail = mail

    @property
    def policy_version(self) -> str:
        """The version of the active policy."""
        return self._runtime.policy_version

    async def reload(self, load: Callable[[], Configuration]) -> tuple[str, ...]:
        """Load and apply a configuration. Returns the changed keys that need a restart, which keep their old values.

        Raises ConfigurationError and CannotStart without changing anything. Loading thousands of routes takes seconds
        and runs in a thread.
        """
        prepared = await asyncio.wrap_future(in_daemon_thread(partial(self._prepare, load)))
        self._apply(prepared)
        return prepared.kept

    def _prepare(self, load: Callable[[], Configuration]) -> _Prepared:
        """All steps that are slow or can fail."""
        configuration, kept = merged(self.configuration, load())
        settings = configuration.settings
        import_engines(settings.upstreams.values())
        # A generated key is not reloaded: it stays in use even if its file was moved.
        have_changed = settings.tokens.keys != self.configuration.settings.tokens.keys
        return _Prepared(
            configuration,
            kept,
            TlsContexts(settings.upstreams),
            server_context(settings.server.tls) if settings.server.tls and self._runtime.tls else None,
            key_ring(settings) if have_changed else None,
            policy_version(settings),
            None if self._pages is None else self._pages.prepare(settings),
        )

    def _apply(self, prepared: _Prepared) -> None:
        """Apply everything between two requests, without waiting."""
        configuration, _, tls, server_tls, keys, version, site = prepared
        runtime, settings, policy = self._runtime, configuration.settings, configuration.policy
        before = runtime.proxy
        after = Proxy(
            settings,
            policy.routes,
            rules=runtime.header_rules,
            ticker=runtime.ticker,
            loop=runtime.loop,
            tls=tls,
            previous=before,
        )
        runtime.observer.declare(route.name for route in (*policy.own, *policy.routes))
        runtime.proxy = after
        runtime.gate = runtime.watch.gate = runtime.gates.build(
            policy, configuration.shadows, runtime.gate.limits.renewed(policy.routes)
        )
        runtime.server, runtime.policy_version, runtime.tls = settings.server, version, server_tls
        # New roles invalidate all principals, and so does a removed key, because of the assertions cached in them.
        if self._renew_tokens(keys, settings) or settings.roles != self.configuration.settings.roles:
            self._directory.renew(principal_factory(settings))
        for follower in self._followers:
            follower.renew(settings)
        if self._pages is not None:
            self._pages.apply(site)
        if self._mail is not None and site is not None:
            self._mail.renew(settings, site.catalogue)
        self.configuration = configuration
        before.close_unless_used_by(after)

    def _renew_tokens(self, keys: KeyRing | None, settings: Settings) -> bool:
        """Returns whether a key was removed."""
        tokens = self._credentials.tokens
        ring, before = tokens.keys, tokens.keys.ids
        has_lost = tokens.renew(keys, settings.tokens)
        if keys is None:
            return False
        signer = ring.signer.kid
        event("reload", f"tokens are signed with {signer} and verified with {', '.join(ring.ids)}")
        if signer not in before:
            event("reload", f"{signer} is new and signs already: verifiers with an older key set refuse its tokens")
        return has_lost


def merged(old: Configuration, new: Configuration) -> tuple[Configuration, tuple[str, ...]]:
    """The new configuration with the old values of settings that need a restart, and the keys of those that differ.

    Raises ConfigurationError if the new routes do not fit the old values.
    """
    settings, kept = _merged_settings(old.settings, new.settings)
    if not kept:
        return new, ()
    policy = compile_policy(settings)
    return replace(new, settings=settings, policy=policy, shadows=shadows_of(policy)), kept


def _merged_settings(old: Settings, new: Settings) -> tuple[Settings, tuple[str, ...]]:
    changes: dict[str, Any] = _differing(old, new, _STARTED_WITH)
    if old.identity != new.identity:  # The classification of field names depends on them and is cached per spelling.
        changes["identity"] = old.identity
    names = list(changes)
    merged = replace(new, **changes)
    for path, keys in _PARTLY_STARTED_WITH.items():
        before, after = attrgetter(path)(old), attrgetter(path)(merged)
        if before is None or after is None:
            names += [path] if before != after else []
            merged = _with(merged, path, before)
        elif kept := _differing(before, after, keys):
            names += [f"{path}.{key}" for key in sorted(kept)]
            merged = _with(merged, path, replace(after, **kept))
    return (merged if names else new), tuple(names)


def _with(settings: Any, path: str, value: object) -> Any:
    """The settings with another value at a dotted path."""
    name, _, rest = path.partition(".")
    return replace(settings, **{name: _with(getattr(settings, name), rest, value) if rest else value})


def _differing(old: object, new: object, keys: Iterable[str]) -> dict[str, Any]:
    """The old values of the keys that differ in `new`."""
    return {key: getattr(old, key) for key in keys if getattr(old, key) != getattr(new, key)}
