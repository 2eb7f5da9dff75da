"""Delivery over SMTP: TLS, logins, refusals, and nothing on the wire that could be read or forged."""

import asyncio
import gc
import re
import warnings
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from gateway.accounts.mail.smtp import SmtpTransport
from gateway.accounts.mail.transport import DeliveryFailed, TransportDown
from tests.support.smtp import SmtpServer
from tests.support.upstreams import Authority

SENDER, ANN = "no-reply@example.com", "ann@example.com"


def message(to: str = ANN) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = SENDER, to, "Hello"
    made.set_content("Zażółć gęślą jaźń\n.\nQUIT\n")
    return made


async def send(address: str, recipient: str = ANN, sender: str = SENDER, record: list[str] | None = None) -> None:
    lines = [] if record is None else record
    transport = SmtpTransport(address, client_host="gateway.example.com", record=lines.append)
    async with transport.connect() as delivery:
        await delivery.send(message(), sender=sender, recipient=recipient)


def test_a_command_leaves_no_connection_open(smtp_server: SmtpServer) -> None:
    """Its event loop ends before the server answers the end of TLS."""

    async def interrupted() -> None:
        async with SmtpTransport(smtp_server.address, client_host="gateway.example.com").connect():
            smtp_server.pause(0.3)
            raise DeliveryFailed("not sent", is_permanent=True)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(DeliveryFailed):
            asyncio.run(interrupted())
        gc.collect()
    assert [warning.message for warning in found if warning.category is ResourceWarning] == []


async def test_a_mail_goes_through_starttls_with_its_envelope(smtp_server: SmtpServer) -> None:
    record: list[str] = []
    await send(smtp_server.address, record=record)
    (received,) = smtp_server.received
    assert (received.sender, received.recipient) == (SENDER, ANN)
    assert received.message.get_content().splitlines() == ["Zażółć gęślą jaźń", ".", "QUIT"]
    assert smtp_server.commands[0] == "EHLO gateway.example.com"
    assert any(re.match(r"TLSv1\.[23], certificate checked", line) for line in record), record


async def test_one_connection_carries_several_mails(smtp_server: SmtpServer) -> None:
    async with SmtpTransport(smtp_server.address, client_host="g").connect() as delivery:
        for _ in range(3):
            await delivery.send(message(), sender=SENDER, recipient=ANN)
    assert len(smtp_server.received) == 3
    assert smtp_server.connections == 2  # EHLO before and after STARTTLS


@pytest.fixture
def own_server(
    request: pytest.FixtureRequest, mail_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SmtpServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(mail_authority.file))
    options = dict(request.param)
    server = SmtpServer(mail_authority.context(options.pop("host", "localhost")), **options).start()
    yield server
    server.stop()


@pytest.mark.parametrize("own_server", [{"security": "tls"}, {"security": "none"}], indirect=True)
async def test_a_mail_goes_through_tls_from_the_start_and_without_tls_to_this_machine(own_server: SmtpServer) -> None:
    await send(own_server.address)
    assert len(own_server.received) == 1


@pytest.mark.parametrize("own_server", [{"security": "none"}], indirect=True)
async def test_a_server_without_starttls_gets_neither_mail_nor_password(own_server: SmtpServer) -> None:
    address = own_server.address.replace("smtp+plain://", "smtp://user:word@")
    with pytest.raises(TransportDown, match="STARTTLS"):
        await send(address)
    assert [command for command in own_server.commands if not command.startswith("EHLO")] == []


@pytest.mark.parametrize(
    "own_server",
    [{"host": "mail.other.example"}, {"host": "mail.other.example", "security": "tls"}],
    indirect=True,
)
async def test_a_certificate_for_another_host_is_refused(own_server: SmtpServer) -> None:
    with pytest.raises(TransportDown, match=r"[Cc]ertificate"):
        await send(own_server.address)
    assert own_server.received == []


async def test_a_certificate_of_an_unknown_authority_is_refused(
    smtp_server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TransportDown, match=r"[Cc]ertificate"):
        await send(smtp_server.address)
    assert smtp_server.received == []


@pytest.mark.parametrize("own_server", [{"passwords": {"user": "w@rd"}}], indirect=True)
async def test_a_login_uses_the_decoded_password_and_no_record_shows_it(own_server: SmtpServer) -> None:
    record: list[str] = []
    assert "w%40rd" in own_server.address
    await send(own_server.address, record=record)
    assert len(own_server.received) == 1
    assert "w@rd" not in "\n".join(record) and "dwB" not in "\n".join(record)


@pytest.mark.parametrize("own_server", [{"passwords": {"user": "right"}}], indirect=True)
async def test_a_wrong_password_is_an_outage_and_no_reason_to_drop_mails(own_server: SmtpServer) -> None:
    with pytest.raises(TransportDown, match="535"):
        await send(own_server.address.replace("right", "wrong"))


@pytest.mark.parametrize(("answer", "is_permanent"), [("550 no such user", True), ("451 try later", False)])
async def test_a_refused_recipient_is_reported_with_the_words_of_the_server(
    smtp_server: SmtpServer, answer: str, is_permanent: bool
) -> None:
    smtp_server.answers[ANN] = answer
    with pytest.raises(DeliveryFailed, match=answer) as failed:
        await send(smtp_server.address)
    assert failed.value.is_permanent is is_permanent


async def test_a_refused_sender_is_reported(smtp_server: SmtpServer) -> None:
    smtp_server.mail_answer = "553 sender not allowed"
    with pytest.raises(DeliveryFailed, match="553 sender not allowed") as failed:
        await send(smtp_server.address)
    assert failed.value.is_permanent


@pytest.mark.parametrize("own_server", [{"has_utf8": False}], indirect=True)
async def test_an_address_that_the_server_cannot_take_is_refused_for_good(own_server: SmtpServer) -> None:
    with pytest.raises(DeliveryFailed, match="SMTPUTF8") as failed:
        await send(own_server.address, recipient="änn@example.com")
    assert failed.value.is_permanent


async def test_a_server_that_is_down_is_an_outage(smtp_server: SmtpServer) -> None:
    smtp_server.stop()
    with pytest.raises(TransportDown, match="connecting"):
        await send(smtp_server.address)


@pytest.mark.parametrize("control", ["\r", "\n", "\r\n", "\0", "\x7f"])
@pytest.mark.parametrize("field", ["sender", "recipient"])
async def test_GHSA_v3q9_hj7j_63hq_no_control_character_reaches_the_wire(
    smtp_server: SmtpServer, field: str, control: str
) -> None:
    forged = f"ann@example.com>{control}RCPT TO:<eve@evil.example"
    sender, recipient = (forged, ANN) if field == "sender" else (SENDER, forged)
    with pytest.raises(DeliveryFailed, match="control character"):
        await send(smtp_server.address, recipient, sender)
    assert [command for command in smtp_server.commands if not command.startswith("EHLO")] == []


@pytest.mark.parametrize("address", ['"a b"@example.com', "a@example.com SIZE=1", "<a@example.com>", "a@b>c"])
async def test_an_address_with_spaces_or_brackets_reaches_no_command(smtp_server: SmtpServer, address: str) -> None:
    with pytest.raises(DeliveryFailed):
        await send(smtp_server.address, recipient=address)
    assert not any(command.startswith("RCPT") for command in smtp_server.commands)
