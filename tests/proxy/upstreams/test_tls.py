"""TLS to upstreams: trust, client certificates, and unusable files."""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.errors import CannotStart
from gateway.proxy.tls import TlsContexts
from gateway.settings.model import TlsSettings, UpstreamSettings
from tests.proxy.upstreams.harness import Outcome, running, settings
from tests.support.fleet import Behaviour, Fleet, Served

pytestmark = pytest.mark.usefixtures("either_engine")


class CertificateAuthority:
    """A certificate authority with certificates in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = self._write("ca.pem", self.authority.cert_pem.bytes())

    def _write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)

    def client(self, name: str = "gateway") -> tuple[str, str]:
        """A certificate and its key."""
        leaf = self.authority.issue_cert(name)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        return self._write(f"{name}.pem", chain), self._write(f"{name}.key", leaf.private_key_pem.bytes())

    def server(self, *names: str, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def guarded(certificates: CertificateAuthority) -> Iterator[Fleet]:
    """A target with a certificate for orders.internal that requires client certificates."""
    fleet = Fleet("a", tls=certificates.server("orders.internal", asks=True))
    yield fleet
    fleet.stop()


def secure(fleet: Fleet, **tls: Any) -> UpstreamSettings:
    return settings(fleet["a"].url, tls=TlsSettings(**tls), eject=None)


# ---- server names


async def test_a_target_that_requires_a_client_certificate_gets_it(
    certificates: CertificateAuthority, guarded: Fleet
) -> None:
    certificate, key = certificates.client()
    upstream = secure(
        guarded, ca=certificates.ca, client_cert=certificate, client_key=key, server_name="orders.internal"
    )
    async with running(upstream) as harness:
        assert {one.content for one in await harness.ask_many(20)} == {b"a"}


async def test_certificate_and_key_may_be_one_file(certificates: CertificateAuthority, guarded: Fleet) -> None:
    certificate, key = certificates.client()
    both = Path(certificate)
    both.write_bytes(both.read_bytes() + Path(key).read_bytes())
    async with running(
        secure(guarded, ca=certificates.ca, client_cert=certificate, server_name="orders.internal")
    ) as harness:
        assert (await harness.ask()).content == b"a"


REFUSED: dict[str, dict[str, Any]] = {
    "we do not say who we are": {},
    "it has another name": {"server_name": "billing.internal"},
    "it has no name but its address": {"server_name": None},
    "no authority has signed it": {"ca": None},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
async def test_a_target_with_another_certificate_gets_nothing(
    certificates: CertificateAuthority, guarded: Fleet, changes: dict[str, Any]
) -> None:
    certificate, key = certificates.client()
    tls: dict[str, str | None] = {
        "ca": certificates.ca,
        "server_name": "orders.internal",
        "client_cert": certificate,
        "client_key": key,
    }
    if not changes:
        tls |= {"client_cert": None, "client_key": None}
    async with running(secure(guarded, **(tls | changes))) as harness:
        outcome = await harness.ask()
    assert (outcome.status, outcome.code) == (502, "upstream_unreachable")
    assert guarded.requests == 0


async def test_without_verification_any_certificate_is_accepted(certificates: CertificateAuthority) -> None:
    fleet = Fleet("a", tls=certificates.server("somebody.else"))
    try:
        async with running(secure(fleet, verify=False)) as harness:
            assert (await harness.ask()).content == b"a"
    finally:
        fleet.stop()


async def test_a_target_that_does_not_speak_tls_is_unreachable(certificates: CertificateAuthority) -> None:
    fleet = Fleet("a")
    try:
        upstream = settings(fleet["a"].url.replace("http:", "https:"), connect_timeout=1.0)
        async with running(upstream) as harness:
            assert (await harness.ask()).code in ("upstream_unreachable", "upstream_timeout")
    finally:
        fleet.stop()
    assert fleet.requests == 0


def _cut(served: Served) -> None:
    """End the connection below TLS."""
    served.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
    below = served.transport.get_extra_info("socket")

    def end() -> None:
        with socket.socket(fileno=os.dup(below.fileno())) as copy:
            copy.shutdown(socket.SHUT_WR)

    served.later(0.05, end)


def _end(served: Served) -> None:
    served.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
    served.later(0.05, served.close)


@pytest.mark.parametrize(("behaviour", "whole"), [(_cut, False), (_end, True)], ids=["cut", "ended"])
def test_a_response_delimited_by_its_end_needs_close_notify(
    certificates: CertificateAuthority, behaviour: Behaviour, whole: bool
) -> None:
    """RFC 9112 9.8: without close_notify the response can be truncated by an attacker. (On the event loop of `serve`;
    asyncio's own does not distinguish the two ends.)"""
    fleet = Fleet("a", tls=certificates.server("orders.internal"))
    fleet["a"].behaviour = behaviour

    async def ask() -> Outcome:
        async with running(secure(fleet, ca=certificates.ca, server_name="orders.internal")) as harness:
            return await harness.ask()

    try:
        outcome = uvloop.run(ask())
    finally:
        fleet.stop()
    assert (outcome.status, outcome.content) == (200, b"whole")
    assert (outcome.aborted is None) is whole


# ---- files


def contexts(**tls: Any) -> TlsContexts:
    upstream = settings("https://127.0.0.1:1", tls=TlsSettings(**tls))
    return TlsContexts({upstream.name: upstream})


def test_plain_targets_have_no_context() -> None:
    upstream = settings("http://127.0.0.1:1", tls=TlsSettings(ca="/nowhere"))
    assert TlsContexts({"web": upstream}).of(upstream) is None


def test_all_targets_of_an_upstream_share_a_context(certificates: CertificateAuthority) -> None:
    upstream = settings("https://127.0.0.1:1", "HTTPS://127.0.0.1:2", tls=TlsSettings(ca=certificates.ca))
    made = TlsContexts({"web": upstream})
    assert made.of(upstream) is made.of(upstream)
    assert made.of(upstream) is not None


def unusable(certificates: CertificateAuthority) -> dict[str, dict[str, Any]]:
    certificate, key = certificates.client()
    _, foreign = certificates.client("somebody")
    secret = load_pem_private_key(Path(key).read_bytes(), None)
    locked = certificates.folder / "locked.key"
    locked.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"?")
        )
    )
    empty = certificates.folder / "empty.pem"
    empty.write_bytes(b"")
    return {
        "no such file": {"ca": str(certificates.folder / "nowhere.pem")},
        "a folder": {"ca": str(certificates.folder)},
        "an empty file": {"ca": str(empty)},
        "a key for a certificate": {"ca": key},
        "a certificate without a key": {"client_cert": certificate},
        "the key of another": {"client_cert": certificate, "client_key": foreign},
        "a key that asks for a password": {"client_cert": certificate, "client_key": str(locked)},
    }


def test_unusable_files_are_reported_with_their_upstream(certificates: CertificateAuthority) -> None:
    for what, tls in unusable(certificates).items():
        with pytest.raises(CannotStart, match=r"upstreams\.web\.tls: cannot be used: "):
            contexts(**tls)
            pytest.fail(what)


def test_files_that_were_renewed_are_noticed(certificates: CertificateAuthority) -> None:
    upstream = settings("https://127.0.0.1:1", tls=TlsSettings(ca=certificates.ca))
    before, again = contexts(ca=certificates.ca), contexts(ca=certificates.ca)
    assert before.agree(again, upstream)
    renewed = Path(certificates.ca).with_suffix(".new")
    renewed.write_bytes(trustme.CA().cert_pem.bytes())
    renewed.rename(certificates.ca)
    assert not before.agree(contexts(ca=certificates.ca), upstream)
