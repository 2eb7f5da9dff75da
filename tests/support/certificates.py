"""Certificates for listeners, as files."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """The pair as a value of `server.tls`."""
        return {"certificate": str(self.certificate), "key": str(self.key)}


class Issuer:
    """A certificate authority with a folder."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, to: str = "", days: float = 365.0, age: float = 400.0) -> Pair:
        """Write a certificate for these names that began `age` days ago and ends in this many days, and its key, over
        earlier ones."""
        now = datetime.now(UTC)
        issued = self._authority.issue_cert(
            *names, not_before=now - timedelta(days=age), not_after=now + timedelta(days=days)
        )
        stem = to or names[0].replace("*", "any")
        pair = Pair(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        pair.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        pair.key.touch(0o600)
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair

    def client(self, pair: Pair | None = None, *, highest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """The context of a client that trusts the authority and presents the pair."""
        context = ssl.create_default_context(cafile=str(self.file))
        context.check_hostname = False
        if highest is not None:
            context.minimum_version = min(highest, ssl.TLSVersion.TLSv1_2)
            context.maximum_version = highest
        if pair is not None:
            context.load_cert_chain(*map(str, pair))
        return context
