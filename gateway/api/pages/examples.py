"""Every page with sample data, for `gateway pages preview` and for the tests of the pages."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from traceback import extract_tb
from typing import Any, Final, NamedTuple

from gateway.accounts.texts.catalogue import Catalogue, Texts, fill
from gateway.api.pages.rendering import Form, LanguageLink, Page, Renderer
from gateway.api.pages.views import (
    AccountView,
    AddressView,
    CreatedKeyView,
    DeniedView,
    KeyRow,
    KeyView,
    LinkView,
    MailSentView,
    PasswordView,
    RegisterView,
    SessionRow,
    SignInView,
)
from gateway.errors import ConfigurationError, Problem

_EMAIL: Final = "ada@example.com"
_LENGTH: Final = 8
_NOW: Final = datetime(2026, 3, 14, 9, 26, tzinfo=UTC)
_PAGES: Final = (
    "account",
    "email",
    "forgot",
    "home",
    "key",
    "password",
    "register",
    "sign_in",
    "sign_out",
    "verify",
)

# The files of pages whose names differ.
_FILES: Final = {"home": "account", "sign_in": "sign-in", "sign_out": "sign-out", "verify": "verify-required"}


class SamplePage(NamedTuple):
    """A page to show. `name`: of its file."""

    name: str
    page: Page


def examples(
    catalogue: Catalogue, language: str, *, logo: str | None = None, ending: str = "html"
) -> Iterator[SamplePage]:
    """Every page in a language, with its errors and notices. Links between the pages lead to their files."""
    texts = catalogue.texts(language)
    urls: dict[str, str | None] = {name: f"{_FILES.get(name, name)}.{language}.{ending}" for name in _PAGES}
    urls |= {"logo": logo, "back": urls["sign_in"]}
    for name, template, heading, data, form in _samples(texts):
        links = tuple(
            LanguageLink(each, catalogue.texts(each)["language"]["name"], f"{name}.{each}.{ending}")
            for each in catalogue.languages
        )
        is_public = template == "denied" and not data.email
        own = {**urls, "sign_in": None} if is_public else urls
        page = Page(template, language, heading, data, form, own, links)
        yield SamplePage(name, page)


def check_templates(renderer: Renderer, catalogue: Catalogue) -> None:
    """Render every page. Raises ConfigurationError for templates of one's own that compile and then fail, for example
    at a value that does not exist: browsers would get 500."""
    problems: dict[tuple[str, int], Problem] = {}
    for sample in examples(catalogue, catalogue.default):
        try:
            renderer.render(sample.page)
        except Exception as error:
            name = f"{sample.page.template}.html"
            places = [(each.filename, each.lineno or 1) for each in extract_tb(error.__traceback__)]
            file, line = next((each for each in reversed(places) if each[0].endswith(".html")), (name, 1))
            problems[file, line] = Problem(file, line, 1, name, f"fails: {error}")
    if problems:
        raise ConfigurationError(list(problems.values()))


def _samples(texts: Texts) -> Iterator[tuple[str, str, str, Any, Form]]:
    pages, reasons, fields = texts["pages"], texts["reasons"], texts["fields"]
    plain = Form()

    def refused(code: str, focus: str = "", **values: str) -> Form:
        return Form(values=values, reason=reasons[code], focus=focus)

    def wrong(field: str, text: str, **values: str) -> Form:
        return Form(values=values, errors={field: fill(fields[text], {"length": str(_LENGTH)})}, focus=field)

    def sample(name: str, data: Any, form: Form = plain, *, ending: str = "", heading: str = "") -> Any:
        title = heading or pages[name]["title"]
        return f"{name.replace('_', '-')}{ending}", name, title, data, form

    sign_in = SignInView(remember=True)
    yield sample("sign_in", sign_in)
    yield sample("sign_in", sign_in, refused("invalid_credentials", "password", email=_EMAIL), ending="-refused")
    yield sample("sign_in", sign_in, Form(notice=pages["sign_in"]["password_reset"]), ending="-after-reset")
    yield sample("confirm", AddressView(_EMAIL))
    yield sample("confirm", AddressView(_EMAIL), refused("wrong_password", "password"), ending="-refused")
    yield sample("register", RegisterView(by_mail=False, min_length=_LENGTH))
    common = wrong("new_password", "common", email=_EMAIL)
    yield sample("register", RegisterView(by_mail=False, min_length=_LENGTH), common, ending="-refused")
    yield sample("register", RegisterView(by_mail=True, min_length=_LENGTH), ending="-by-mail")
    yield sample("mail_sent", MailSentView("reset"))
    for kind in ("password", "first", "signed_in", "change", "required"):
        yield sample("verify", LinkView(kind, _EMAIL, _LENGTH), ending=f"-{kind.replace('_', '-')}")
    yield sample("forgot", None)
    yield sample("forgot", None, wrong("email", "email", email="ada"), ending="-refused")
    yield sample("reset", LinkView("reset", _EMAIL, _LENGTH))
    yield sample("link_invalid", None, refused("link_invalid"), heading=pages["reset"]["title"])
    for kind, ending in {"intro": "", "join": "-join", "sign_in": "-sign-in"}.items():
        yield sample("invitation", LinkView(kind, _EMAIL, _LENGTH), ending=ending)
    yield sample("account", _account(), Form(notice=pages["account"]["done_session"]))
    yield sample(
        "account",
        replace(_account(), email_verified=False, sessions=_account().sessions[:1], keys=()),
        ending="-unverified",
    )
    yield sample("email", AddressView(_EMAIL))
    yield sample("password", PasswordView(_EMAIL, has_password=True, min_length=_LENGTH))
    short = wrong("new_password", "too_short")
    yield sample("password", PasswordView(_EMAIL, has_password=True, min_length=_LENGTH), short, ending="-refused")
    yield sample("key", KeyView((30, 90, 365, 0)), Form(values={"expires": "90"}))
    created = CreatedKeyView("Nightly export", "gwk_0000000000_this-is-a-sample-and-no-key")
    yield sample("key_created", created, heading=pages["key"]["created"])
    yield sample("sign_out", AddressView(_EMAIL))
    yield sample("sign_out", AddressView(""), ending="-signed-out")
    yield from _denied(pages["denied"], reasons)


def _denied(titles: Mapping[str, str], reasons: Mapping[str, str]) -> Iterator[tuple[str, str, str, Any, Form]]:
    cases = {"forbidden": "title", "no_route": "title_missing", "upstream_unavailable": "title_failed"}
    for code, title in cases.items():
        data = DeniedView(_EMAIL if code == "forbidden" else "", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", code[0] == "u")
        ending = "" if code == "forbidden" else f"-{code.replace('_', '-')}"
        yield f"denied{ending}", "denied", titles[title], data, Form(reason=reasons[code])


def _account() -> AccountView:
    hour, day = timedelta(hours=1), timedelta(days=1)
    return AccountView(
        email=_EMAIL,
        email_verified=True,
        has_mail=True,
        has_password=True,
        sessions=(
            SessionRow("s1", "Firefox, Linux", True, True, _NOW - hour, _NOW, "192.0.2.7"),
            SessionRow("s2", "Safari, iPhone", True, False, _NOW - 3 * day, _NOW - 5 * hour, "2001:db8::17"),
            SessionRow("s3", "", False, False, _NOW - 9 * day, _NOW - 2 * day, "198.51.100.20"),
        ),
        keys=(
            KeyRow("k1", "Nightly export", ("reports",), _NOW + 80 * day, _NOW - 7 * hour),
            KeyRow("k2", "Laptop", (), None, None),
        ),
    )
