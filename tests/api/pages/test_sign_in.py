"""The pages of a session over the wire, on both faces: sign in, confirm, sign out, the account, refusals."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.pages.visitors import NAVIGATION, Visitor, text_of
from tests.support.browsers import COOKIE, ORIGIN, OWN_PAGE, SETTINGS
from tests.support.gateways import unhandled
from tests.support.processes import FACES, PASSWORD, Gateway
from tests.support.small import small
from tests.support.wording import request

PAGES = {"name": "Northwind", "languages": ["en", "de"], "accent": "#0a5fd7"}


@pytest.fixture(scope="module", params=FACES)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "logo.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    configuration: dict[str, Any] = small(
        folder,
        {"open": "http://127.0.0.1:9"},
        routes=[
            {"path": "/private/**", "upstream": "open"},
            {"path": "/admin", "upstream": "open", "roles": ["admin"]},
        ],
        **SETTINGS,
        accounts={
            "password": {"bcrypt_rounds": 4},
            "registration_limit": None,
            "pages": {**PAGES, "logo": str(folder / "logo.svg")},
            "lockout": {"failures": 3},
            "fresh": "1h",
        },
        roles={"admin": ["user"], "user": []},
    )
    started = Gateway(request.param, configuration, folder).start()
    yield started
    started.stop()
    assert unhandled(started) == []


@pytest.fixture
def visitor(gateway: Gateway) -> Visitor:
    return Visitor(gateway)


@pytest.fixture
def member(gateway: Gateway) -> Visitor:
    """A signed-in visitor with a new account."""
    return Visitor(gateway).enter(gateway.newcomer().email)


class TestSignIn:
    def test_leads_to_the_place_asked_for_with_a_cookie_that_scripts_cannot_read(self, visitor: Visitor) -> None:
        email = visitor.gateway.newcomer().email
        answer = visitor.submit("/account/sign-in?return_to=%2Fprivate%2Fx%3Fa%3D1", email=email, password=PASSWORD)
        assert (answer.status, answer.value("location")) == (303, b"/private/x?a=1")
        assert answer.value("cache-control") == b"no-store"
        [cookie] = answer.values("set-cookie")
        assert re.fullmatch(rf"{COOKIE}=gws_\w{{38}}; Path=/; Secure; HttpOnly; SameSite=Lax".encode(), cookie)

    def test_stays_beyond_the_browser_if_asked_for(self, visitor: Visitor) -> None:
        email = visitor.gateway.newcomer().email
        answer = visitor.submit("/account/sign-in", email=email, password=PASSWORD, remember="yes")
        [cookie] = answer.values("set-cookie")
        assert cookie.endswith((b"; Max-Age=2592000", b"; Max-Age=2591999"))

    def test_with_a_wrong_password_shows_the_form_again_without_the_password(self, visitor: Visitor) -> None:
        email = visitor.gateway.newcomer().email
        answer = visitor.submit("/account/sign-in", email=email, password="wrong-and-secret")
        html = text_of(answer)
        assert answer.status == 401
        assert "The e-mail address or the password is wrong." in html
        assert f'value="{email}"' in html and "wrong-and-secret" not in html
        assert answer.values("set-cookie") == []

    def test_unknown_addresses_are_not_revealed(self, visitor: Visitor) -> None:
        known = visitor.gateway.newcomer().email
        pages = []
        for email in (known, "unknown@example.com"):
            html = visitor.submit("/account/sign-in", email=email, password="wrong").body.decode()
            pages.append(re.sub(r'nonce="[^"]+"', "", html.replace(email, "")))
        assert pages[0] == pages[1]

    @pytest.mark.parametrize(
        ("values", "status", "sentence"),
        [
            ({"email": "", "password": ""}, 422, "Fill in this field."),
            ({"email": "ada", "password": "x"}, 422, "Enter an e-mail address like name@example.com."),
            ({}, 422, "Fill in this field."),
        ],
    )
    def test_names_wrong_fields(self, visitor: Visitor, values: dict[str, str], status: int, sentence: str) -> None:
        answer = visitor.submit("/account/sign-in", **values)
        assert answer.status == status
        assert sentence in text_of(answer)

    def test_too_many_failed_attempts_show_the_wait(self, visitor: Visitor) -> None:
        email = visitor.gateway.newcomer().email
        answers = [visitor.submit("/account/sign-in", email=email, password="wrong") for _ in range(4)]
        assert [answer.status for answer in answers] == [401, 401, 401, 429]
        assert "Too many failed attempts. Try again in 15 min." in text_of(answers[-1])
        assert int(answers[-1].value("retry-after") or 0) > 0

    @pytest.mark.parametrize(
        "return_to",
        [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/%2f/evil",
            "/\t//evil",
            "/.//evil",
            "//evil@app",
            "https:/evil",
            "javascript:alert(1)",
            "data:text/html,x",
            "/a" * 2100,
            "/ü",
            "",
            "evil",
            f"{ORIGIN}.evil.example/",
            f"{ORIGIN}@evil.example/",
        ],
    )
    def test_never_leads_to_another_site(self, visitor: Visitor, return_to: str) -> None:
        """CVE-2025-71403, GHSA-qqxw-m5fj-f7gv, CVE-2026-27982, CVE-2026-83589"""
        email = visitor.gateway.newcomer().email
        path = f"/account/sign-in?return_to={quote(return_to, safe='')}"
        answer = visitor.submit(path, email=email, password=PASSWORD)
        assert (answer.status, answer.value("location")) == (303, b"/")
        assert b"return_to=" not in visitor.open(path).body.split(b"<footer")[0]

    def test_can_lead_to_the_own_origin(self, visitor: Visitor) -> None:
        email = visitor.gateway.newcomer().email
        path = f"/account/sign-in?return_to={quote(ORIGIN + '/private/x', safe='')}"
        answer = visitor.submit(path, email=email, password=PASSWORD)
        assert answer.value("location") == f"{ORIGIN}/private/x".encode()


class TestProof:
    PATHS = ("sign-in", "confirm", "register", "sign-out", "password", "api-key", "")

    @pytest.mark.parametrize("proof", ["", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: null"])
    def test_is_needed_by_every_form(self, member: Visitor, proof: str) -> None:
        for path in self.PATHS:
            for visitor in (member, Visitor(member.gateway)):
                answer = visitor.submit(
                    f"/account/{path}".rstrip("/"), proof=proof, email="a@example.com", password="x"
                )
                assert answer.status == 403, path
                assert "The request does not come from a page of this site." in text_of(answer)
                assert answer.values("set-cookie") == []

    def test_is_given_by_a_listed_origin_too(self, member: Visitor) -> None:
        assert member.submit("/account/sign-out", proof=f"Origin: {ORIGIN}").status == 303


class TestSignOut:
    def test_ends_the_session_and_takes_the_cookie_away(self, member: Visitor) -> None:
        cookie = member.cookie
        assert "You are signed in as" in text_of(member.open("/account/sign-out"))
        answer = member.submit("/account/sign-out")
        assert (answer.status, answer.value("location")) == (303, b"/account/sign-in?done=signed-out")
        assert answer.value("clear-site-data") == b'"cache"'
        assert member.cookie is None
        assert Visitor(member.gateway, cookie).session() == {"signed_in": False}
        assert "You are signed out." in text_of(member.open("/account/sign-in?done=signed-out"))

    def test_does_nothing_by_being_opened(self, member: Visitor) -> None:
        member.open("/account/sign-out")
        assert member.session()["signed_in"] is True

    def test_without_a_session_offers_to_sign_in(self, visitor: Visitor) -> None:
        assert "You are not signed in." in text_of(visitor.open("/account/sign-out"))
        assert visitor.submit("/account/sign-out").status == 303


class TestConfirm:
    def test_renews_the_cookie_and_returns(self, member: Visitor) -> None:
        before = member.cookie
        answer = member.submit("/account/confirm?return_to=%2Fprivate%2Fx", password=PASSWORD)
        assert (answer.status, answer.value("location")) == (303, b"/private/x")
        assert member.cookie not in (None, before)

    def test_refuses_a_wrong_password(self, member: Visitor) -> None:
        answer = member.submit("/account/confirm", password="wrong")
        assert answer.status == 401
        assert "The password is wrong." in text_of(answer)

    def test_needs_a_session(self, visitor: Visitor) -> None:
        answer = visitor.open("/account/confirm")
        assert answer.value("location") == b"/account/sign-in?return_to=%2Faccount%2Fconfirm"


class TestAccount:
    def test_needs_a_session_and_returns_after_the_sign_in(self, visitor: Visitor) -> None:
        answer = visitor.open("/account")
        assert (answer.status, answer.value("location")) == (303, b"/account/sign-in?return_to=%2Faccount")

    def test_lists_sessions_and_ends_another_one(self, member: Visitor) -> None:
        email = member.session()["user"]["email"]
        other = Visitor(member.gateway)
        agent = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        other.submit("/account/sign-in", agent, email=email, password=PASSWORD)
        html = text_of(member.open("/account"))
        assert "Firefox, Linux" in html and "This session" in html
        answer = member.submit("/account", action="end-session", id=other.session()["id"])
        assert (answer.status, answer.value("location")) == (303, b"/account?done=session")
        assert other.session() == {"signed_in": False}
        assert "The session is signed out." in text_of(member.open("/account?done=session"))

    def test_ends_all_other_sessions(self, member: Visitor) -> None:
        email = member.session()["user"]["email"]
        others = [Visitor(member.gateway).enter(email) for _ in range(2)]
        assert member.submit("/account", action="end-others").status == 303
        assert [other.session()["signed_in"] for other in others] == [False, False]
        assert member.session()["signed_in"] is True

    def test_cannot_end_the_session_of_another_account(self, member: Visitor) -> None:
        other = Visitor(member.gateway).enter(member.gateway.newcomer().email)
        assert member.submit("/account", action="end-session", id=other.session()["id"]).status == 404
        assert other.session()["signed_in"] is True

    def test_changes_the_password(self, member: Visitor) -> None:
        email = member.session()["user"]["email"]
        other = Visitor(member.gateway).enter(email)
        answer = member.submit("/account/password", current_password=PASSWORD, new_password="another long sentence")
        assert (answer.status, answer.value("location")) == (303, b"/account?done=password")
        assert member.session()["signed_in"] is True
        assert other.session()["signed_in"] is False
        Visitor(member.gateway).enter(email, "another long sentence")

    @pytest.mark.parametrize(
        ("current", "new", "status", "sentence"),
        [
            ("wrong", "another long sentence", 401, "The password is wrong."),
            (PASSWORD, "short", 422, "The password needs at least 8 characters."),
            (PASSWORD, "x" * 80, 422, "The password is too long."),
            (PASSWORD, "password123", 422, "This password is among the first that attackers try."),
            (PASSWORD, "", 422, "Fill in this field."),
        ],
    )
    def test_refuses_a_wrong_change_of_the_password(
        self, member: Visitor, current: str, new: str, status: int, sentence: str
    ) -> None:
        answer = member.submit("/account/password", current_password=current, new_password=new)
        assert answer.status == status
        html = text_of(answer)
        assert sentence in html and (not new or f'"{new}"' not in html)

    def test_creates_an_api_key_that_is_shown_once_and_deletes_it(self, member: Visitor) -> None:
        answer = member.submit("/account/api-key", name="Export", expires="30")
        assert (answer.status, answer.value("cache-control")) == (201, b"no-store")
        [key] = re.findall(r"gwk_\w{38}", text_of(answer))
        assert member.gateway.get("/auth/me", f"Authorization: Bearer {key}").status == 200
        html = text_of(member.open("/account"))
        assert "Export" in html and key not in html
        [key_id] = re.findall(r'name="action" value="delete-key"><input type="hidden" name="id" value="([^"]+)"', html)
        assert member.submit("/account", action="delete-key", id=key_id).status == 303
        assert member.gateway.get("/auth/me", f"Authorization: Bearer {key}").status == 401

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"name": "", "expires": "30"}, "Fill in this field."),
            ({"name": "x" * 101, "expires": "30"}, "Enter a name"),
        ],
    )
    def test_refuses_a_key_without_a_good_name(self, member: Visitor, values: dict[str, str], sentence: str) -> None:
        answer = member.submit("/account/api-key", **values)
        assert (answer.status, sentence in text_of(answer)) == (422, True)

    def test_is_not_open_to_bearer_tokens(self, gateway: Gateway) -> None:
        account = gateway.newcomer()
        answer = gateway.get("/account", f"Authorization: Bearer {account.token}")
        assert answer.status == 303


class TestRefusals:
    def test_of_navigations_are_pages_with_their_status(self, member: Visitor) -> None:
        answer = member.open("/admin")
        html = text_of(answer)
        assert answer.status == 403
        assert answer.value("content-type") == b"text/html; charset=utf-8"
        assert "Your account has no access to this page." in html
        assert (answer.value("x-request-id") or b"-").decode() in html
        assert member.session()["user"]["email"] in html
        assert "/account/sign-in?return_to=%2Fadmin" in html

    @pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/open/x", 502), ("/%zz", 400)])
    def test_of_every_kind_are_pages(self, visitor: Visitor, path: str, status: int) -> None:
        answer = visitor.open(path)
        assert (answer.status, answer.value("content-type")) == (status, b"text/html; charset=utf-8")
        assert len(answer.values("cache-control")) == len(answer.values("content-length")) == 1

    @pytest.mark.parametrize("fields", [(), ("Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"), ("Accept: */*",)])
    def test_of_programs_stay_problem_documents(self, member: Visitor, fields: tuple[str, ...]) -> None:
        answer = member.get("/admin", *fields)
        assert (answer.status, answer.value("content-type")) == (403, b"application/problem+json")

    def test_head_requests_get_the_fields_of_the_page_without_a_body(self, member: Visitor) -> None:
        answer = member.ask("HEAD", "/admin", *NAVIGATION)
        assert (answer.status, answer.body) == (403, b"")
        assert answer.value("content-type") == b"text/html; charset=utf-8"

    def test_use_the_language_of_the_browser(self, visitor: Visitor) -> None:
        assert "Seite nicht gefunden" in text_of(visitor.open("/nowhere", "Accept-Language: de-AT,de;q=0.9"))

    def test_of_malformed_requests_to_pages_are_pages(self, visitor: Visitor) -> None:
        answer = visitor.open("/account/sign-in?lang=de&lang=en")
        assert (answer.status, answer.value("content-type")) == (400, b"text/html; charset=utf-8")
        answer = visitor.ask("POST", "/account/sign-in", OWN_PAGE, body={"email": "a@example.com", "password": "x"})
        assert (answer.status, answer.value("content-type")) == (415, b"text/html; charset=utf-8")


class TestLanguages:
    @pytest.mark.parametrize(
        ("path", "field", "title"),
        [
            ("/account/sign-in", "Accept-Language: de", "Anmelden"),
            ("/account/sign-in", "Accept-Language: fr", "Sign in"),
            ("/account/sign-in?lang=de", "Accept-Language: en", "Anmelden"),
            ("/account/sign-in?lang=xx", "Accept-Language: de", "Anmelden"),
        ],
    )
    def test_of_a_page(self, visitor: Visitor, path: str, field: str, title: str) -> None:
        assert f"<h1>{title}</h1>" in text_of(visitor.open(path, field))

    def test_is_kept_on_the_way(self, visitor: Visitor) -> None:
        html = text_of(visitor.open("/account/sign-in?lang=de&return_to=%2Fprivate"))
        assert 'href="/account/sign-in?lang=en&amp;return_to=%2Fprivate"' in html


def test_the_logo_cannot_run_its_scripts(visitor: Visitor) -> None:
    assert '<img src="/account/logo" alt="Northwind">' in text_of(visitor.open("/account/sign-in"))
    answer = visitor.open("/account/logo")
    assert (answer.status, answer.value("content-type")) == (200, b"image/svg+xml")
    assert answer.value("content-security-policy") == b"default-src 'none'; style-src 'unsafe-inline'; sandbox"
    assert answer.value("x-content-type-options") == b"nosniff"


def test_password_managers_find_the_password_page(visitor: Visitor) -> None:
    answer = visitor.open("/.well-known/change-password")
    assert (answer.status, answer.value("location")) == (303, b"/account/password")


def test_pages_that_need_mail_are_not_served_without_it(visitor: Visitor) -> None:
    for name in ("forgot", "reset", "verify", "invitation", "email"):
        assert visitor.open(f"/account/{name}").status == 404
    assert "Forgot your password?" not in text_of(visitor.open("/account/sign-in"))


def test_pages_are_not_served_on_other_hosts_with_a_session(member: Visitor) -> None:
    asked = request("/account", host="other.example", fields=[member.line, *NAVIGATION])
    answer = member.gateway.ask(asked)
    assert answer.status == 303


@pytest.mark.parametrize("query", ["x", "lang=de&x", "=", "&&", "%FF=1", "utm_source=a&utm_source=b", "x=%"])
def test_a_page_opens_with_parameters_of_others_in_its_address(gateway: Gateway, query: str) -> None:
    answer = Visitor(gateway).open(f"/account/sign-in?{query}")
    assert (answer.status, b'<html lang="de"' in answer.body) == (200, "lang=de" in query)


def test_a_repeated_parameter_of_a_page_is_refused(gateway: Gateway) -> None:
    assert Visitor(gateway).open("/account/sign-in?return_to=%2Fa&return_to=%2Fb").status == 400
