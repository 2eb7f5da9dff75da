"""Fetch small JSON documents from other servers through httpx, with limits on time and size.

All errors become FetchFailed. The import of httpx (60 ms, 8 MiB) is deferred to the first fetch and runs in a thread;
gateways without external issuers never import it.
"""

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.wire.addresses import is_loopback, is_trusted_transport

# Only annotations. A gateway without external issuers does not import httpx.
if TYPE_CHECKING:
    import ssl

    import httpx

MAX_SIZE: Final = 256 * 1024  # Bytes per document.
LIMIT: Final = 5.0  # Seconds, from name resolution to the last byte.

_MAX_AGE: Final = re.compile(r'(?:^|[\s,])max-age\s*=\s*"?(\d{1,9})"?(?=[\s,]|$)', re.IGNORECASE).search
_NOT_KEPT: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?=[\s,=]|$)", re.IGNORECASE).search


class FetchFailed(Exception):
    """A document could not be fetched; the text is the reason for the log."""


class Document(NamedTuple):
    """A fetched document. `max_age` is its freshness lifetime in seconds, None if the server states none."""

    text: bytes
    max_age: float | None


async def fetch(address: str, *, insecure: bool = False) -> Document:
    """Fetch a document from an https address, or from an http address on this machine; `insecure` allows http anywhere.
    Raises FetchFailed.

    Redirects are not followed: only the configuration decides where keys come from.
    """
    if not insecure and not is_trusted_transport(address):
        raise FetchFailed("not an https address")
    tls = await asyncio.to_thread(_tls)
    import httpx  # imported by the thread above

    try:
        async with asyncio.timeout(LIMIT), _client(address, tls) as client, client.stream("GET", address) as response:
            return await _read(response)
    # StreamError, InvalidURL and CookieConflict are not HTTPErrors. An invalid host name raises UnicodeError.
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict) as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from None
    except TimeoutError:
        raise FetchFailed(f"no whole answer within {LIMIT:g} seconds") from None
    except (OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from None


@lru_cache(maxsize=1)
def _tls() -> "ssl.SSLContext":
    """The trusted certificates: SSL_CERT_FILE if set, else the ones shipped with httpx."""
    import httpx  # Imported here: most gateways have no external issuer.

    return httpx.create_ssl_context()


def _client(address: str, tls: "ssl.SSLContext") -> "httpx.AsyncClient":
    """A client for one document. Requests to this machine bypass the proxies of the environment."""
    import httpx  # Imported here, as above.

    return httpx.AsyncClient(
        verify=tls,
        follow_redirects=False,
        timeout=LIMIT,
        trust_env=not is_loopback(address),
        # Uncompressed: a small body can decompress to gigabytes before the limit is checked.
        headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "gateway"},
    )


async def _read(response: "httpx.Response") -> Document:
    if response.status_code != 200:
        raise FetchFailed(f"answered {response.status_code}")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed("answered in an encoding that was not requested")
    parts, size = [], 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > MAX_SIZE:
            raise FetchFailed(f"over {MAX_SIZE} bytes")
    return Document(b"".join(parts), _max_age(response.headers.get("cache-control", "")))


def _max_age(cache_control: str) -> float | None:
    """The freshness lifetime of a response (RFC 9111 5.2.2)."""
    if _NOT_KEPT(cache_control):
        return 0.0
    found = _MAX_AGE(cache_control)
    return None if found is None else float(found[1])
