"""The complete configuration as a frozen value: every key with its default and description.

Attributes have the names of the keys (`eject.for_` has an underscore, because `for` is a Python keyword). Durations are
in seconds, sizes in bytes, networks are `ipaddress` networks, and `Secret` values are masked in output.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gateway.settings.declare import UNSET, Unset, section, setting
from gateway.settings.model_browsers import (
    EmailSettings,
    EncryptionKeySettings,
    InvitationSettings,
    MailLimitSettings,
    MailSettings,
    PageSettings,
    SessionSettings,
)
from gateway.settings.model_identity import (
    Algorithm,
    AssertionSettings,
    ExternalSettings,
    HeaderSettings,
    IdentitySettings,
    KeySettings,
    TokensSettings,
)
from gateway.settings.model_routes import (
    NOWHERE,
    CorsSettings,
    RateLimitSettings,
    RolesSettings,
    RouteKind,
    RouteSettings,
)
from gateway.settings.model_server import (
    ROLE,
    AccountsSettings,
    ApiKeysSettings,
    CacheSettings,
    DecisionLogSettings,
    LockoutSettings,
    ObservabilitySettings,
    PasswordSettings,
    RegistrationLimitSettings,
    ServerSettings,
    StorageSettings,
    TracingSettings,
)
from gateway.settings.model_upstreams import (
    BalanceSettings,
    EjectSettings,
    HealthSettings,
    TlsSettings,
    UpstreamKind,
    UpstreamSettings,
)
from gateway.settings.positions import Position, SourceMap
from gateway.settings.reader import Reader
from gateway.settings.secret import Secret
from gateway.settings.syntax import name, role_name
from gateway.settings.types_compound import ListOf, MapOf, Section, Sections
from gateway.settings.yaml import MappingNode

__all__ = [
    "NOWHERE",
    "UNSET",
    "AccountsSettings",
    "Algorithm",
    "ApiKeysSettings",
    "AssertionSettings",
    "BalanceSettings",
    "CacheSettings",
    "CorsSettings",
    "DecisionLogSettings",
    "EjectSettings",
    "EmailSettings",
    "EncryptionKeySettings",
    "ExternalSettings",
    "HeaderSettings",
    "HealthSettings",
    "IdentitySettings",
    "InvitationSettings",
    "KeySettings",
    "LockoutSettings",
    "MailLimitSettings",
    "MailSettings",
    "ObservabilitySettings",
    "PageSettings",
    "PasswordSettings",
    "Position",
    "RateLimitSettings",
    "RegistrationLimitSettings",
    "RolesSettings",
    "RouteSettings",
    "Secret",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "SourceMap",
    "StorageSettings",
    "TlsSettings",
    "TokensSettings",
    "TracingSettings",
    "Unset",
    "UpstreamSettings",
]


@section
class Settings:
    """A complete configuration, defaults included."""

    places: SourceMap = field(default_factory=lambda: SourceMap(""), repr=False, compare=False)
    server: ServerSettings = setting(
        Section(ServerSettings),
        "Listener, trusted proxies, time-outs and limits.",
        default=ServerSettings(),
    )
    storage: StorageSettings = setting(
        Section(StorageSettings), "The stores of users and sessions.", default=StorageSettings()
    )
    cache: CacheSettings = setting(Section(CacheSettings), "Caching of user records.", default=CacheSettings())
    accounts: AccountsSettings = setting(
        Section(AccountsSettings), "Registration, login and administration.", default=AccountsSettings()
    )
    sessions: SessionSettings | None = setting(
        Section(SessionSettings).or_null(),
        "Sessions of browsers by a cookie; `{}`: with defaults; null: no cookie is a credential.",
        default=None,
    )
    mail: MailSettings | None = setting(
        Section(MailSettings).or_null(), "Mail for links and notices; null: no mail is sent.", default=None
    )
    tokens: TokensSettings = setting(
        Section(TokensSettings), "The tokens that the gateway issues and accepts.", default=TokensSettings()
    )
    identity: IdentitySettings = setting(
        Section(IdentitySettings), "How upstreams receive the caller's identity.", default=IdentitySettings()
    )
    roles: Mapping[str, tuple[str, ...]] | None = setting(
        MapOf(
            ListOf(ROLE, "a list of roles", right="[] if it implies none"),
            "a mapping from roles to the roles they imply",
            name=role_name,
            words="mapping of lists of roles",
        ).or_null(),
        "The roles, and the roles that each implies. If present, a reference to any other role is an error.",
        default=None,
    )
    upstreams: Mapping[str, UpstreamSettings] = setting(
        MapOf(UpstreamKind(), "a mapping of upstreams", name=name, words="mapping of upstreams"),
        "The services behind the gateway: a name, and an address or a mapping.",
        default={},
    )
    routes: tuple[RouteSettings, ...] = setting(
        Sections(RouteKind(), "a list of routes", right="begin each with '- '"),
        "The paths that the gateway serves, and the access rules of each. Their order has no meaning.",
        default=(),
    )
    observability: ObservabilitySettings = setting(
        Section(ObservabilitySettings),
        "Logs, metrics and traces.",
        default=ObservabilitySettings(),
    )

    def position_of(self, key: str) -> Position:
        """The position of a key's value, or of the nearest enclosing key that is written."""
        return self.places.position_of(key)

    def health_host(self, upstream: UpstreamSettings) -> str | None:
        """The Host of an upstream's health checks; None: that of each target.

        With `preserve_host` an application can refuse unknown hosts (Django's ALLOWED_HOSTS), so checks use a host
        that clients use.
        """
        own = None if upstream.health is None else upstream.health.host
        names = (host for host in self.server.hosts if not host.startswith("*."))
        return own or (next(names, None) if upstream.preserve_host else None)

    @property
    def written(self) -> frozenset[str]:
        """The paths of written keys, except those inside routes."""
        return self.places.written


class SettingsKind(Section[Settings]):
    """The whole file."""

    def __init__(self) -> None:
        super().__init__(Settings, "a mapping")
        self.right = f"keys are {', '.join(self.keys)}"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"places": reader.places}
