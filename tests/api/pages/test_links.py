"""The pages of links over the wire, with mails in a folder."""

import email
import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.api.pages.visitors import Visitor, text_of
from tests.support.browsers import ORIGIN, SETTINGS
from tests.support.gateways import unhandled
from tests.support.processes import PASSWORD, Gateway
from tests.support.small import small
from tests.support.waiting import eventually
from tests.support.wording import bearer

ANOTHER = "another long sentence"


class Mailbox:
    """The mails of a gateway, which are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wait(self, recipient: str, count: int = 1) -> list[EmailMessage]:
        """The mails to an address, oldest first, once there are so many."""

        def found() -> list[EmailMessage]:
            files = sorted(self.folder.glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)
            mails = [email.message_from_bytes(file.read_bytes(), policy=default) for file in files]
            return [mail for mail in mails if isinstance(mail, EmailMessage) and mail["To"] == recipient]

        eventually(lambda: len(found()) >= count, timeout=10, every=0.05)
        return found()

    def link(self, recipient: str, count: int = 1) -> str:
        """The path and query of the link in the newest mail."""
        body = self.wait(recipient, count)[-1].get_body(("plain",))
        assert body is not None
        [url] = re.findall(r"https://\S+\?token=\S+", body.get_content())
        assert url.startswith(f"{ORIGIN}/account/")
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


def configuration(folder: Path, verification: str) -> dict[str, Any]:
    return small(
        folder,
        {"open": "http://127.0.0.1:9"},
        server=SETTINGS["server"],
        sessions=SETTINGS["sessions"],
        accounts={
            "password": {"bcrypt_rounds": 4},
            "registration_limit": None,
            "pages": {"name": "Northwind", "languages": ["en", "de"]},
            "email": {"verification": verification},
        },
        roles={"admin": ["user"], "user": []},
        observability={"access_log": "json", "decision_log": {"allows": 1.0}},
        mail={
            "from": "Northwind <no-reply@gateway.test>",
            "folder": str(folder / "mail"),
            "limits": {"per_recipient": 100, "per_address": 1000},
        },
    )


@pytest.fixture(scope="module")
def optional(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("optional")
    gateway = Gateway("asgi", configuration(folder, "optional"), folder).start()
    yield gateway
    gateway.stop()
    assert unhandled(gateway) == []
    assert "gwl_" not in gateway.log(), "a log contains a token"


@pytest.fixture(scope="module")
def required(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("required")
    gateway = Gateway("serve", configuration(folder, "required"), folder).start()
    yield gateway
    gateway.stop()
    assert unhandled(gateway) == []
    assert "gwl_" not in gateway.log(), "a log contains a token"


def mailbox(gateway: Gateway) -> Mailbox:
    return Mailbox(gateway.folder / "mail")


def register(gateway: Gateway, address: str) -> Visitor:
    """A visitor who has registered on the page and is signed in."""
    visitor = Visitor(gateway)
    answer = visitor.submit("/account/register?return_to=%2Faccount", email=address, new_password=PASSWORD)
    assert (answer.status, answer.value("location")) == (303, b"/account"), answer.body
    return visitor


def test_registration_signs_in_and_a_link_verifies_the_address(optional: Gateway) -> None:
    visitor = register(optional, "ada@example.com")
    assert "Not verified" in text_of(visitor.open("/account"))
    link = mailbox(optional).link("ada@example.com")
    for _ in range(10):  # mail scanners open links
        html = text_of(visitor.open(link))
    assert "Confirm that" in html
    assert Visitor(optional).open(link).status == 200
    answer = visitor.submit(link, action="verify")
    assert (answer.status, answer.value("location")) == (303, b"/account?done=verified")
    html = text_of(visitor.open("/account?done=verified"))
    assert "Your e-mail address is verified." in html and "Not verified" not in html
    again = visitor.submit(link, action="verify")
    assert (again.status, "This link is not valid any more" in text_of(again)) == (400, True)


def test_a_verification_link_asks_a_stranger_for_the_password(optional: Gateway) -> None:
    register(optional, "bob@example.com")
    link, stranger = mailbox(optional).link("bob@example.com"), Visitor(optional)
    assert "Enter the password of" in text_of(stranger.open(link))
    assert stranger.submit(link, action="verify").status == 422
    assert stranger.submit(link, password="wrong").status == 401
    answer = stranger.submit(link, password=PASSWORD)
    assert (answer.status, answer.value("location")) == (303, b"/account/sign-in?done=email-verified")


def test_a_new_password_with_the_link_takes_the_account_over(optional: Gateway) -> None:
    """CVE-2026-53516: a stranger registers an address before its owner does."""
    stranger = register(optional, "eve@example.com")
    link, owner = mailbox(optional).link("eve@example.com"), Visitor(optional)
    assert owner.submit(link, new_password="short").status == 422
    assert owner.submit(link, new_password=ANOTHER).status == 303
    assert stranger.session() == {"signed_in": False}
    owner.enter("eve@example.com", ANOTHER)


def test_registration_by_mail_reveals_nothing_and_creates_the_account_by_its_link(required: Gateway) -> None:
    visitor = Visitor(required)
    pages = []
    for address in ("new@example.com", "new@example.com", "other@example.com"):
        answer = visitor.submit("/account/register", email=address)
        pages.append((answer.status, answer.value("location"), answer.body))
    assert set(pages) == {(303, b"/account/register?done=mail", b"")}
    assert "We have sent a message to your address." in text_of(visitor.open("/account/register?done=mail"))
    link = mailbox(required).link("new@example.com", 2)
    assert "Choose a password for" in text_of(visitor.open(link))
    refused = visitor.submit(link, new_password="password123")
    assert (refused.status, "first that attackers try" in text_of(refused)) == (422, True)
    answer = visitor.submit(link, new_password=PASSWORD)
    assert (answer.status, answer.value("location")) == (303, b"/")
    assert visitor.session()["user"]["email_verified"] is True
    assert visitor.submit(link, new_password=PASSWORD).status == 400


def test_a_forgotten_password_is_reset_and_ends_every_session(optional: Gateway) -> None:
    visitor, stranger = register(optional, "carl@example.com"), Visitor(optional)
    mailbox(optional).wait("carl@example.com")
    answers = [stranger.submit("/account/forgot", email=each) for each in ("carl@example.com", "none@example.com")]
    assert {(each.status, each.value("location"), each.body) for each in answers} == {
        (303, b"/account/forgot?done=mail", b"")
    }
    link = mailbox(optional).link("carl@example.com", 2)
    html = text_of(stranger.open(link))
    assert "carl@example.com" in html and 'autocomplete="new-password"' in html
    short = stranger.submit(link, new_password="short")
    assert (short.status, "at least 8 characters" in text_of(short)) == (422, True)
    answer = stranger.submit(link, new_password=ANOTHER)
    assert (answer.status, answer.value("location")) == (303, b"/account/sign-in?done=password-reset")
    assert answer.values("set-cookie") == []
    assert visitor.session() == {"signed_in": False}
    stranger.enter("carl@example.com", ANOTHER)
    assert stranger.submit(link, new_password=ANOTHER).status == 400


def test_an_address_changes_once_its_link_is_used(optional: Gateway) -> None:
    visitor = register(optional, "dora@example.com")
    same = visitor.submit("/account/email", new_email="Dora@example.com")
    assert (same.status, "This is your address already." in text_of(same)) == (422, True)
    answer = visitor.submit("/account/email", new_email="dora@new.example.com")
    assert (answer.status, answer.value("location")) == (303, b"/account/email?done=mail")
    assert "We have sent a message to the new address." in text_of(visitor.open("/account/email?done=mail"))
    link = mailbox(optional).link("dora@new.example.com")
    assert "is your new address" in text_of(visitor.open(link))
    assert visitor.submit(link, action="verify").status == 303
    Visitor(optional).enter("dora@new.example.com")


def test_mails_use_the_language_of_the_last_sign_in(optional: Gateway) -> None:
    register(optional, "hans@example.com").submit("/account/sign-out")
    visitor = Visitor(optional)
    visitor.submit("/account/sign-in?lang=de", email="hans@example.com", password=PASSWORD)
    visitor.submit("/account/forgot", email="hans@example.com")
    assert mailbox(optional).wait("hans@example.com", 2)[-1]["Subject"] == "Passwort für Northwind zurücksetzen"


def test_an_invitation_creates_an_account_with_its_roles(optional: Gateway) -> None:
    administrator = optional.register("chief@example.com")
    optional.command("users", "set-roles", "chief@example.com", "admin")
    body = {"email": "guest@example.com", "roles": ["user"], "deliver": True}
    made = optional.post("/auth/invitations", body, bearer(administrator.token))
    assert made.status == 201, made.body
    link, guest = mailbox(optional).link("guest@example.com"), Visitor(optional)
    assert "Choose a password to join" in text_of(guest.open(link))
    assert guest.submit(link, new_password="").status == 422
    answer = guest.submit(link, new_password=PASSWORD)
    assert (answer.status, answer.value("location")) == (303, b"/")
    assert guest.session()["user"]["email"] == "guest@example.com"


def test_cve_2026_26273_no_page_of_a_link_contains_its_token(optional: Gateway) -> None:
    register(optional, "gina@example.com")
    link = mailbox(optional).link("gina@example.com")
    token = link.partition("token=")[2].encode()
    for answer in (
        Visitor(optional).open(link),
        Visitor(optional).submit(link, password="wrong"),
        Visitor(optional).submit(link, password=PASSWORD),
        Visitor(optional).open(link),
    ):
        assert token not in answer.body
        assert not any(token in value for _, value in answer.head.fields)


def test_cve_2026_26273_an_invitation_to_an_existing_account_keeps_its_token_out_of_the_page(
    optional: Gateway,
) -> None:
    administrator = optional.register("chief-of-inge@example.com")
    optional.command("users", "set-roles", "chief-of-inge@example.com", "admin")
    body = {"email": "inge@example.com", "roles": ["user"], "deliver": True}
    assert optional.post("/auth/invitations", body, bearer(administrator.token)).status == 201
    link = mailbox(optional).link("inge@example.com")
    token = link.partition("token=")[2].encode()
    optional.register("inge@example.com")
    inge = Visitor(optional)
    refused = inge.submit(link, new_password=PASSWORD)
    assert refused.status == 409
    assert "open the link in the mail again" in text_of(refused)
    assert token not in refused.body and not any(token in value for _, value in refused.head.fields)
    accepted = inge.enter("inge@example.com").submit(link, action="accept")
    assert (accepted.status, accepted.value("location")) == (303, b"/account?done=invitation")


@pytest.mark.parametrize("page", ["verify", "reset", "invitation"])
@pytest.mark.parametrize("token", ["gwl_" + "x" * 38, "x", "%00", ""])
def test_invalid_links_show_a_message(optional: Gateway, page: str, token: str) -> None:
    for answer in (
        Visitor(optional).open(f"/account/{page}?token={token}"),
        Visitor(optional).submit(f"/account/{page}?token={token}", new_password=PASSWORD),
    ):
        assert answer.status == 400
        assert "This link is not valid any more" in text_of(answer)


def test_the_page_of_an_unverified_address_sends_another_link(optional: Gateway) -> None:
    visitor = register(optional, "fred@example.com")
    assert "Verify your e-mail address to continue." in text_of(visitor.open("/account/verify?return_to=%2F"))
    answer = visitor.submit("/account/verify", action="resend")
    assert (answer.status, answer.value("location")) == (303, b"/account/verify?done=link")
    mailbox(optional).wait("fred@example.com", 2)


def test_every_form_needs_the_proof_of_an_own_page(optional: Gateway) -> None:
    for page in ("register", "verify", "forgot", "reset", "invitation", "email"):
        assert Visitor(optional).submit(f"/account/{page}?token=x", proof="", email="a@example.com").status == 403
