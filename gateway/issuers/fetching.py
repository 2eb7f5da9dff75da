"""Fetches a small document that somebody else serves, within limits of time and size, through httpx.

Errors of httpx stop here: whatever goes wrong is FetchFailed. httpx itself, with its 60 ms and 8 MiB, is imported for
the first document, beside the loop; gateways without other issuers never need it.
"""

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.loopback import is_loopback, keeps_keys_safe

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_SIZE: Final = 256 * 1024  # bytes of a document
LIMIT: Final = 5.0  # seconds, from the name to the last byte

_MAX_AGE: Final = re.compile(r'(?:^|[\s,])max-age\s*=\s*"?(\d{1,9})"?(?=[\s,]|$)', re.IGNORECASE).search
_NOT_KEPT: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?=[\s,=]|$)", re.IGNORECASE).search


class FetchFailed(Exception):
    """A document could not be had; the text says why, for the log."""


class Document(NamedTuple):
    """What was fetched, and for how many seconds its server lets it be used; None where it says nothing."""

    text: bytes
    max_age: float | None


async def fetch(address: str, *, insecure: bool = False) -> Document:
    """The document at an https address, or at an http one on this machine; `insecure`: anywhere. Raises FetchFailed.

    Redirects are not followed: where keys come from is for the configuration to say, and for nobody else.
    """
    if not insecure and not keeps_keys_safe(address):
        raise FetchFailed("not an https address")
    tls = await asyncio.to_thread(_tls)
    import httpx  # by now it is there

    try:
        async with asyncio.timeout(LIMIT), _client(address, tls) as client, client.stream("GET", address) as response:
            return await _read(response)
    # StreamError, InvalidURL and CookieConflict are no HTTPErrors; UnicodeError is what a bad host name raises.
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict) as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from None
    except TimeoutError:
        raise FetchFailed(f"no whole answer within {LIMIT:g} seconds") from None
    except (OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from None


@lru_cache(maxsize=1)
def _tls() -> "ssl.SSLContext":
    """What certificates are checked against: SSL_CERT_FILE where that is set, else those that httpx comes with."""
    import httpx

    return httpx.create_ssl_context()


def _client(address: str, tls: "ssl.SSLContext") -> "httpx.AsyncClient":
    """A client for one document. What is asked for on this machine goes to no proxy that the environment names."""
    import httpx

    return httpx.AsyncClient(
        verify=tls,
        follow_redirects=False,
        timeout=LIMIT,
        trust_env=not is_loopback(address),
        # Plain: a few bytes that unfold to gigabytes would be past the limit before it is looked at.
        headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "gateway"},
    )


async def _read(response: "httpx.Response") -> Document:
    if response.status_code != 200:
        raise FetchFailed(f"answered {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed("answered in an encoding that was not asked for")
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > MAX_SIZE:
            raise FetchFailed(f"over {MAX_SIZE} bytes")
    return Document(b"".join(parts), _max_age(response.headers.get("cache-control", "")))


def _max_age(cache_control: str) -> float | None:
    """RFC 9111 5.2.2: for how long an answer is fresh."""
    if _NOT_KEPT(cache_control):
        return 0.0
    found = _MAX_AGE(cache_control)
    return None if found is None else float(found[1])
