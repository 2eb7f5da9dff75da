"""How TLS is spoken to upstreams: contexts made of the files that the settings name."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import CannotStart
from gateway.settings.model import UpstreamSettings

Stamp = tuple[tuple[int, int, int], ...]


class TlsContexts:
    """One context for each upstream that has https targets.

    Making one reads files and may take tens of milliseconds, so it is not done on the loop of a gateway that serves.
    """

    def __init__(self, upstreams: Mapping[str, UpstreamSettings]) -> None:
        """Raises CannotStart when the files of one cannot be used."""
        # The stamp first: of files that change meanwhile, the next reload must not think that it knows them.
        self._stamps = {name: _stamp(upstream) for name, upstream in upstreams.items()}
        self._contexts = {name: _context(upstream) for name, upstream in upstreams.items()}

    def of(self, upstream: UpstreamSettings) -> ssl.SSLContext | None:
        """The context of an upstream; None where all of its targets are plain."""
        return self._contexts[upstream.name]

    def agree(self, other: "TlsContexts", upstream: UpstreamSettings) -> bool:
        """Whether both were made of the same files: certificates are renewed under the same names."""
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
            # Without a password OpenSSL would ask for one on the terminal, and a gateway would wait there for ever.
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
