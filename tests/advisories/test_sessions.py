"""E. Sessions: creation by login, continuation by refresh, and their end."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Face, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import claims_of
from tests.support.websockets import Socket, echoing, text
from tests.support.wording import bearer, request


def login(gateway: Gateway, email: str, *fields: str | bytes) -> Answer:
    return gateway.post("/auth/login", {"email": email, "password": PASSWORD}, *fields)


def session_of(tokens: dict[str, str]) -> str:
    return str(claims_of(tokens["access_token"])["sid"])


def test_GHSA_f24x_5g9q_753f_every_login_begins_a_session_of_its_own(gateway: Gateway) -> None:
    """Independent of tokens and cookies in the request."""
    account = gateway.newcomer()
    brought: list[str | bytes] = [
        account.line,
        f"Cookie: session={account.token}; sid={claims_of(account.token)['sid']}",
    ]
    sessions = {session_of(login(gateway, account.email, *fields).json()) for fields in ([], brought, brought)}
    assert len(sessions) == 3
    assert claims_of(account.token)["sid"] not in sessions
    answer = login(gateway, account.email, *brought)
    assert answer.values("set-cookie") == []


@pytest.fixture
def hasty(gateways: Gateways, face: Face) -> Gateway:
    """A gateway with a refresh grace of 300 ms."""
    return gateways.gateway("hasty-refresh", face, tokens={"refresh_grace": "300ms"})


def test_oauth2_proxy_1992_parallel_refreshes_share_one_rotation_and_end_no_session(hasty: Gateway) -> None:
    """Twenty concurrent refreshes get the same successor; the old token ends the whole family after its grace."""
    account = hasty.newcomer()
    first = login(hasty, account.email).json()
    with ThreadPoolExecutor(20) as threads:
        body = {"refresh_token": first["refresh_token"]}
        answers = list(threads.map(lambda _: hasty.post("/auth/refresh", body), range(20)))
    good = [answer for answer in answers if answer.status == 200]
    late = [answer for answer in answers if answer.status != 200]
    assert len({answer.json()["refresh_token"] for answer in good}) == 1
    if late:  # on a busy machine some arrived after the grace
        assert {answer.refused() for answer in late} <= {(401, "refresh_reused"), (401, "refresh_invalid")}
        pytest.skip("the machine is too busy for a grace of 300 ms")
    line = bearer(good[0].json()["access_token"])
    assert hasty.get("/api/x", line).status == 200
    time.sleep(0.4)
    assert hasty.post("/auth/refresh", body).refused() == (401, "refresh_reused")
    assert hasty.get("/api/x", line).refused() == (401, "token_revoked")
    successor = {"refresh_token": good[0].json()["refresh_token"]}
    assert hasty.post("/auth/refresh", successor).refused() == (401, "refresh_invalid")
    assert hasty.get("/api/x", account.line).status == 200, "another session of the same user"


def test_Pomerium_1279_a_websocket_ends_with_the_session_it_was_opened_by(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    account, other = gateway.newcomer(), gateway.newcomer()
    upstream.on("/sockets/x", echoing())
    with Socket(gateway, "/sockets/x", account.line) as ended, Socket(gateway, "/sockets/x", other.line) as kept:
        for socket in (ended, kept):
            assert socket.say(text("hello")).message() == b"hello"
        assert gateway.post("/auth/logout", b"", account.line).status == 204
        code, _ = ended.closed(within=2.0)
        assert code == 1008
        assert kept.say(text("still here")).message() == b"still here"


def test_CVE_2025_22228_a_token_is_remembered_by_all_of_its_bytes(gateway: Gateway) -> None:
    """A cache with truncated keys would accept every token with the same prefix."""
    account = gateway.newcomer()
    assert gateway.get("/api/x", account.line).status == 200
    for length in (72, 100, 200, len(account.token) - 1):
        assert gateway.get("/api/x", bearer(account.token[:length])).refused() == (401, "token_invalid")
        swapped = account.token[:length] + ("A" if account.token[length] != "A" else "B") + account.token[length + 1 :]
        assert gateway.get("/api/x", bearer(swapped)).refused() == (401, "token_invalid")


@pytest.mark.parametrize(
    "location", ["/\\evil.com", "//evil.com", "/%09/evil.com", "https:evil.com", "https://good.com.evil.com"]
)
def test_GHSA_qqxw_m5fj_f7gv_a_login_leads_nowhere(gateway: Gateway, user: object, location: str) -> None:
    """No response of the gateway redirects."""
    email = "user@example.com"
    for name in ("next", "rd", "redirect_uri", "return_to"):
        answer = gateway.post(
            f"/auth/login?{name}={location.replace(chr(92), '%5C')}", {"email": email, "password": PASSWORD}
        )
        assert answer.status == 200
        assert answer.values("location") == []


@pytest.mark.parametrize("path", ["/auth/callback?state=x&code=y", "/oauth2/callback?state=x", "/auth/token/refresh"])
def test_GHSA_5j53_63w8_8625_there_is_no_callback_to_forge(gateway: Gateway, path: str) -> None:
    for method in ("GET", "POST"):
        assert gateway.ask(request(path, method=method)).refused() == (404, "no_route")
