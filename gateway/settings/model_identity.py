"""Settings of identity: the gateway's own tokens, external issuers, and headers for upstreams."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from gateway.settings.declare import section, setting
from gateway.settings.model_server import ROLE
from gateway.settings.reader import InvalidValue
from gateway.settings.secret import Secret
from gateway.settings.syntax import issuer, key_id, name, role_name, shared_secret, web_address
from gateway.settings.types import Boolean, Duration, Enum, Size, Text
from gateway.settings.types_compound import ListOf, MapOf, Section, Sections, TextOrList
from gateway.settings.types_network import HeaderName, SecretText

Algorithm: TypeAlias = Literal[
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "HS256",
    "HS384",
    "HS512",
]
ASYMMETRIC: Final = ("ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
SYMMETRIC: Final = ("HS256", "HS384", "HS512")


def private_pem(text: str) -> str:
    """A private key in PEM form. Its content is checked when the key is loaded."""
    if text.lstrip().startswith("-----BEGIN ") and "PRIVATE KEY-----" in text:
        return text
    raise InvalidValue("must be a private key in PEM form", 'for example "${file:/run/secrets/k1.pem}"')


@section
class KeySettings:
    """One signing key: a private key, or a secret for the `HS…` algorithms."""

    kid: str = setting(Text("a key id", check=key_id), "The id of the key, as in the `kid` header of tokens.")
    algorithm: Algorithm = setting(
        Enum(*ASYMMETRIC, *SYMMETRIC), "The only algorithm that the gateway uses with this key."
    )
    private_key: Secret | None = setting(
        SecretText("a private key in PEM form", 'for example "${file:/run/secrets/k1.pem}"', private_pem).or_null(),
        "The private key in PEM form, for all algorithms except `HS…`.",
        default=None,
    )
    secret: Secret | None = setting(
        SecretText("a secret", 'for example "${SIGNING_SECRET}"', shared_secret).or_null(),
        "The secret for `HS256` (at least 32 bytes), `HS384` (48) or `HS512` (64).",
        default=None,
    )


@section
class ExternalSettings:
    """An external issuer whose tokens the gateway accepts."""

    issuer: str = setting(
        Text("an issuer", check=issuer),
        "The `iss` claim of its tokens; also its address for OIDC discovery, unless `jwks_url` is set.",
    )
    audience: str | tuple[str, ...] = setting(
        TextOrList(Text("an audience"), "an audience or a list of them"),
        "The accepted values of the `aud` claim; a token must contain one of them.",
    )
    name: str = setting(
        Text("a name", check=name),
        "The prefix of its users' ids, `NAME|SUB`, which keeps them distinct from local ids.",
    )
    jwks_url: str | None = setting(
        Text("an http:// or https:// address", check=web_address, words="address").or_null(),
        "The address of its key set; null: found by OIDC discovery.",
        default=None,
    )
    roles_claim: str | tuple[str, ...] | None = setting(
        TextOrList(
            Text("the dotted path of a claim"),
            "the path of a claim",
            right="for example realm_access.roles, or [resource_access, com.example.shop, roles]",
        ).or_null(),
        "The claim that contains roles: a dotted path, for example `realm_access.roles`, or a list of names if a "
        "name contains dots. The claim holds a list, a space-separated string, or a mapping whose keys are the "
        "roles. null: its tokens carry no roles.",
        default=None,
    )
    role_map: Mapping[str, str] = setting(
        MapOf(ROLE, "a mapping from its roles to roles here", name=role_name, words="mapping of roles"),
        "Its roles, and the gateway's role for each. Roles without an entry are ignored.",
        default={},
    )
    algorithms: tuple[Algorithm, ...] = setting(
        ListOf(Enum(*ASYMMETRIC), "a list of algorithms", least=1, right="for example [RS256]"),
        "The accepted algorithms.",
        default=("RS256",),
    )
    id_tokens: bool = setting(
        Boolean(),
        "Also accept tokens with the claims `at_hash` or `nonce`, which Dex puts into access tokens. Gives a "
        "warning, because other issuers put these claims into ID tokens only.",
        default=False,
    )


@section
class TokensSettings:
    """The tokens that the gateway issues and accepts."""

    issuer: str = setting(Text(), "The `iss` claim.", default="gateway")
    audience: str = setting(Text(), "The `aud` claim.", default="gateway")
    access_ttl: float = setting(Duration(), "Lifetime of an access token.", default=900.0)
    refresh_ttl: float = setting(Duration(), "Lifetime of a refresh token.", default=14 * 86_400.0)
    refresh_grace: float = setting(
        Duration(zero=True),
        "How long a refresh token that was just rotated still returns the same successor.",
        default=10.0,
    )
    leeway: float = setting(
        Duration(zero=True), "Tolerated difference between the clocks of two machines.", default=5.0
    )
    max_size: int = setting(
        Size(1024, 16384),
        "The longest accepted bearer token. Entra ID tokens with many groups exceed the default.",
        default=8192,
    )
    include_roles: bool = setting(
        Boolean(),
        "Add a `roles` claim to issued tokens, for upstreams and Envoy; the gateway itself never reads it.",
        default=False,
    )
    keys: tuple[KeySettings, ...] = setting(
        Sections(Section(KeySettings, "a signing key"), "a list of signing keys"),
        "The signing keys: the first signs, all verify. Empty: the gateway generates one ES256 key beside the "
        "SQLite database.",
        default=(),
    )
    external: tuple[ExternalSettings, ...] = setting(
        Sections(Section(ExternalSettings, "an external issuer"), "a list of external issuers"),
        "External issuers whose tokens the gateway accepts.",
        default=(),
    )


@section
class HeaderSettings:
    """The names of the identity headers."""

    id: str = setting(HeaderName(), "The id of the user.", default="X-User-Id")
    email: str = setting(HeaderName(), "The e-mail address of the user.", default="X-User-Email")
    roles: str = setting(HeaderName(), "The roles of the user, sorted, joined by `,`.", default="X-User-Roles")
    email_verified: str | None = setting(
        HeaderName().or_null(),
        "Whether the e-mail address is verified: `true` or `false`; null: no header.",
        default=None,
    )
    acr: str | None = setting(
        HeaderName().or_null(), "The class of the authentication, such as `aal1`; null: no header.", default=None
    )
    session: str | None = setting(HeaderName().or_null(), "The id of the session; null: no header.", default=None)

    @property
    def names(self) -> Mapping[str, str]:
        """The configured headers, by key."""
        keys = ("id", "email", "roles", "email_verified", "acr", "session")
        return {key: name for key in keys if (name := getattr(self, key)) is not None}


@section
class AssertionSettings:
    """A signed statement of the caller's identity, for upstreams that do not trust the network."""

    header: str = setting(HeaderName(), "The header that carries the statement.", default="X-Identity-Token")
    ttl: float = setting(Duration(), "Lifetime of the statement.", default=60.0)


@section
class IdentitySettings:
    """How upstreams receive the caller's identity."""

    headers: HeaderSettings = setting(
        Section(HeaderSettings), "The names of the identity headers.", default=HeaderSettings()
    )
    assertion: AssertionSettings | None = setting(
        Section(AssertionSettings).or_null(),
        "A JWT signed by the gateway, with the name of the upstream as its audience; null: none.",
        default=None,
    )
