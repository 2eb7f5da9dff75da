"""The certificates of the public listener (`server.tls`): one TLS context for each, chosen by the name that the client
asks for (SNI, RFC 6066 3)."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509

from gateway.errors import CannotStart, Problem
from gateway.settings.model import Settings
from gateway.settings.model_tls import CertificateSettings, certificate_key
from gateway.settings.reader import InvalidValue
from gateway.settings.types_network import check_private

Certificates = tuple[CertificateSettings, ...]

SOON: Final = 14  # days before its end from which a certificate is reported
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class InvalidDate(NamedTuple):
    """A file with a certificate that ends soon, has ended or does not count yet. `key` names its setting."""

    key: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"the certificate in {self.file} {self.reason}"


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """Return the context for new connections. Raises CannotStart if a file is unusable."""
    contexts = [_context(each, certificate_key(certificates, number)) for number, each in enumerate(certificates)]
    names: dict[str, ssl.SSLContext] = {}
    for each, context in zip(certificates, contexts, strict=True):
        for name in _names(each):
            names.setdefault(name, context)
    if len(contexts) > 1:
        contexts[0].sni_callback = _chooser(names)
    return contexts[0]


def files_of(certificates: Certificates) -> list[Path]:
    """All files that the contexts are made from."""
    named = (name for each in certificates for name in (each.certificate, each.key, each.client_ca))
    return [Path(name) for name in named if name is not None]


def certificate_problems(settings: Settings) -> tuple[Problem, ...]:
    """The problems of the files, for `gateway check`."""
    certificates = settings.server.tls or ()
    problems = []
    for number, each in enumerate(certificates):
        key = certificate_key(certificates, number)
        try:
            _context(each, key)
        except CannotStart as error:
            message = str(error).removeprefix(f"{key}: ")
            problems.append(Problem(*settings.position_of(f"{key}.certificate"), f"{key}.certificate", message))
    return tuple(problems)


def expiry_warnings(settings: Settings) -> tuple[Problem, ...]:
    """The warnings of certificates with invalid dates, for `gateway check`."""
    found = (
        Problem(*settings.position_of(each.key), each.key, str(each), "certificate-expires")
        for each in invalid_dates(settings.server.tls or (), datetime.now(UTC))
    )
    return tuple(each for each in found if not settings.places.allows(each))


def invalid_dates(certificates: Certificates, now: datetime) -> Iterator[InvalidDate]:
    """Yield the files with a certificate that ends within SOON days or begins later. Unreadable files are reported
    elsewhere."""
    for number, each in enumerate(certificates):
        for name in ("certificate", "client_ca"):
            file = getattr(each, name)
            for reason in _invalid_dates(_read(file) if file else (), now):
                yield InvalidDate(f"{certificate_key(certificates, number)}.{name}", file, reason)


def _invalid_dates(chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    begins = max((one.not_valid_before_utc for one in chain), default=now)
    ends = min((one.not_valid_after_utc for one in chain), default=None)
    if begins > now:
        yield f"is not valid before {begins:%Y-%m-%d %H:%M} UTC (check the clock, or use another one until then)"
    if ends is None or (days := (ends - now).days) >= SOON:
        return
    if days < 0:
        yield f"expired on {ends:%Y-%m-%d} (renew it)"
    else:
        yield f"expires on {ends:%Y-%m-%d}, in {days} day{'' if days == 1 else 's'} (renew it)"


class _Connection(ssl.SSLObject):
    """Sends the alert of a failed handshake, which tells the client the reason (RFC 8446 6.2). An event loop drops the
    alert when a handshake raises an error, but not when it asks for more data. The client then closes the connection,
    or the time limit of the handshake does."""

    _has_failed = False

    def do_handshake(self) -> None:
        if self._has_failed:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the handshake has failed")
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._has_failed = True
            raise ssl.SSLWantReadError from error


def _context(certificate: CertificateSettings, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Connection
    context.minimum_version = _VERSIONS[certificate.minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could demand one handshake after another
    context.set_alpn_protocols(["http/1.1"])
    try:
        check_private(Path(certificate.key or certificate.certificate))
        # Without a password OpenSSL would prompt on the terminal and block the gateway.
        context.load_cert_chain(certificate.certificate, certificate.key, password="")
        if certificate.client_ca is not None:
            context.load_verify_locations(certificate.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except InvalidValue as error:
        raise CannotStart(f"{key}: {error.message} ({error.right})") from None
    except (OSError, ValueError) as error:
        raise CannotStart(f"{key}: cannot be used: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    return str(reason or getattr(error, "strerror", None) or error)


def _read(file: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(file).read_bytes())
    except (OSError, ValueError):
        return ()


def _names(certificate: CertificateSettings) -> list[str]:
    """The DNS names of a certificate (RFC 6125 6.4.4: its common name has no meaning)."""
    chain = _read(certificate.certificate)
    if not chain:
        return []
    try:
        alternatives = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]


_Choose = Callable[[ssl.SSLObject | ssl.SSLSocket, str | None, ssl.SSLContext], None]


def _chooser(names: dict[str, ssl.SSLContext]) -> _Choose:
    """Return the callback that chooses a context. An unknown name gets the first certificate.

    The settings of all contexts are equal except for the certificate, because OpenSSL takes the version and the demand
    for a client certificate from the first one.
    """

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        host = (name or "").lower().rstrip(".")
        chosen = names.get(host) or names.get(f"*.{host.partition('.')[2]}")
        if chosen is not None:
            connection.context = chosen

    return choose
