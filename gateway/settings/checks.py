"""Checks across several keys. Contradictory and insecure settings are refused.

Warnings mark legal but dangerous settings. The checks run even if some values could not be read, so that all problems
are reported together. An unreadable value has its default, which always passes. Only the names in patterns and rewrites
are checked here; the matcher checks their grammar.

A comment on the line silences a warning by its name: `# gateway: allow short-passwords`. docs/warnings.md lists the
same reasons as WARNINGS.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from pathlib import Path
from typing import Final

from gateway.errors import Problem
from gateway.settings.checks_browsers import check_browsers
from gateway.settings.checks_tokens import check_tokens
from gateway.settings.model import RouteSettings, Settings, UpstreamSettings
from gateway.settings.model_tls import CertificateSettings, certificate_key
from gateway.settings.reader import InvalidValue, Reader, known, quoted
from gateway.settings.store_files import is_in_memory
from gateway.settings.target_address import TargetAddress
from gateway.settings.types_network import Network, check_private, folded

Hierarchy = Mapping[str, tuple[str, ...]]


def check_roles(settings: Settings, reader: Reader) -> None:
    """Report undeclared roles if roles are declared, and cycles."""
    roles, declared = settings.roles, reader.defined.get("roles")
    if roles is None or declared is None:
        return
    for path, role in reader.roles_named:
        if role not in declared:
            reader.report_at(path, f"{quoted(role)} is not a declared role ({known(declared)})")
    reported: set[str] = set()
    for name in roles:
        circle = _circle(name, roles) if name not in reported else []
        if circle:
            reported.update(circle)
            message = f"implies itself: {' > '.join([*circle, name])} (break the circle)"
            reader.report_at(f"roles.{name}", message)


def implied(granted: Iterable[str], roles: Hierarchy) -> set[str]:
    """The given roles with all roles that they imply."""
    found: set[str] = set()
    waiting = list(granted)
    while waiting:
        role = waiting.pop()
        if role not in found:
            found.add(role)
            waiting += roles.get(role, ())
    return found


def _circle(start: str, roles: Hierarchy) -> list[str]:
    """The shortest cycle from a role back to itself; empty without one."""
    came_from: dict[str, str] = {}
    waiting = [start]
    for role in waiting:  # the loop appends to the list
        for each in roles.get(role, ()):
            if each == start:
                way = [role]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if each not in came_from:
                came_from[each] = role
                waiting.append(each)
    return []


_CAPTURE: Final = re.compile(r"\{([^{}/]*)\}")


def check_routes(settings: Settings, reader: Reader) -> None:
    """Report undefined names and contradictions."""
    names: dict[str, str] = {}
    upstreams = _defined_upstreams(reader)
    for route in settings.routes:
        if upstreams is not None and route.upstream not in upstreams:
            message = f"{quoted(route.upstream)} is not defined ({known(upstreams)})"
            reader.report_at(f"{route.key}.upstream", message)
        if _requirements(route):
            _check_requirement(route, reader)
        if route.strip_prefix is not None and route.rewrite is not None:
            reader.report_at(f"{route.key}.strip_prefix", "excludes rewrite (one of them)")
        if route.cors is not None or route.rate_limit is not None:
            _check_limits(route, reader)
        if route.name is not None:
            first = names.setdefault(route.name, route.key)
            if first != route.key:
                message = f"must be unique, found '{route.name}' in {first} too (another name)"
                reader.report_at(f"{route.key}.name", message)


def _defined_upstreams(reader: Reader) -> frozenset[str] | None:
    """The names of all upstreams in the file; None if they could not be read, to avoid consequential errors."""
    return None if "upstreams" in reader.rejected else reader.defined.get("upstreams", frozenset())


def _requirements(route: RouteSettings) -> list[str]:
    """The keys of a route that only a signed-in user can meet."""
    return [key for key in ("roles", "owner", "fresh", "verified") if getattr(route, key)]


def _check_requirement(route: RouteSettings, reader: Reader) -> None:
    asks = _requirements(route)[0]
    if route.auth == "none" and asks in ("roles", "owner"):
        message = f"contradicts {asks}: a request without a token has neither roles nor an id (required)"
        reader.report_at(f"{route.key}.auth", message)
    elif route.auth == "optional":
        message = f"acts like required: a request without a token cannot meet {asks} (required)"
        reader.warn_at(f"{route.key}.auth", "optional-with-requirement", message)
    captures = _CAPTURE.findall(route.path)
    if route.owner is not None and route.owner not in captures:
        message = f"{quoted(route.owner)} is not a capture of {quoted(route.path)} ({known(captures)})"
        reader.report_at(f"{route.key}.owner", message)


def _check_limits(route: RouteSettings, reader: Reader) -> None:
    if route.cors is not None and route.cors.credentials and "*" in route.cors.origins:
        message = "must not be '*' with credentials: every page could act for its visitors (name the origins)"
        reader.report_at(f"{route.key}.cors.origins", message)
    if route.rate_limit is not None and route.rate_limit.by == "user" and route.auth == "none":
        message = "cannot be user with auth: none, which identifies no user (address)"
        reader.report_at(f"{route.key}.rate_limit.by", message)


# Networks that hold every routable address; and the IPv4 addresses of a dual-stack socket.
_ALL_IPV4: Final = IPv4Network("0.0.0.0/0")
_ALL_IPV6: Final = IPv6Network("2000::/3")
_MAPPED_IPV4: Final = IPv6Network("::ffff:0:0/96")
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "fc00::/7", "fe80::/10")))
_LEAST_CACHE_KEY: Final = 32  # RFC 2104, section 3: an HMAC key is at least as long as the hash
_WIDEST: Final = {4: 8, 6: 16}  # shortest plausible prefix of the network of one's own proxies


def check(settings: Settings, reader: Reader) -> None:
    """Report all contradictions."""
    _check_server(settings, reader)
    _check_storage(settings, reader)
    _check_cache(settings, reader)
    _check_accounts(settings, reader)
    check_roles(settings, reader)
    check_tokens(settings, reader)
    _check_identity_headers(settings, reader)
    for name, upstream in settings.upstreams.items():
        _check_base_paths(f"upstreams.{name}", upstream, reader)
        _check_tls(f"upstreams.{name}", upstream, reader)
    check_routes(settings, reader)
    check_browsers(settings, reader)
    if is_everyone(settings.observability.operations_allow):
        reader.warn_at(
            "observability.operations_allow", "everyone-reads-metrics", "lets everyone read /_gateway/metrics"
        )


def is_everyone(networks: tuple[Network, ...]) -> bool:
    """Whether the networks together cover every IPv4 address or every global IPv6 address."""
    ipv4 = [network for network in networks if isinstance(network, IPv4Network)]
    ipv6 = [network for network in networks if isinstance(network, IPv6Network)]
    for network in ipv6:
        if network.supernet_of(_MAPPED_IPV4):
            return True
        if network.subnet_of(_MAPPED_IPV4):
            ipv4.append(IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96)))
    return _ALL_IPV4 in collapse_addresses(ipv4) or any(
        network.supernet_of(_ALL_IPV6) for network in collapse_addresses(ipv6)
    )


def _check_server(settings: Settings, reader: Reader) -> None:
    server = settings.server
    if is_everyone(server.trusted_proxies):
        # CVE-2026-40575, CVE-2026-76835: a trusted proxy can state any client address.
        found = ", ".join(map(str, server.trusted_proxies))
        message = f"must not cover every address, found {found} (the addresses of your own proxies)"
        reader.report_at("server.trusted_proxies", message)
    else:
        _warn_of_wide_networks(server.trusted_proxies, reader)
    _check_certificates(server.tls or (), reader)
    if server.operations_port and server.operations_port == server.port:
        message = f"must be another port than server.port, found {server.port} for both (another one)"
        reader.report_at("server.operations_port", message)


def _check_key_inside(path: str, certificate: str, key: str, file: str, reader: Reader) -> None:
    """Report a file of a certificate and its key that others can read. A key with a problem of its own is in another
    file."""
    if any(problem.key == f"{path}.{key}" for problem in reader.problems):
        return
    try:
        check_private(Path(file))
    except InvalidValue as error:
        reader.report_at(f"{path}.{certificate}", f"{error.message} ({error.right})")


def _check_certificates(certificates: tuple[CertificateSettings, ...], reader: Reader) -> None:
    """Report different rules for certificates of one listener. The server name that a client asks for must not let it
    avoid one."""
    for number, each in enumerate(certificates):
        if each.key is None:
            _check_key_inside(certificate_key(certificates, number), "certificate", "key", each.certificate, reader)
        for name in ("client_ca", "minimum"):
            if getattr(each, name) != getattr(certificates[0], name):
                message = "must be the same for all certificates of the listener (repeat it in each of them)"
                reader.report_at(f"{certificate_key(certificates, number)}.{name}", message)


def _warn_of_wide_networks(networks: tuple[Network, ...], reader: Reader) -> None:
    for index, network in enumerate(networks):
        # The versions are equal here, which the types cannot express.
        own = any(each.version == network.version and network.subnet_of(each) for each in _PRIVATE)  # type: ignore[arg-type]
        if network.prefixlen < _WIDEST[network.version] and not own:
            message = f"trusts {network.num_addresses} addresses, found {network} (your own proxies)"
            reader.warn_at(f"server.trusted_proxies[{index}]", "wide-trusted-proxies", message)


def _check_storage(settings: Settings, reader: Reader) -> None:
    workers = settings.server.workers
    in_memory = is_in_memory(settings.storage.database.reveal())
    if workers > 1 and settings.storage.redis is None and "storage.redis" not in reader.rejected:
        message = f"needs storage.redis, found {workers} workers without it (1, or set storage.redis)"
        reader.report_at("server.workers", message)
    if workers > 1 and in_memory:
        reader.report_at("storage.database", f"is in memory, which {workers} workers cannot share (a file)")
    elif in_memory:
        reader.warn_at(
            "storage.database", "database-in-memory", "is in memory: all accounts are lost when the gateway stops"
        )


def _check_cache(settings: Settings, reader: Reader) -> None:
    key = settings.cache.key
    length = _LEAST_CACHE_KEY if key is None else len(key.reveal().encode("utf-8", "surrogatepass"))
    if length < _LEAST_CACHE_KEY:
        message = f"must have at least {_LEAST_CACHE_KEY} bytes, found {length} (openssl rand -hex {_LEAST_CACHE_KEY})"
        reader.report_at("cache.key", message)


def _check_accounts(settings: Settings, reader: Reader) -> None:
    accounts = settings.accounts
    if accounts.password.bcrypt_rounds < 10:
        message = f"makes guessing cheap, found {accounts.password.bcrypt_rounds} rounds (10 or more)"
        reader.warn_at("accounts.password.bcrypt_rounds", "few-bcrypt-rounds", message)
    if accounts.password.min_length < 8:
        message = f"allows short passwords, found {accounts.password.min_length} (8 or more)"
        reader.warn_at("accounts.password.min_length", "short-passwords", message)
    granted = implied(accounts.default_roles, settings.roles or {})
    if accounts.registration == "open" and accounts.admin_role in granted:
        found = f"found '{accounts.admin_role}' among them"
        message = f"must not make every registered user an administrator, {found} (without it, or registration: closed)"
        reader.report_at("accounts.default_roles", message)


def _check_identity_headers(settings: Settings, reader: Reader) -> None:
    headers, assertion = settings.identity.headers, settings.identity.assertion
    names = {f"identity.headers.{key}": name for key, name in headers.names.items()}
    if assertion is not None:
        names["identity.assertion.header"] = assertion.header
    seen: dict[str, str] = {}
    for path, name in names.items():
        first = seen.setdefault(folded(name), path)
        if first != path:
            # Upstreams that fold names cannot distinguish them.
            reader.report_at(path, f"must differ from {first}, found '{name}' (another name)")


def _check_base_paths(path: str, upstream: UpstreamSettings, reader: Reader) -> None:
    """Report targets with different base paths: the path of a request must not depend on the choice of a target."""
    first = upstream.base_path if upstream.targets else ""
    for number, target in enumerate(upstream.targets):
        base = TargetAddress.of(target).base
        if base != first:
            found, right = quoted(base or "/"), quoted(first or "/")
            message = f"must have the base path of the first target, found {found} ({right}, or another upstream)"
            reader.report_at(f"{path}.targets[{number}]", message)


def _check_tls(path: str, upstream: UpstreamSettings, reader: Reader) -> None:
    tls = upstream.tls
    if not tls.verify:
        reader.warn_at(
            f"{path}.tls.verify",
            "unverified-tls",
            "lets an attacker on the network path impersonate the upstream (true, and tls.ca)",
        )
    if tls.client_cert is not None and tls.client_key is None:
        _check_key_inside(f"{path}.tls", "client_cert", "client_key", tls.client_cert, reader)
    if tls.client_key is not None and tls.client_cert is None:
        reader.report_at(f"{path}.tls.client_key", "has no effect without tls.client_cert (the certificate for it)")
    if f"{path}.tls" in reader.places.written and not any(t.startswith("https:") for t in upstream.targets):
        reader.warn_at(f"{path}.tls", "tls-without-https", "has no effect: no target is https://")


WARNINGS: Final[Mapping[str, str]] = {
    # ---- single values and sections; `gateway serve` logs these too
    "wide-trusted-proxies": "A trusted proxy can state any client address.",
    "database-in-memory": "Accounts and sessions are lost when the process ends.",
    "few-bcrypt-rounds": "An attacker with a stolen password table guesses passwords quickly.",
    "short-passwords": "An attacker can guess short passwords at the login.",
    "refresh-shorter-than-access": "The refresh token expires before the access token that it renews.",
    "long-leeway": "Tokens stay valid after their expiry.",
    "unmapped-roles": "The roles of an issuer have no effect unless `role_map` maps them to roles of the gateway.",
    "id-tokens-accepted": (
        "An ID token is meant for an application, not for an API. An application that receives one could use it here."
    ),
    "secret-in-file": "Everyone who can read the file can read the secret, and the secret stays in the file's history.",
    "unverified-tls": "An attacker on the network path can impersonate the upstream.",
    "tls-without-https": "The TLS settings have no effect.",
    "long-session": "A stolen cookie stays useful for as long as the session.",
    "keys-without-end": "An API key that a session creates outlives every session, without an end.",
    "no-mail": "People who forget their password cannot choose a new one by themselves.",
    "mail-in-a-folder": "No mail leaves the machine, and a reader of the folder can use the links.",
    "trusting-unverified-mail": (
        "Upstreams take an address that its user only claims for a verified one, and can join two accounts."
    ),
    "cors-without-session": (
        "Pages of an origin that `sessions.origins` does not list can read responses with cookies, but their "
        "state-changing requests are 403 `cross_site`."
    ),
    "optional-with-requirement": "`auth: optional` suggests that anonymous callers pass, but none does.",
    "everyone-reads-metrics": "Metrics reveal the names of routes and their traffic.",
    "unknown-allow": "A comment allows an unknown warning, so it silences nothing.",
    # ---- the policy as a whole; `gateway check` only
    "certificate-expires": "Clients refuse a certificate that has expired, or that is not valid yet.",
    "open-beside-restricted": (
        "An upstream that ignores case, or dots and spaces at the end of a segment, serves a restricted path in "
        "another spelling, through a broader route."
    ),
    "undeclared-role": "No user can receive this role, and without `roles:` a misspelt role goes unnoticed.",
    "unused-role": "No rule requires the role, or a role that it implies.",
    "unreachable-route": (
        "More specific routes match all of its paths. The path alone selects the route: for a method that they do "
        "not serve, the response is 405, never this route."
    ),
    "owner-not-an-id": "Only a user's id can match an owner; a segment with any other value matches no user.",
    "websocket-on-public-route": (
        "A page of any origin can open a WebSocket there with its visitor's network and cookies, without "
        "authentication."
    ),
    "credentials-in-clear": "The client's token crosses the network unencrypted.",
    "unused-upstream": "No route uses it.",
    "target-is-gateway": "The gateway forwards a request to itself until all connections of the upstream are in use.",
    "limit-by-proxy-address": (
        "A component in front of the gateway terminates TLS and is no trusted proxy: all callers have its address "
        "and share one count."
    ),
    "session-outlives-key": "The generated key exists only in memory: all sessions end with the process.",
    "open-registration": "With open registration, any stranger can use a route for any signed-in user.",
    "own-paths-hide": (
        "The gateway serves its own paths itself. A broad route never receives them, so an upstream with its own "
        "login at /auth is unreachable there."
    ),
    "foreign-pattern": (
        "Other routers write a parameter as `<id>`, `:id` or `[id]`. Here that is a literal, which matches no real "
        "request, so the rule protects nothing."
    ),
    "empty-roles": "`roles:` without a declared role disables the check of role names.",
    "host-hides-routes": "A request for a host that any route names matches only the routes of that host.",
    "any-host": (
        "An application that builds links from `Host` can be made to link to any site that a client names, and a "
        "cache stores the links."
    ),
    "weaker-method": "A route that writes asks for less than one that reads at the same place.",
    "fresh-on-read": "Readers must sign in again as well, although reads change nothing.",
    "cors-without-content-type": "A browser sends JSON only if the allowed headers include `Content-Type`.",
}


_KEY: Final = "observability.tracing"
_MODULES: Final = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def missing_extras(settings: Settings) -> tuple[Problem, ...]:
    """Problems for keys whose optional dependencies cannot be imported.

    The modules are imported, because a package can be incomplete or of an incompatible version.
    """
    if settings.observability.tracing is None:
        return ()
    for module in _MODULES:
        try:
            import_module(module)
        except Exception as error:  # any, because generated protobuf code raises its own types
            name = getattr(error, "name", None) or module
            message = f"needs {name}, which cannot be imported (pip install 'asgi-gateway[tracing]')"
            return (Problem(*settings.position_of(_KEY), _KEY, message),)
    return ()
