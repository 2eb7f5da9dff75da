"""Settings that Envoy cannot express. Each is an error with its position, because leaving out a rule would make the
policy laxer."""

from collections.abc import Iterator
from typing import Final

from gateway.analysis.envoy.clusters import system_authorities
from gateway.analysis.envoy.messages import is_address
from gateway.errors import ConfigurationError, Problem
from gateway.policy.loader import Configuration
from gateway.policy.route import Route
from gateway.settings.model import BalanceSettings, Settings, UpstreamSettings
from gateway.settings.target_address import TargetAddress

_HMAC: Final = "HS"

Found = Iterator[tuple[str, str]]


def refuse_unsupported(configuration: Configuration, *, native: bool) -> None:
    """Raises ConfigurationError with every setting that an export would have to leave out."""
    settings = configuration.settings
    found = [*_anywhere(settings)]
    if native:
        found += [*_of_tokens(settings), *_of_sessions(settings), *_of_paths(settings)]
        for route in configuration.policy.routes:
            found += () if route.shadow else _of_route(route)
    if found:
        raise ConfigurationError([Problem(*settings.position_of(key), key, message) for key, message in found])


def _anywhere(settings: Settings) -> Found:
    if not settings.server.trusted_proxies:
        yield (
            "server.trusted_proxies",
            "must contain the address from which Envoy reaches the gateway, otherwise every decision is 403 "
            "(for example [127.0.0.1/32])",
        )
    if settings.server.tls is not None:
        yield "server.tls", "serves HTTPS, and Envoy reaches the gateway over HTTP (TLS in Envoy instead)"
    for name, upstream in settings.upstreams.items():
        yield from _of_upstream(f"upstreams.{name}", upstream)


def _of_upstream(key: str, upstream: UpstreamSettings) -> Found:
    targets = [TargetAddress.of(target) for target in upstream.targets]
    schemes = {target.scheme for target in targets}
    if len(schemes) > 1:
        yield f"{key}.targets", "mixes http and https, which an Envoy cluster does not support (two upstreams)"
    if isinstance(upstream.balance, BalanceSettings) and len(upstream.targets) > 1:
        yield (
            f"{key}.balance",
            "chooses by a hash that Envoy does not have: WebSockets and bodies without Content-Length go through the "
            "gateway and would reach other targets than the rest (another balance, or no Envoy in front)",
        )
    if any(target.socket for target in targets) and not all(
        target.socket or is_address(target.host) for target in targets
    ):
        yield (
            f"{key}.targets",
            "mixes a Unix socket and a host name, which an Envoy cluster does not support (two upstreams)",
        )
    names = {target.host for target in targets}
    if "https" in schemes and len(names) > 1 and upstream.tls.server_name is None:
        yield f"{key}.targets", "needs certificates for several names (tls.server_name, or an upstream for each)"
    if "https" in schemes and upstream.tls.verify and upstream.tls.ca is None and system_authorities() is None:
        yield f"{key}.tls.ca", "is missing, and this system has no CA bundle (name one)"


def _of_tokens(settings: Settings) -> Found:
    tokens = settings.tokens
    if not tokens.include_roles:
        yield "tokens.include_roles", "must be true: Envoy reads roles from the token"
    if tokens.external:
        yield "tokens.external", "cannot be enforced by Envoy, which does not map roles and ids (without --native)"
    if tokens.leeway < 1:
        yield "tokens.leeway", "must be at least 1s: Envoy reads a smaller value as one minute"
    for number, key in enumerate(tokens.keys):
        if key.algorithm.startswith(_HMAC):
            yield f"tokens.keys[{number}]", f"is a secret ({key.algorithm}), which no key set publishes (an ES256 key)"
    if settings.identity.assertion is not None:
        yield "identity.assertion", "cannot be signed by Envoy (without --native)"


def _of_sessions(settings: Settings) -> Found:
    if settings.sessions is not None:
        yield "sessions", "reads a cookie that means nothing outside the gateway (without --native)"


def _of_paths(settings: Settings) -> Found:
    if settings.server.paths == "relaxed":
        yield "server.paths", "must be strict: Envoy cannot apply the rules for relaxed paths (without --native)"
    if settings.server.hosts:
        yield "server.hosts", "is checked by the gateway (without --native, or Envoy's own virtual hosts)"


def _of_route(route: Route) -> Found:
    each = route.settings
    assert each is not None
    if each.owner is not None:
        yield f"{each.key}.owner", "compares the path with the caller, which Envoy's RBAC cannot (without --native)"
    if each.rate_limit is not None:
        yield f"{each.key}.rate_limit", "counts clients, which needs the gateway (without --native)"
    if each.cors is not None:
        yield f"{each.key}.cors", "is answered by the gateway (without --native)"
    for key in ("credentials", "fresh", "verified", "same_origin"):
        if getattr(each, key):
            yield f"{each.key}.{key}", "judges the credential, which Envoy's JWT filter cannot (without --native)"
    if each.encoded_slash == "keep":
        yield f"{each.key}.encoded_slash", "keeps escapes that Envoy would have to judge (without --native)"
