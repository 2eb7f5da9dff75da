"""Checks of token settings: keys that fit their algorithms, and distinct issuers."""

from collections.abc import Iterator
from typing import Final, TypeVar

from gateway.settings.model import ExternalSettings, KeySettings, Settings
from gateway.settings.reader import InvalidValue, Reader, quoted
from gateway.settings.syntax import web_address
from gateway.wire.addresses import is_trusted_transport

T = TypeVar("T")

# RFC 7518, section 3.2: a secret is at least as long as the hash.
_LEAST_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}


def check_tokens(settings: Settings, reader: Reader) -> None:
    """Report contradictory keys and issuers, and implausible times."""
    tokens = settings.tokens
    kids: dict[str, str] = {}
    for path, key in numbered("tokens.keys", tokens.keys, reader):
        _check_key(path, key, reader)
        first = kids.setdefault(key.kid, path)
        if first != path:
            reader.report_at(f"{path}.kid", f"must be unique, found '{key.kid}' in {first} too (another id)")
    if tokens.refresh_ttl < tokens.access_ttl:
        reader.warn_at(
            "tokens.refresh_ttl",
            "refresh-shorter-than-access",
            "is shorter than tokens.access_ttl, so refresh tokens expire first",
        )
    if tokens.leeway > 60:
        reader.warn_at("tokens.leeway", "long-leeway", "keeps tokens alive for more than a minute after their end (5s)")
    _check_assertion(settings, reader)
    names: dict[str, str] = {}
    issuers: dict[str, str] = {tokens.issuer: "tokens.issuer"}
    for path, external in numbered("tokens.external", tokens.external, reader):
        _check_unique(f"{path}.name", external.name, names, reader)
        _check_unique(f"{path}.issuer", external.issuer, issuers, reader)
        _check_external(path, external, reader)


def numbered(path: str, values: tuple[T, ...], reader: Reader) -> Iterator[tuple[str, T]]:
    """Each value with its path in the file. The indexes include values that could not be read."""
    index = 0
    for value in values:
        while f"{path}[{index}]" in reader.rejected:
            index += 1
        yield f"{path}[{index}]", value
        index += 1


def _check_key(path: str, key: KeySettings, reader: Reader) -> None:
    least = _LEAST_BYTES.get(key.algorithm)
    right, wrong = ("private_key", "secret") if least is None else ("secret", "private_key")
    if getattr(key, wrong) is not None:
        reader.report_at(f"{path}.{wrong}", f"does not belong to {key.algorithm} ({right})")
    if getattr(key, right) is None and f"{path}.{right}" not in reader.rejected:
        reader.report_at(f"{path}.{right}", f"is missing, which {key.algorithm} needs")
    if least is not None and key.secret is not None:
        length = len(key.secret.reveal().encode())
        if length < least:
            message = (
                f"must have at least {least} bytes for {key.algorithm}, found {length} (openssl rand -hex {least})"
            )
            reader.report_at(f"{path}.secret", message)


def _check_assertion(settings: Settings, reader: Reader) -> None:
    keys = settings.tokens.keys
    if settings.identity.assertion is not None and keys and keys[0].algorithm in _LEAST_BYTES:
        message = (
            f"needs a first key that upstreams can verify with, found {keys[0].algorithm}, which has no public key"
        )
        reader.report_at("identity.assertion", f"{message} (for example an ES256 key, first in tokens.keys)")


def _check_unique(path: str, value: str, seen: dict[str, str], reader: Reader) -> None:
    first = seen.setdefault(value, path)
    if first != path:
        reader.report_at(path, f"must be unique, found '{value}' at {first} too (another one)")


def _check_external(path: str, external: ExternalSettings, reader: Reader) -> None:
    if external.role_map and external.roles_claim is None and f"{path}.roles_claim" not in reader.rejected:
        message = "maps nothing without roles_claim (for example roles_claim: realm_access.roles)"
        reader.report_at(f"{path}.role_map", message)
    if external.roles_claim is not None and not external.role_map and f"{path}.role_map" not in reader.rejected:
        message = "has no effect without role_map, which maps its roles to roles of the gateway"
        reader.warn_at(f"{path}.roles_claim", "unmapped-roles", message)
    if external.id_tokens:
        message = "accepts ID tokens of this issuer as access tokens, if their audience fits (false, unless it is Dex)"
        reader.warn_at(f"{path}.id_tokens", "id-tokens-accepted", message)
    source = "issuer" if external.jwks_url is None else "jwks_url"
    if f"{path}.jwks_url" not in reader.rejected:
        _check_address(f"{path}.{source}", getattr(external, source), reader)


def _check_address(path: str, address: str, reader: Reader) -> None:
    """Check the address from which the keys of an issuer are fetched."""
    try:
        web_address(address)
    except InvalidValue as error:  # without jwks_url, discovery needs the issuer to be an address
        reader.report_at(path, f"{error.message} without jwks_url, found {quoted(address)} ({error.right})")
        return
    if not is_trusted_transport(address):
        message = f"is not https, found {quoted(address)}: an attacker on the network path could replace the keys"
        reader.report_at(path, f"{message} (https://{address.partition('://')[2]})")
