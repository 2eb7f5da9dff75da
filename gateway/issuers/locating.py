"""Where the keys of an issuer are: at a configured address, or where its OpenID configuration says."""

from collections.abc import Awaitable, Callable
from typing import Final

from gateway.identity.jws import strict_json
from gateway.issuers.fetching import Document, FetchFailed, fetch
from gateway.loopback import is_loopback, keeps_keys_safe

Fetch = Callable[[], Awaitable[Document]]

_WELL_KNOWN: Final = "/.well-known/openid-configuration"


def keys_at(address: str, *, insecure: bool = False) -> Fetch:
    """How to fetch the key set at this address; `insecure`: over plain HTTP, wherever that is."""
    return lambda: fetch(address, insecure=insecure)


def discovered_keys(issuer: str) -> Fetch:
    """How to fetch the key set of an issuer by OpenID Connect Discovery 1.0. The configuration is read each time: the
    address of the keys may change as the keys do."""

    async def fetch_keys() -> Document:
        # Section 4.1: a `/` at the end of the issuer is taken off first.
        document = await fetch(issuer.removesuffix("/") + _WELL_KNOWN)
        return await fetch(_key_address(document.text, issuer))

    return fetch_keys


def _key_address(text: bytes, issuer: str) -> str:
    """The `jwks_uri` of an OpenID configuration. Raises FetchFailed where it must not be used."""
    try:
        configuration = strict_json(text)
    except ValueError:
        raise FetchFailed("the OpenID configuration is not JSON without repeated members") from None
    if not isinstance(configuration, dict):
        raise FetchFailed("the OpenID configuration is not a JSON object")
    # Section 4.3: exactly the same, or another issuer's keys would be taken for this one's.
    if configuration.get("issuer") != issuer:
        raise FetchFailed("the OpenID configuration is another issuer's")
    address = configuration.get("jwks_uri")
    if not isinstance(address, str) or not keeps_keys_safe(address):
        raise FetchFailed("the OpenID configuration has no https jwks_uri")
    # An issuer elsewhere has nothing to say about what is served on this machine.
    if is_loopback(address) and not is_loopback(issuer):
        raise FetchFailed("the OpenID configuration has a jwks_uri on this machine")
    return address
