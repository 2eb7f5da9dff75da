"""CVE-2026-115933: no token, cookie, key or link stands for one of another kind, at any place."""

import base64
import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.api.pages.test_links import Mailbox
from tests.support.browsers import COOKIE, SETTINGS, Browser
from tests.support.gateways import Gateways, signed_in
from tests.support.processes import PASSWORD, Account, Face, Gateway
from tests.support.raw import Answer
from tests.support.waiting import eventually
from tests.support.websockets import handshake
from tests.support.wording import bearer, request

FORM: Final = "Content-Type: application/x-www-form-urlencoded"
KINDS: Final = (
    *("access token", "refresh token", "cookie", "cookie of an ended session", "API key", "assertion"),
    *("console token", "session id", "link to verify", "link to a new address", "link to reset", "invitation"),
)
FITS: Final = {
    ("bearer", "access token"),
    ("bearer", "API key"),
    ("subprotocol", "access token"),
    ("subprotocol", "API key"),
    ("cookie", "cookie"),
    ("console cookie", "console token"),
    ("refresh", "refresh token"),
    ("verify", "link to verify"),
    ("verify", "link to a new address"),
    ("reset", "link to reset"),
    ("accept", "invitation"),
}
PLACES: Final = (
    *("bearer", "subprotocol", "basic", "query", "cookie", "console cookie"),
    *("refresh", "verify", "reset", "accept", "confirm", "login"),
)


class Presented(NamedTuple):
    """One credential of each kind, by name, and the account to which they belong."""

    values: dict[str, str]
    account: Account


@pytest.fixture(scope="module")
def gateway(gateways: Gateways, face: Face) -> Gateway:
    folder = gateways.folder / f"kinds-mail-{face}"
    return gateways.gateway(
        "kinds",
        face,
        server=SETTINGS["server"],
        sessions={},
        accounts={"pages": {}, "email": {"verification": "optional"}},
        mail={"from": "no-reply@gateway.test", "folder": str(folder)},
        identity={"assertion": {}},
    )


@pytest.fixture(scope="module")
def presented(gateways: Gateways, gateway: Gateway) -> Presented:
    mails, upstream = Mailbox(Path(gateways.folder / f"kinds-mail-{gateway.face}")), gateways.upstreams.web

    def token(recipient: str, page: str) -> str:
        """The token of the link to this page in a mail."""

        def found() -> list[str]:
            texts = [str(mail.get_body(("plain",))) for mail in mails.wait(recipient)]
            return re.findall(rf"/account/{page}\?token=(gwl_\w+)", "".join(texts))

        return eventually(found, timeout=10, every=0.05)[-1]

    address = "kinds@example.com"
    registered = gateway.post("/auth/register", {"email": address, "password": PASSWORD}).json()
    access = registered["access_token"]
    values = {"access token": access, "refresh token": registered["refresh_token"]}
    browser, ended = Browser(gateway), Browser(gateway)
    browser.sign_in(address)
    ended.sign_in(address)
    values |= {"cookie": browser.cookie or "", "cookie of an ended session": ended.cookie or ""}
    ended.sign_out()
    values["session id"] = browser.session()["id"]
    values["API key"] = gateway.post("/auth/api-keys", {"name": "ci"}, bearer(access)).json()["key"]
    upstream.requests.clear()
    assert gateway.get("/api/x", bearer(access)).status == 200
    [values["assertion"]] = [value.decode() for name, value in upstream.only.fields if value.startswith(b"eyJ")]
    values["link to verify"] = token(address, "verify")
    assert gateway.post("/auth/email", {"email": "kinds-new@example.com"}, bearer(access)).status == 202
    values["link to a new address"] = token("kinds-new@example.com", "verify")
    assert gateway.post("/auth/password/forgot", {"email": address}).status == 202
    values["link to reset"] = token(address, "reset")
    administrator = signed_in(gateway, "admin@example.com")
    asked = {"email": "kinds-invited@example.com", "roles": ["user"], "deliver": False}
    invited = gateway.post("/auth/invitations", asked, administrator.line)
    values["invitation"] = invited.json()["link"].partition("token=")[2]
    form = urlencode({"action": "sign-in", "username": "admin@example.com", "password": PASSWORD}).encode()
    console = gateway.ask(request("/_gateway/console", method="POST", fields=[FORM], body=form))
    values["console token"] = (console.value("set-cookie") or b"").decode().partition("=")[2].partition(";")[0]
    assert values.keys() == set(KINDS) and all(values.values()), values
    return Presented(values, Account("", address, access))


def present(gateway: Gateway, place: str, value: str, account: Account) -> Answer:
    match place:
        case "bearer":
            return gateway.get("/auth/me", bearer(value))
        case "subprotocol":
            return gateway.ask(handshake("/sockets/x", f"Sec-WebSocket-Protocol: bearer, {value}"))
        case "basic":
            pair = base64.b64encode(f"{account.email}:{value}".encode()).decode()
            return gateway.get("/auth/me", f"Authorization: Basic {pair}")
        case "query":
            return gateway.get(f"/auth/me?{urlencode({'access_token': value, 'token': value})}")
        case "cookie":
            return gateway.get("/auth/me", f"Cookie: {COOKIE}={value}")
        case "console cookie":
            return gateway.get("/_gateway/console", f"Cookie: gateway_console={value}")
        case "refresh":
            return gateway.post("/auth/refresh", {"refresh_token": value})
        case "verify":
            return gateway.post("/auth/verify", {"token": value, "password": PASSWORD})
        case "reset":
            return gateway.post("/auth/password/reset", {"token": value, "new_password": "another long sentence"})
        case "accept":
            return gateway.post("/auth/invitations/accept", {"token": value, "password": PASSWORD})
        case "confirm":
            return gateway.post("/auth/session/confirm", {"password": value[:72]}, account.line)
    return gateway.post("/auth/login", {"email": account.email, "password": value[:72]})


def is_accepted(answer: Answer, place: str) -> bool:
    """Whether the place took the credential. The console answers with its sign-in form otherwise."""
    if place == "console cookie":
        return b"sign-out" in answer.body
    return answer.status < 400


@pytest.mark.parametrize("place", PLACES)
def test_no_kind_of_credential_stands_for_another(gateway: Gateway, presented: Presented, place: str) -> None:
    for kind in KINDS:
        if (place, kind) not in FITS:
            answer = present(gateway, place, presented.values[kind], presented.account)
            assert not is_accepted(answer, place), f"{kind} at {place}: {answer.status}"
            assert answer.values("set-cookie") == [], f"{kind} at {place}"


@pytest.mark.parametrize("place", ["bearer", "cookie", "console cookie", "refresh", "verify", "accept"])
def test_each_kind_is_good_at_its_own_place(gateway: Gateway, presented: Presented, place: str) -> None:
    """The link comes last: it ends others of the account."""
    for kind in KINDS:
        if (place, kind) in FITS and kind != "link to a new address":
            answer = present(gateway, place, presented.values[kind], presented.account)
            assert is_accepted(answer, place), f"{kind} at {place}: {answer.status} {answer.body[:200]!r}"
