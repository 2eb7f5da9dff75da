"""What the keys of a configuration say together: contradictions and insecure settings are refused here.

Warnings are for what is legal, but dangerous. All of it runs on what could be read, so that these problems and those
of single values are reported side by side; a value that could not be read has its default, which is never wrong.
"""

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final

from gateway.settings.checks_roles import check_roles, implied
from gateway.settings.checks_routes import check_routes
from gateway.settings.checks_tokens import check_tokens
from gateway.settings.kinds_special import Network, folded
from gateway.settings.model import Settings, UpstreamSettings
from gateway.settings.reader import Reader

# Where every address that can be routed on the Internet lies; and IPv4 as a dual-stack socket shows it.
_ALL_IPV4: Final = IPv4Network("0.0.0.0/0")
_ALL_IPV6: Final = IPv6Network("2000::/3")
_MAPPED_IPV4: Final = IPv6Network("::ffff:0:0/96")
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "fc00::/7", "fe80::/10")))
_LEAST_CACHE_KEY: Final = 32  # RFC 2104 3: an HMAC key of at least the size of the hash
_WIDEST: Final = {4: 8, 6: 16}  # prefix length below which a network is hardly one's own


def check(settings: Settings, reader: Reader) -> None:
    """Report everything that does not fit together."""
    _check_server(settings, reader)
    _check_storage(settings, reader)
    _check_cache(settings, reader)
    _check_accounts(settings, reader)
    check_roles(settings, reader)
    check_tokens(settings, reader)
    _check_identity_headers(settings, reader)
    for name, upstream in settings.upstreams.items():
        _check_tls(f"upstreams.{name}", upstream, reader)
    check_routes(settings, reader)
    if is_everyone(settings.observability.operations_allow):
        reader.warn_at(
            "observability.operations_allow", "everyone-reads-metrics", "lets everyone read /_gateway/metrics"
        )


def is_everyone(networks: tuple[Network, ...]) -> bool:
    """Whether networks together hold every IPv4 or every global IPv6 address, in however many parts."""
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
        # CVE-2026-40575, CVE-2026-76835: whoever may say where he comes from is whoever he says.
        found = ", ".join(map(str, server.trusted_proxies))
        message = f"must not be everyone, found {found} (the addresses of your own proxies)"
        reader.report_at("server.trusted_proxies", message)
    else:
        _warn_of_wide_networks(server.trusted_proxies, reader)
    if server.operations_port and server.operations_port == server.port:
        message = f"must be another port than server.port, found {server.port} for both (another one)"
        reader.report_at("server.operations_port", message)


def _warn_of_wide_networks(networks: tuple[Network, ...], reader: Reader) -> None:
    for index, network in enumerate(networks):
        # Both are of one version here, which the types of `subnet_of` cannot see.
        own = any(each.version == network.version and network.subnet_of(each) for each in _PRIVATE)  # type: ignore[arg-type]
        if network.prefixlen < _WIDEST[network.version] and not own:
            message = f"believes {network.num_addresses} addresses, found {network} (your own proxies)"
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
            "storage.database", "database-in-memory", "is in memory: all accounts are gone when the gateway stops"
        )


def _check_cache(settings: Settings, reader: Reader) -> None:
    key = settings.cache.key
    length = _LEAST_CACHE_KEY if key is None else len(key.reveal().encode("utf-8", "surrogatepass"))
    if length < _LEAST_CACHE_KEY:
        message = f"must have at least {_LEAST_CACHE_KEY} bytes, found {length} (openssl rand -hex {_LEAST_CACHE_KEY})"
        reader.report_at("cache.key", message)


def is_in_memory(address: str) -> bool:
    """Whether a database address means a database that is gone with the process."""
    scheme, _, rest = address.partition("://")
    in_file = rest.removeprefix("/").partition("?")[0] not in ("", ":memory:") and "mode=memory" not in rest
    return scheme.startswith("sqlite") and not in_file


def _check_accounts(settings: Settings, reader: Reader) -> None:
    accounts = settings.accounts
    if accounts.password.bcrypt_rounds < 10:
        message = f"makes guessing cheap, found {accounts.password.bcrypt_rounds} rounds (10 or more)"
        reader.warn_at("accounts.password.bcrypt_rounds", "few-bcrypt-rounds", message)
    if accounts.password.min_length < 8:
        message = f"lets short passwords in, found {accounts.password.min_length} (8 or more)"
        reader.warn_at("accounts.password.min_length", "short-passwords", message)
    granted = implied(accounts.default_roles, settings.roles or {})
    if accounts.registration == "open" and accounts.admin_role in granted:
        found = f"found '{accounts.admin_role}' among them"
        message = (
            f"must not make everyone who registers an administrator, {found} (without it, or registration: closed)"
        )
        reader.report_at("accounts.default_roles", message)


def _check_identity_headers(settings: Settings, reader: Reader) -> None:
    headers, assertion = settings.identity.headers, settings.identity.assertion
    names = {f"identity.headers.{key}": getattr(headers, key) for key in ("id", "email", "roles")}
    if assertion is not None:
        names["identity.assertion.header"] = assertion.header
    seen: dict[str, str] = {}
    for path, name in names.items():
        first = seen.setdefault(folded(name), path)
        if first != path:
            # Upstreams that fold names could not tell them apart.
            reader.report_at(path, f"must differ from {first}, found '{name}' (another name)")


def _check_tls(path: str, upstream: UpstreamSettings, reader: Reader) -> None:
    tls = upstream.tls
    if not tls.verify:
        reader.warn_at(
            f"{path}.tls.verify",
            "unverified-tls",
            "lets anyone on the way pretend to be the upstream (true, and tls.ca)",
        )
    if tls.client_key is not None and tls.client_cert is None:
        reader.report_at(f"{path}.tls.client_key", "is of no use without tls.client_cert (the certificate for it)")
    if f"{path}.tls" in reader.places.written and not any(t.startswith("https:") for t in upstream.targets):
        reader.warn_at(f"{path}.tls", "tls-without-https", "has no effect: no target is https://")
