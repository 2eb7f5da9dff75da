"""The pages of one configuration, and one visit to them: its language, its session, its form and its response."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.accounts.emails import email_address
from gateway.accounts.passwords import chosen_password
from gateway.accounts.texts.catalogue import Texts, fill, preferred_language
from gateway.api.body import FORM, admission_of, form_fields, media_type, note_refusal, query_fields, read_body
from gateway.api.pages.examples import check_templates
from gateway.api.pages.rendering import Form, LanguageLink, Page, Renderer, open_catalogue
from gateway.errors import ConfigurationError, Problem, Refusal, cannot_read
from gateway.identity.principal import Principal
from gateway.identity.user import Claims
from gateway.policy.browsers import BrowserPolicy, browser_policy
from gateway.settings.model import PageSettings, Settings

# The pages that others link to, and their paths below `accounts.pages.path`.
PATHS: Final[Mapping[str, str]] = {
    "account": "",
    "confirm": "/confirm",
    "email": "/email",
    "forgot": "/forgot",
    "invitation": "/invitation",
    "key": "/api-key",
    "password": "/password",
    "register": "/register",
    "reset": "/reset",
    "sign_in": "/sign-in",
    "sign_out": "/sign-out",
    "verify": "/verify",
}
LOGO: Final = "/logo"
# Pages of a sign-in, which keep the place to return to.
_ON_THE_WAY: Final = frozenset(("confirm", "forgot", "register", "sign_in"))
# The parameters that pages read. Links from campaigns and mail filters add others, of any form.
_PARAMETERS: Final = frozenset(("done", "lang", "return_to", "token"))
_HIDDEN: Final = frozenset(("password", "new_password", "current_password"))


_LOGO_TYPES: Final[Mapping[str, str]] = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}


class Logo(NamedTuple):
    """The logo, as served."""

    content: bytes
    media_type: str


class Site:
    """The pages of a configuration. Raises ConfigurationError for faulty texts and templates."""

    def __init__(self, settings: Settings) -> None:
        pages = settings.accounts.pages
        browsers = browser_policy(settings)
        assert pages is not None and browsers is not None, "pages need sessions"
        self.settings: Final = settings
        self.pages: Final[PageSettings] = pages
        self.catalogue: Final = open_catalogue(settings)
        self.renderer: Final = Renderer.of(settings, self.catalogue)
        if pages.templates is not None:
            check_templates(self.renderer, self.catalogue)
        self.logo: Final = None if pages.logo is None else _read_logo(Path(pages.logo))
        self.browsers: Final[BrowserPolicy] = browsers
        self._is_relaxed = settings.server.paths == "relaxed"

    def language(self, requested: str | None, accepted: str) -> str:
        """The language of a response: the one asked for, or the preferred one."""
        if requested in self.catalogue.languages:
            return requested
        return preferred_language(self.catalogue.languages, accepted)

    def safe_return(self, address: str | None) -> str | None:
        """The address, if a redirect can lead there (open redirects: CVE-2025-71403)."""
        is_safe = bool(address) and self.browsers.origins.is_safe_return(address or "", relaxed=self._is_relaxed)
        return address if is_safe else None

    def urls(self, query: Mapping[str, str]) -> dict[str, str | None]:
        """The addresses of all pages by name. They keep the language asked for, and the place to return to."""
        kept = {"lang": query["lang"]} if query.get("lang") in self.catalogue.languages else {}
        back = {"return_to": query["return_to"]} if self.safe_return(query.get("return_to")) else {}
        urls: dict[str, str | None] = {}
        for name, path in PATHS.items():
            parameters = kept | back if name in _ON_THE_WAY else kept
            urls[name] = self.pages.path + path + (f"?{urlencode(parameters)}" if parameters else "")
        if self.settings.accounts.registration != "open":
            urls["register"] = None
        if self.settings.mail is None:
            urls["forgot"] = None
        urls["logo"] = self.pages.path + LOGO if self.pages.logo is not None else None
        urls["home"] = self.pages.after_sign_in
        return urls


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to a page. `principal` and `claims` are None without a browser session."""

    site: Site
    request: Request
    query: Mapping[str, str]
    language: str
    principal: Principal | None
    claims: Claims | None

    @classmethod
    def of(cls, site: Site, request: Request) -> "Visit":
        """Read the query. Raises `bad_request` for a repeated parameter of the pages."""
        query = query_fields(request, names=_PARAMETERS)
        language = site.language(query.get("lang"), request.headers.get("accept-language", ""))
        admission = admission_of(request)
        claims = admission.claims
        if claims is None or claims.kind != "session":
            return cls(site, request, query, language, None, None)
        return cls(site, request, query, language, admission.principal, claims)

    @property
    def texts(self) -> Texts:
        return self.site.catalogue.texts(self.language)

    @property
    def email(self) -> str:
        """The address that is signed in, empty without a session."""
        return (self.principal.email or "") if self.principal is not None else ""

    def signed_in(self) -> tuple[Principal, Claims]:
        """The session. Raises `token_missing`."""
        if self.principal is None or self.claims is None:
            raise Refusal("token_missing", "the page needs a session")
        return self.principal, self.claims

    async def form(self) -> dict[str, str]:
        """The fields of the submitted form. Raises `unsupported_media_type`, `bad_request` and `body_too_large`."""
        media_type(self.request, FORM)
        body = await read_body(self.request)
        return form_fields(body) if body else {}

    def url(self, name: str, **parameters: str) -> str:
        """The address of a page, with further parameters."""
        url = self.site.urls(self.query)[name] or ""
        return url + ("&" if "?" in url else "?") + urlencode(parameters) if parameters else url

    def here(self) -> str:
        """The path and parameters of this request, to return to, without the token of a link (CVE-2026-26273)."""
        path: bytes = self.request.scope["raw_path"]
        parameters = {name: value for name, value in self.query.items() if name != "token"}
        return path.decode("latin-1") + (f"?{urlencode(parameters)}" if parameters else "")

    def return_to(self) -> str:
        """The place after a sign-in. It is checked again where it is used."""
        return self.site.safe_return(self.query.get("return_to")) or self.site.pages.after_sign_in

    def notice(self, page: str, *, done: Mapping[str, str]) -> Form:
        """The notice of the last success, which `?done=NAME` names."""
        section, _, name = done.get(self.query.get("done", ""), "").rpartition(".")
        return Form(notice=self.texts["pages"][section or page][name]) if name else Form()

    def redirect(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        """Lead the browser to another page after a success."""
        return RedirectResponse(url, 303, {"cache-control": "no-store", **(headers or {})})

    def show(
        self,
        template: str,
        data: Any = None,
        form: Form | None = None,
        *,
        heading: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        urls: Mapping[str, str | None] | None = None,
    ) -> Response:
        """The response with a page. `heading` is the title of the page by default."""
        page = Page(
            template,
            self.language,
            heading or self.texts["pages"][template]["title"],
            data,
            form or Form(),
            {**self.site.urls(self.query), **(urls or {})},
            self._languages(),
        )
        html, own = self.site.renderer.render(page)
        return HTMLResponse(html, status, {**own, **(headers or {})})

    def refuse(
        self,
        refusal: Refusal,
        template: str,
        data: Any = None,
        values: Mapping[str, str] | None = None,
        *,
        focus: str = "",
        code: str = "",
        names: Mapping[str, str] | None = None,
        heading: str | None = None,
        urls: Mapping[str, str | None] | None = None,
    ) -> Response:
        """The response with the form again, the reason of the refusal, and its status.

        `code` is that of another reason. `names` are the fields of the form whose models have another name.
        """
        note_refusal(self.request, refusal)
        headers = {} if refusal.retry_after is None else {"retry-after": str(max(1, refusal.retry_after))}
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        fields = [(names or {}).get(each.field, each.field) for each in refusal.fields]
        reason = reason_text(self.texts, refusal, code)
        form = refused_form(self.site.settings, self.texts, fields, reason, values or {}, focus=focus)
        return self.show(template, data, form, heading=heading, status=refusal.status, headers=headers, urls=urls)

    def _languages(self) -> tuple[LanguageLink, ...]:
        """This page in other languages. Pages of links have none: no page contains a token (CVE-2026-26273)."""
        if "token" in self.query:
            return ()
        path, catalogue = self.request.scope["raw_path"].decode("latin-1"), self.site.catalogue
        return tuple(
            LanguageLink(
                each,
                catalogue.texts(each)["language"]["name"],
                f"{path}?{urlencode({**self.query, 'lang': each})}",
            )
            for each in catalogue.languages
        )


def _read_logo(path: Path) -> Logo:
    try:
        return Logo(path.read_bytes(), _LOGO_TYPES[path.suffix.lower()])
    except OSError as error:
        raise ConfigurationError([Problem(str(path), 1, 1, "logo", cannot_read(path, error))]) from None


# ---- reasons


def reason_text(texts: Texts, refusal: Refusal, code: str = "") -> str:
    """The reason of a refusal in plain words."""
    reasons = texts["reasons"]
    if refusal.code == "locked_out" and refusal.retry_after is not None:
        return fill(reasons["locked_out_until"], {"minutes": str(math.ceil(refusal.retry_after / 60))})
    text: str = reasons.get(code or refusal.code, reasons["other"])
    return text


def refused_form(
    settings: Settings, texts: Texts, fields: Sequence[str], reason: str, values: Mapping[str, str], *, focus: str
) -> Form:
    """The form after a refusal: with the submitted values except passwords, and a sentence per wrong field."""
    errors = {name: _field_text(settings, texts, name, values) for name in fields}
    kept = {name: value for name, value in values.items() if name not in _HIDDEN}
    if errors:
        return Form(kept, errors, focus=next(iter(errors)))
    return Form(kept, reason=reason, focus=focus)


def _field_text(settings: Settings, texts: Texts, name: str, values: Mapping[str, str]) -> str:
    fields, value = texts["fields"], values.get(name, "")
    if not value:
        return str(fields["required"])
    if name in ("email", "new_email"):
        return str(fields["email_same" if name == "new_email" and _is_address(value) else "email"])
    if name == "name":
        return fill(fields["name"], {"length": "100"})
    return _password_text(settings, fields, value) if name in _HIDDEN else str(fields["invalid"])


def _is_address(text: str) -> bool:
    try:
        email_address(text)
    except ValueError:
        return False
    return True


def _password_text(settings: Settings, fields: Mapping[str, str], value: str) -> str:
    least = settings.accounts.password.min_length
    try:
        chosen_password(value, min_length=least)
    except ValueError:
        is_short = len(value) < least
        return fill(fields["too_short" if is_short else "too_long"], {"length": str(least if is_short else 72)})
    return fields["common"]
