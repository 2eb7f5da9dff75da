"""The optional identity headers: verified addresses, the class of the authentication, and the session."""

import pytest

from gateway.identity.credentials import CredentialLines
from gateway.identity.principal import PrincipalFactory
from gateway.identity.user import Claims
from gateway.settings.model import HeaderSettings, IdentitySettings
from tests.identity.stores import record

COOKIE = Claims("u1", "s-1", 2e9, 0.0, "s-1", "", kind="session", auth_time=1e9, acr="aal1", amr=("pwd",))
TOKEN = COOKIE._replace(kind="token", session="s-2")
OLD_TOKEN = COOKIE._replace(kind="token", auth_time=0.0, acr="", amr=())
API_KEY = Claims("u1", "key-1", 2e9, 0.0, "key-1", "", kind="api_key")
EXTERNAL = Claims("idp|u1", "", 2e9, 0.0, "", "https://idp", kind="external")


@pytest.mark.parametrize(
    ("claims", "lines"),
    [
        (COOKIE, b"X-Acr: aal1\r\nX-Session: s-1\r\n"),
        (TOKEN, b"X-Acr: aal1\r\nX-Session: s-2\r\n"),
        (OLD_TOKEN, b"X-Session: s-1\r\n"),
        (API_KEY, b""),
        (EXTERNAL, b""),
    ],
)
def test_only_sessions_of_the_gateway_have_an_authentication_and_an_id(claims: Claims, lines: bytes) -> None:
    both = CredentialLines.of(HeaderSettings(acr="X-Acr", session="X-Session"))
    assert both is not None and both(claims) == lines


def test_each_header_is_off_unless_it_is_named() -> None:
    assert CredentialLines.of(HeaderSettings()) is None
    one = CredentialLines.of(HeaderSettings(session="X-Session"))
    assert one is not None and one(COOKIE) == b"X-Session: s-1\r\n"


@pytest.mark.parametrize("verified", [True, False])
def test_upstreams_learn_on_request_whether_the_address_is_verified(verified: bool) -> None:
    headers = HeaderSettings(email_verified="X-User-Email-Verified")
    factory = PrincipalFactory(IdentitySettings(headers=headers), lambda roles: roles)
    lines = factory.make(record(email_verified=verified)).header_lines
    assert b"X-User-Email-Verified: %s\r\n" % (b"true" if verified else b"false") in lines
    plain = PrincipalFactory(IdentitySettings(), lambda roles: roles).make(record(email_verified=verified))
    assert b"erified" not in plain.header_lines
