"""Locate the keys of an issuer: a configured URL, or OpenID Connect Discovery."""

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.identity.jws import strict_json
from gateway.issuers.fetching import Document, FetchFailed, fetch
from gateway.wire.urls import is_loopback, keeps_keys_safe

Fetch = Callable[[], Awaitable[Document]]

_WELL_KNOWN: Final = "/.well-known/openid-configuration"


def keys_at(address: str, *, insecure: bool = False) -> Fetch:
    """A fetch function for the key set at this address. `insecure` allows plain HTTP on any host."""
    return lambda: fetch(address, insecure=insecure)


def discovered_keys(issuer: str) -> Fetch:
    """A fetch function for the key set of an issuer, by OpenID Connect Discovery 1.0.

    It reads the OpenID configuration on every fetch, because the URL of the keys can change too.
    """

    async def fetch_keys() -> Document:
        # Section 4.1: a trailing `/` of the issuer is removed first.
        document = await fetch(issuer.removesuffix("/") + _WELL_KNOWN)
        return await fetch(_key_address(document.text, issuer))

    return fetch_keys


def _key_address(text: bytes, issuer: str) -> str:
    """The `jwks_uri` of an OpenID configuration. Raises FetchFailed if it is missing or unsafe."""
    try:
        configuration = strict_json(text)
    except ValueError:
        raise FetchFailed("the OpenID configuration is not JSON without repeated members") from None
    if not isinstance(configuration, dict):
        raise FetchFailed("the OpenID configuration is not a JSON object")
    # Section 4.3: must be identical, otherwise keys of another issuer would be accepted for this one.
    if configuration.get("issuer") != issuer:
        raise FetchFailed("the OpenID configuration belongs to another issuer")
    address = configuration.get("jwks_uri")
    if not isinstance(address, str) or not keeps_keys_safe(address):
        raise FetchFailed("the OpenID configuration has no https jwks_uri")
    # SSRF: a remote issuer must not direct requests to services on this machine.
    if is_loopback(address) and not is_loopback(issuer):
        raise FetchFailed("the OpenID configuration has a jwks_uri on this machine")
    return address
