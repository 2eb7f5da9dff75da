"""TLS on the public listener: certificates, versions, client certificates, renewal, and clients that misbehave."""

import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
import yaml

from bench.stores.valkey import ValkeyServer
from tests.server.changing import configuration_of, reload
from tests.support.certificates import Issuer, Pair
from tests.support.gateways import unhandled
from tests.support.processes import Gateway, free_port, write_configuration
from tests.support.processes import command as run
from tests.support.raw import Caller
from tests.support.recording import RecordingUpstream
from tests.support.scripts import answer
from tests.support.small import Start, small
from tests.support.waiting import eventually
from tests.support.websockets import echoing
from tests.support.wording import request

SHOP, OTHER = "shop.example.com", "a.example.org"
GET = request("/web/x", host=SHOP)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    started = RecordingUpstream()
    yield started
    started.stop()


def settings(*pairs: Pair, **more: object) -> dict[str, Any]:
    """`server` with these certificates. The operations port stays in clear, so the harness can ask for readiness."""
    tls = [pair.settings | more for pair in pairs]
    return {"tls": tls if len(tls) > 1 else tls[0], "operations_port": free_port()}


@pytest.fixture(scope="module")
def gateway(issuer: Issuer, upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two certificates."""
    folder = tmp_path_factory.mktemp("gateway")
    server = settings(issuer.issue(SHOP, "localhost"), issuer.issue("*.example.org", "example.org"))
    configuration = small(folder, {"web": upstream.url}, server=server)
    configuration["routes"][0]["websocket"] = True
    gateway = Gateway("serve", configuration, folder).start()
    yield gateway
    gateway.kill()
    assert not unhandled(gateway), unhandled(gateway)[0]


def names(gateway: Gateway, client: ssl.SSLContext, name: str | None) -> list[str]:
    """The names of the certificate that a client gets which asks for this name."""
    with (
        socket.create_connection(gateway.address, timeout=5) as raw,
        client.wrap_socket(raw, server_hostname=name) as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate is not None
        alternatives: Any = certificate["subjectAltName"]
        return [value for _, value in alternatives]


def serial(gateway: Gateway, client: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection gets."""
    with socket.create_connection(gateway.address, timeout=5) as raw, client.wrap_socket(raw) as secure:
        certificate = secure.getpeercert()
        assert certificate is not None
        number: Any = certificate["serialNumber"]
        return str(number)


# ---- clients


def test_curl_gets_a_response_over_https(gateway: Gateway, issuer: Issuer, upstream: RecordingUpstream) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    port = gateway.address[1]
    command = ["curl", "-sS", "--cacert", str(issuer.file), "--resolve", f"{SHOP}:{port}:127.0.0.1"]
    command += ["-w", " %{http_version} %{ssl_verify_result}", f"https://{SHOP}:{port}/web/x"]
    upstream.forget()
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("upstream 1.1 0", "")
    received = upstream.only
    assert received.values("x-forwarded-proto") == [b"https"]
    assert received.values("x-forwarded-port") == [str(port).encode()]
    assert received.values("host") == [f"{SHOP}:{port}".encode()]


def test_httpx_sends_and_receives_large_bodies_on_one_connection(
    gateway: Gateway, issuer: Issuer, upstream: RecordingUpstream
) -> None:
    upstream.forget()
    upstream.on("/web/large", answer(200, body=b"y" * 3_000_000))
    url = f"https://localhost:{gateway.address[1]}/web"
    with httpx.Client(verify=issuer.client(), trust_env=False) as client:
        for _ in range(3):
            assert client.get(f"{url}/large").content == b"y" * 3_000_000
            assert client.post(f"{url}/upload", content=b"z" * 1_000_000).text == "upstream"
    assert [len(each.body) for each in upstream.requests if each.method == b"POST"] == [1_000_000] * 3


def test_openssl_verifies_the_certificate_and_negotiates_http_1_1(gateway: Gateway, issuer: Issuer) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.address[1]}", "-servername", SHOP, "-brief"]
    command += ["-CAfile", str(issuer.file), "-verify_return_error", "-alpn", "h2,http/1.1", "-verify_hostname", SHOP]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=20, check=False)
    assert "Verification: OK" in done.stderr
    assert "Protocol version: TLSv1.3" in done.stderr


def test_a_websocket_opens_over_tls(gateway: Gateway, issuer: Issuer, upstream: RecordingUpstream) -> None:
    upstream.on("/web/chat", echoing())
    url = f"wss://localhost:{gateway.address[1]}/web/chat"
    with websockets.sync.client.connect(url, ssl=issuer.client(), proxy=None) as client:
        client.send("hello")
        assert client.recv(timeout=5) == "hello"


def test_the_address_is_announced_with_https(gateway: Gateway) -> None:
    assert f"https://127.0.0.1:{gateway.address[1]}" in gateway.log()


# ---- certificates by name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (SHOP, [SHOP, "localhost"]),
        ("SHOP.example.com", [SHOP, "localhost"]),
        (OTHER, ["*.example.org", "example.org"]),
        ("example.org", ["*.example.org", "example.org"]),
        ("a.b.example.org", [SHOP, "localhost"]),
        ("unknown.test", [SHOP, "localhost"]),
        (None, [SHOP, "localhost"]),
    ],
)
def test_the_server_name_selects_the_certificate(
    gateway: Gateway, issuer: Issuer, name: str | None, expected: list[str]
) -> None:
    assert names(gateway, issuer.client(), name) == expected


# ---- versions and client certificates


@pytest.mark.parametrize(
    ("minimum", "highest", "accepted"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        (1.3, ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_the_minimum_version_is_enforced(
    start: Start, issuer: Issuer, upstream: RecordingUpstream, minimum: object, highest: ssl.TLSVersion, accepted: bool
) -> None:
    server = settings(issuer.issue(SHOP), issuer.issue(OTHER), minimum=minimum)
    gateway = start({"web": upstream.url}, server=server)
    for name in (SHOP, OTHER):
        if accepted:
            assert names(gateway, issuer.client(highest=highest), name) == [name]
        else:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                names(gateway, issuer.client(highest=highest), name)


def answered(gateway: Gateway, client: ssl.SSLContext, name: str = SHOP) -> int:
    """The status of a request, 0 if the handshake fails. With TLS 1.3 a client learns of that after it."""
    try:
        with (
            socket.create_connection(gateway.address, timeout=5) as raw,
            client.wrap_socket(raw, server_hostname=name) as secure,
        ):
            secure.sendall(GET)
            line = secure.recv(4096).split(b" ")
            return int(line[1]) if len(line) > 1 else 0
    except OSError:
        return 0


def test_a_client_certificate_is_required_for_every_name(
    start: Start, issuer: Issuer, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    server = settings(issuer.issue(SHOP), issuer.issue(OTHER), client_ca=str(issuer.file))
    gateway = start({"web": upstream.url}, server=server)
    stranger = Issuer(tmp_path).issue("client.test")
    for name in (SHOP, OTHER, "unknown.test"):
        assert answered(gateway, issuer.client(), name) == 0
        assert answered(gateway, issuer.client(stranger), name) == 0
        assert answered(gateway, issuer.client(issuer.issue("client.test")), name) == 200


def test_a_client_learns_why_its_handshake_fails(
    start: Start, issuer: Issuer, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP), client_ca=str(issuer.file)))
    stranger = Issuer(tmp_path).issue("client.test")
    expired = issuer.issue("expired.test", days=-1.0)
    for pair, reason in ((None, "CERTIFICATE_REQUIRED"), (stranger, "UNKNOWN_CA"), (expired, "CERTIFICATE_EXPIRED")):
        with (
            Caller(gateway.address, tls=issuer.client(pair)) as caller,
            pytest.raises(ssl.SSLError, match=reason),
        ):
            caller.send(GET).receive()


def test_a_client_certificate_is_required_from_the_next_connection_after_a_reload(
    start: Start, issuer: Issuer, upstream: RecordingUpstream
) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP)))
    client = issuer.client()
    assert answered(gateway, client) == 200
    configuration = configuration_of(gateway)
    configuration["server"]["tls"]["client_ca"] = str(issuer.file)
    with Caller(gateway.address, tls=client) as earlier:
        reload(gateway, configuration)
        assert earlier.send(GET).receive().status == 200, "an open connection stays"
    assert answered(gateway, client) == 0, "a resumed session is no way around it"
    assert answered(gateway, issuer.client(issuer.issue("client.test"))) == 200


# ---- renewal


def test_renewed_files_are_used_without_a_signal_and_without_a_lost_connection(
    start: Start, issuer: Issuer, upstream: RecordingUpstream
) -> None:
    pair = issuer.issue(SHOP, to="renewed")
    gateway = start({"web": upstream.url}, server=settings(pair))
    client = issuer.client()
    before = serial(gateway, client)
    with Caller(gateway.address, tls=client) as earlier:
        assert earlier.send(GET).receive().status == 200
        old_key = pair.key.read_bytes()
        issuer.issue(SHOP, to="renewed")
        new_key = pair.key.read_bytes()
        pair.key.write_bytes(old_key)
        eventually(lambda: "the key does not belong to the certificate" in gateway.log())
        assert serial(gateway, client) == before, "a certificate without its key changes nothing"
        pair.key.chmod(0o640)
        pair.key.write_bytes(new_key)
        eventually(lambda: "can be read by others, its mode is 0640" in gateway.log())
        assert serial(gateway, client) == before, "the next start would refuse this key"
        pair.key.chmod(0o600)
        eventually(lambda: serial(gateway, client) != before)
        assert earlier.send(GET).receive().status == 200


def test_a_reload_uses_other_files_and_watches_them(start: Start, issuer: Issuer, upstream: RecordingUpstream) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP, to="one", days=5.5)))
    assert "one.pem expires on" in gateway.log()
    client = issuer.client()
    configuration = configuration_of(gateway)
    configuration["server"]["tls"] = issuer.issue(OTHER, to="two").settings
    reload(gateway, configuration)
    assert names(gateway, client, SHOP) == [OTHER]
    issuer.issue("c.example.org", to="two")
    eventually(lambda: names(gateway, client, SHOP) == ["c.example.org"])


def test_a_reload_with_unusable_files_is_refused(start: Start, issuer: Issuer, upstream: RecordingUpstream) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP)))
    configuration = configuration_of(gateway)
    configuration["server"]["tls"]["key"] = str(issuer.issue(OTHER).key)
    log = reload(gateway, configuration)
    assert "the key does not belong to the certificate" in log
    assert answered(gateway, issuer.client()) == 200


def test_turning_tls_off_takes_a_restart(start: Start, issuer: Issuer, upstream: RecordingUpstream) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP)))
    configuration = configuration_of(gateway)
    del configuration["server"]["tls"]
    reload(gateway, configuration)
    eventually(lambda: "server.tls has changed, which takes a restart" in gateway.log())
    assert answered(gateway, issuer.client()) == 200


def test_every_worker_serves_tls_and_renews(
    start: Start, issuer: Issuer, upstream: RecordingUpstream, lasting_valkey: ValkeyServer
) -> None:
    server = {**settings(issuer.issue(SHOP, to="workers")), "workers": 2}
    gateway = start({"web": upstream.url}, server=server, storage={"redis": lasting_valkey.url})
    client = issuer.client()
    assert answered(gateway, client) == 200
    before = serial(gateway, client)
    issuer.issue(SHOP, to="workers")
    eventually(lambda: gateway.log().count("renewed certificates are in force") == 2)
    assert before not in {serial(gateway, client) for _ in range(20)}
    assert gateway.stop() == 0


# ---- clients that misbehave


@pytest.fixture(scope="module")
def hurried(issuer: Issuer, upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits half a second for a head, and takes one connection."""
    folder = tmp_path_factory.mktemp("hurried")
    server = settings(issuer.issue(SHOP)) | {"header_timeout": "500ms", "max_connections": 1}
    gateway = Gateway("serve", small(folder, {"web": upstream.url}, server=server), folder).start()
    yield gateway
    gateway.kill()
    assert not unhandled(gateway), unhandled(gateway)[0]


def test_a_request_in_clear_is_answered_with_the_reason(gateway: Gateway) -> None:
    with Caller(gateway.address) as caller:
        answer = caller.send(GET).receive()
        assert answer.refused() == (400, "bad_request")
        assert answer.json()["detail"] == "This port serves HTTPS only"
        assert caller.ended()[0] == "fin"


@pytest.mark.parametrize("data", [b"\x80\x2e\x01\x00\x02", b"\x00" * 100, b"\r\n"])
def test_other_bytes_are_not_answered(gateway: Gateway, data: bytes) -> None:
    with Caller(gateway.address) as caller:
        caller.send(data)
        assert caller.ended()[1] == b""


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_a_client_that_does_not_finish_its_handshake_is_dropped(hurried: Gateway, data: bytes) -> None:
    with Caller(hurried.address) as caller:
        caller.send(data)
        assert caller.ended(within=3.0)[1] == b""


def test_a_client_that_finishes_its_handshake_and_sends_nothing_is_dropped(hurried: Gateway, issuer: Issuer) -> None:
    with Caller(hurried.address, tls=issuer.client()) as caller:
        assert caller.ended(within=5.0)[1] == b""


def test_connections_before_their_handshake_count_towards_the_limit(hurried: Gateway) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(hurried.address)) for _ in range(300)]
        dropped = 0
        for caller in reversed(callers):  # the last ones are beyond the limit
            caller.socket.settimeout(0.2)
            try:
                dropped += caller.socket.recv(1) == b""
            except TimeoutError:
                break
        assert 30 <= dropped <= 50


def test_a_slow_handshake_does_not_delay_other_clients(gateway: Gateway, issuer: Issuer) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(Caller(gateway.address)).send(b"\x16\x03\x01")
        assert answered(gateway, issuer.client()) == 200


def test_the_drain_does_not_wait_for_a_client_that_ignores_the_end(
    start: Start, issuer: Issuer, upstream: RecordingUpstream
) -> None:
    gateway = start({"web": upstream.url}, server=settings(issuer.issue(SHOP)) | {"drain": "20s"})
    with ExitStack() as stack:
        idle = stack.enter_context(Caller(gateway.address, tls=issuer.client()))
        assert idle.send(GET).receive().status == 200
        stack.enter_context(Caller(gateway.address)).send(b"\x16\x03\x01")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(within=8.0) == 0


def test_a_response_with_connection_close_arrives_whole(
    gateway: Gateway, issuer: Issuer, upstream: RecordingUpstream
) -> None:
    upstream.on("/web/close", answer(200, body=b"y" * 3_000_000))
    with Caller(gateway.address, tls=issuer.client(), receive_buffer=4096) as caller:
        got = caller.send(request("/web/close", host=SHOP, fields=["Connection: close"])).receive()
        assert got.whole
        assert len(got.body) == 3_000_000


# ---- gateway check


def checked(tmp_path: Path, tls: object, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of `gateway check`."""
    configuration = small(tmp_path, {"web": "http://127.0.0.1:1"}, server={"tls": tls})
    done = run(write_configuration(tmp_path, yaml.safe_dump(configuration)), "check", *arguments)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("days", "message"),
    [(5.5, "in 5 days (renew it)"), (1.5, "in 1 day (renew it)"), (-3.0, "expired on "), (13.5, "in 13 days")],
)
def test_check_warns_of_a_certificate_that_ends_soon(issuer: Issuer, tmp_path: Path, days: float, message: str) -> None:
    pair = issuer.issue(SHOP, to="soon", days=days)
    code, output = checked(tmp_path, pair.settings)
    assert code == 0
    assert message in output
    assert "(warning: certificate-expires)" in output
    assert "server.tls.certificate:" in output
    assert checked(tmp_path, pair.settings, "--strict")[0] == 1


def test_check_warns_of_a_certificate_that_is_not_valid_yet(issuer: Issuer, tmp_path: Path) -> None:
    code, output = checked(tmp_path, issuer.issue(SHOP, to="early", age=-2.0).settings)
    assert code == 0
    assert "early.pem is not valid before 2" in output
    assert "(warning: certificate-expires)" in output


def test_check_names_the_one_of_several_certificates_that_ends_soon(issuer: Issuer, tmp_path: Path) -> None:
    tls = [issuer.issue(SHOP).settings, issuer.issue(OTHER, days=2.5).settings]
    assert "server.tls[1].certificate:" in checked(tmp_path, tls)[1]
    assert "certificate-expires" not in checked(tmp_path, issuer.issue(SHOP, days=20).settings)[1]


@pytest.mark.parametrize(
    "kind", ["another key", "not a certificate", "a key of others", "a key beside it", "different minimums"]
)
def test_check_reports_unusable_certificates(issuer: Issuer, tmp_path: Path, kind: str) -> None:
    pair, other = issuer.issue(SHOP), issuer.issue(OTHER)
    empty, public = tmp_path / "empty.pem", tmp_path / "public.key"
    empty.write_text("")
    public.write_bytes(pair.key.read_bytes())
    public.chmod(0o644)
    both = tmp_path / "both.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    both.chmod(0o644)
    tls, message = {
        "another key": (pair._replace(key=other.key).settings, "tls.certificate: cannot be used: the key does not"),
        "not a certificate": (pair._replace(certificate=empty).settings, "server.tls.certificate: cannot be used"),
        "a key of others": (pair._replace(key=public).settings, "chmod 600"),
        "a key beside it": ({"certificate": str(both)}, "server.tls.certificate: the file "),
        "different minimums": ([pair.settings, other.settings | {"minimum": "1.3"}], "server.tls[1].minimum: must be"),
    }[kind]
    code, output = checked(tmp_path, tls)
    assert code == 2
    assert message in output
