"""TLS contexts for upstreams, from the files that the settings name."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import CannotStart
from gateway.settings.model import UpstreamSettings

Stamp = tuple[tuple[int, int, int], ...]


class TlsContexts:
    """One context for each upstream with https targets.

    Creating one reads files and can take tens of milliseconds, so it does not run on the event loop of a serving
    gateway.
    """

    def __init__(self, upstreams: Mapping[str, UpstreamSettings]) -> None:
        """Raises CannotStart if the files of an upstream cannot be used."""
        # Take the stamps first: if a file changes in between, the next reload reads it again.
        self._stamps = {name: _stamp(upstream) for name, upstream in upstreams.items()}
        self._contexts = {name: _context(upstream) for name, upstream in upstreams.items()}

    def of(self, upstream: UpstreamSettings) -> ssl.SSLContext | None:
        """Return the context of an upstream; None if none of its targets uses TLS."""
        return self._contexts[upstream.name]

    def agree(self, other: "TlsContexts", upstream: UpstreamSettings) -> bool:
        """Return whether both were made from the same files. Renewed certificates keep their file names."""
        return self._stamps.get(upstream.name) == other._stamps.get(upstream.name)


def _files(upstream: UpstreamSettings) -> list[Path]:
    tls = upstream.tls
    return [Path(name) for name in (tls.ca, tls.client_cert, tls.client_key) if name is not None]


def _stamp(upstream: UpstreamSettings) -> Stamp:
    if not _is_secure(upstream):
        return ()
    try:
        states = [path.stat() for path in _files(upstream)]
    except OSError as error:
        raise _unusable(upstream, error) from None
    return tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states)


def _context(upstream: UpstreamSettings) -> ssl.SSLContext | None:
    if not _is_secure(upstream):
        return None
    tls = upstream.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.client_cert:
            # Without a password OpenSSL would prompt on the terminal and block the gateway.
            context.load_cert_chain(tls.client_cert, tls.client_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise _unusable(upstream, error) from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_secure(upstream: UpstreamSettings) -> bool:
    return any(target.lower().startswith("https:") for target in upstream.targets)


def _unusable(upstream: UpstreamSettings, error: OSError) -> CannotStart:
    return CannotStart(f"upstreams.{upstream.name}.tls: cannot be used: {error}")
