"""Identity headers about the credential of a request. All others are about the user, see principal.py."""

from gateway.identity.principal import identity_value
from gateway.identity.user import Claims
from gateway.settings.model import HeaderSettings


class CredentialLines:
    """Makes the header lines of `identity.headers.acr` and `.session`, where they are configured.

    API keys and tokens of external issuers have no session here, and say nothing about an authentication: they have
    neither line.
    """

    def __init__(self, headers: HeaderSettings) -> None:
        self._acr = headers.acr
        self._session = headers.session

    @classmethod
    def of(cls, headers: HeaderSettings) -> "CredentialLines | None":
        """The lines of a configuration, None if it names neither header."""
        return None if headers.acr is None and headers.session is None else cls(headers)

    def __call__(self, claims: Claims) -> bytes:
        lines = b""
        if self._acr is not None and claims.acr:
            lines += _line(self._acr, claims.acr)
        if self._session is not None and has_session(claims):
            lines += _line(self._session, claims.session)
        return lines


def has_session(claims: Claims) -> bool:
    """Whether the credential belongs to a session of the gateway."""
    return claims.kind in ("session", "token")


def _line(name: str, value: str) -> bytes:
    return b"%b: %b\r\n" % (name.encode("ascii"), identity_value(value))
