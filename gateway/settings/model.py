"""The whole configuration as one frozen value: every key with its default and its meaning.

Attributes are called as the keys of the file (`eject.for_` has an underscore, because `for` is Python's).
Durations are seconds, sizes bytes, networks `ipaddress` networks; secrets hide themselves, see `secret`.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gateway.settings.declare import UNSET, Unset, section, setting
from gateway.settings.grammar import name, role_name
from gateway.settings.kinds_compound import ListOf, MapOf, Section, Sections
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
from gateway.settings.model_service import (
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
    EjectSettings,
    HealthSettings,
    TlsSettings,
    UpstreamKind,
    UpstreamSettings,
)
from gateway.settings.nodes import MappingNode
from gateway.settings.places import Places, Position
from gateway.settings.reader import Reader
from gateway.settings.secret import Secret

__all__ = [
    "NOWHERE",
    "UNSET",
    "AccountsSettings",
    "Algorithm",
    "ApiKeysSettings",
    "AssertionSettings",
    "CacheSettings",
    "CorsSettings",
    "DecisionLogSettings",
    "EjectSettings",
    "ExternalSettings",
    "HeaderSettings",
    "HealthSettings",
    "IdentitySettings",
    "KeySettings",
    "LockoutSettings",
    "ObservabilitySettings",
    "PasswordSettings",
    "Places",
    "Position",
    "RateLimitSettings",
    "RegistrationLimitSettings",
    "RolesSettings",
    "RouteSettings",
    "Secret",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "TlsSettings",
    "TokensSettings",
    "TracingSettings",
    "Unset",
    "UpstreamSettings",
]


@section
class Settings:
    """Everything that one configuration file says, complete with defaults."""

    places: Places = field(default_factory=lambda: Places(""), repr=False, compare=False)
    server: ServerSettings = setting(
        Section(ServerSettings),
        "Where it listens, whom it believes, and how long it waits.",
        default=ServerSettings(),
    )
    storage: StorageSettings = setting(
        Section(StorageSettings), "Where users and sessions are kept.", default=StorageSettings()
    )
    cache: CacheSettings = setting(
        Section(CacheSettings), "How long user records are served without asking.", default=CacheSettings()
    )
    accounts: AccountsSettings = setting(
        Section(AccountsSettings), "Registration, login and administration.", default=AccountsSettings()
    )
    tokens: TokensSettings = setting(
        Section(TokensSettings), "The tokens that are issued and accepted.", default=TokensSettings()
    )
    identity: IdentitySettings = setting(
        Section(IdentitySettings), "How upstreams learn who calls.", default=IdentitySettings()
    )
    roles: Mapping[str, tuple[str, ...]] | None = setting(
        MapOf(
            ListOf(ROLE, "a list of roles", right="[] if it implies none"),
            "a mapping from roles to the roles they imply",
            name=role_name,
            words="mapping of lists of roles",
        ).or_null(),
        "The roles there are, and what each implies. If present, naming another role anywhere is an error.",
        default=None,
    )
    upstreams: Mapping[str, UpstreamSettings] = setting(
        MapOf(UpstreamKind(), "a mapping of upstreams", name=name, words="mapping of upstreams"),
        "The services behind the gateway: a name, and an address or a mapping.",
        default={},
    )
    routes: tuple[RouteSettings, ...] = setting(
        Sections(RouteKind(), "a list of routes"),
        "What is served at which path, and to whom. Their order means nothing.",
        default=(),
    )
    observability: ObservabilitySettings = setting(
        Section(ObservabilitySettings),
        "What the gateway tells about its work.",
        default=ObservabilitySettings(),
    )

    def position_of(self, key: str) -> Position:
        """Where a key's value stands; for one that is not written, the nearest enclosing one that is."""
        return self.places.position_of(key)

    @property
    def written(self) -> frozenset[str]:
        """The key paths that stand in the file, those inside of routes left out."""
        return self.places.written


class SettingsKind(Section[Settings]):
    """The whole file."""

    def __init__(self) -> None:
        super().__init__(Settings, "a mapping")
        self.right = f"keys are {', '.join(self.keys)}"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"places": reader.places}
