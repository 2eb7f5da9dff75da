"""Pages as HTML: Jinja2 templates in a sandbox, with the header fields that every page carries.

Templates can be replaced by the configuration, so they run in a sandbox, and get only what `Page` lists: texts, and the
frozen values of one page. Every value is escaped. Pages load nothing from elsewhere and run no script, except the one
that shows a password, which the nonce of the response admits.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from gateway.accounts.texts.catalogue import Catalogue, Texts, fill, time_text
from gateway.api.pages.colours import DEFAULT_ACCENT, SCHEMES, Colour, Scheme, palette
from gateway.errors import ConfigurationError, Problem
from gateway.settings.model import Settings

_HERE: Final = Path(__file__).parent
_SPACE: Final = re.compile(r"\n\s*").sub

# Templates with a password field, which the script can show.
_WITH_PASSWORD: Final = frozenset(("sign_in", "confirm", "register", "verify", "reset", "invitation", "password"))
_WIDE: Final = frozenset(("account",))


class Product(NamedTuple):
    """The product that the pages belong to. The links are None where they are not configured."""

    name: str
    terms: str | None = None
    privacy: str | None = None
    support: str | None = None


class LanguageLink(NamedTuple):
    """The same page in a language."""

    language: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Form:
    """The state of a form: its values, the errors of its fields, the reason of a refusal, and a notice of success."""

    values: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    notice: str = ""
    focus: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its template, and the values that the template gets.

    template: the name of its file, without the ending.
    heading: the title in the language of the page.
    data: the values of this page, as `page`.
    urls: addresses of other pages by name. The value of a missing page is None.
    languages: this page in the configured languages.
    """

    template: str
    language: str
    heading: str
    data: Any = None
    form: Form = field(default_factory=Form)
    urls: Mapping[str, str | None] = field(default_factory=dict)
    languages: tuple[LanguageLink, ...] = ()


def product_name(settings: Settings) -> str:
    """The name of the product in pages: the configured one, or the public host."""
    pages = settings.accounts.pages
    return (pages and pages.name) or urlsplit(settings.server.public_url or "").hostname or "gateway"


def open_catalogue(settings: Settings) -> Catalogue:
    """The texts of a configuration with pages. Raises ConfigurationError."""
    pages = settings.accounts.pages
    assert pages is not None
    return Catalogue.load(pages.languages, None if pages.messages is None else Path(pages.messages))


class Look(NamedTuple):
    """The style of a page, and the script that shows passwords."""

    scheme: str
    style: Markup
    script: Markup


class Renderer:
    """Renders pages. `origins` are other origins that a form can lead to, `is_secure` is true with https.

    Raises ConfigurationError if a template does not compile.
    """

    @classmethod
    def of(cls, settings: Settings, catalogue: Catalogue) -> "Renderer":
        """The renderer of a configuration with pages."""
        pages, public_url = settings.accounts.pages, settings.server.public_url or ""
        assert pages is not None
        links = pages.links
        return cls(
            catalogue,
            Product(product_name(settings), links.terms, links.privacy, links.support),
            accent=pages.accent,
            templates=None if pages.templates is None else Path(pages.templates),
            origins=settings.sessions.origins if settings.sessions is not None else (),
            is_secure=public_url.startswith("https:"),
        )

    def __init__(
        self,
        catalogue: Catalogue,
        product: Product,
        *,
        accent: str | None = None,
        templates: Path | None = None,
        origins: tuple[str, ...] = (),
        is_secure: bool = True,
    ) -> None:
        self._catalogue = catalogue
        self._product = product
        self._looks = {scheme: _look(accent or DEFAULT_ACCENT, scheme) for scheme in (None, *SCHEMES)}
        self._environment = _shipped() if templates is None else _environment(templates)
        self._form_action = " ".join(("'self'", *origins))
        self._is_secure = is_secure

    def render(self, page: Page, *, scheme: Scheme | None = None) -> tuple[str, dict[str, str]]:
        """The HTML of a page, and its header fields. `scheme` forces a colour scheme, for previews."""
        nonce = secrets.token_urlsafe(16)
        texts = self._catalogue.texts(page.language)
        has_script = page.template in _WITH_PASSWORD
        common = texts["pages"]["common"]
        wrong = page.form.reason or page.form.errors
        heading = fill(common["error_title"], {"title": page.heading}) if wrong else page.heading
        html = self._environment.get_template(f"{page.template}.html").render(
            title=fill(common["title"], {"title": heading, "name": self._product.name}),
            heading=page.heading,
            language=page.language,
            direction=texts["language"]["direction"],
            languages=page.languages,
            product=self._product,
            form=page.form,
            page=page.data,
            urls=page.urls,
            t=texts["pages"],
            time=_Times(texts),
            look=self._looks[scheme],
            nonce=nonce,
            reveals=has_script,
            wide=page.template in _WIDE,
        )
        return html, self._headers(nonce, has_script=has_script)

    def _headers(self, nonce: str, *, has_script: bool) -> dict[str, str]:
        script = f" script-src 'nonce-{nonce}';" if has_script else ""
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": f"default-src 'none'; style-src 'nonce-{nonce}';{script} img-src 'self' data:; "
            f"form-action {self._form_action}; frame-ancestors 'none'; base-uri 'none'",
            # No token in an address leaves. `no-referrer` would make the Origin of the own forms `null`.
            "referrer-policy": "strict-origin",
            "x-content-type-options": "nosniff",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
            "cache-control": "no-store",
        }
        if self._is_secure:
            headers["strict-transport-security"] = "max-age=63072000"
        return headers


class _Times:
    """Times in words, as the template function `time`."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def __call__(self, moment: datetime | None) -> str:
        return self._texts["pages"]["common"]["never"] if moment is None else time_text(self._texts, moment)


@cache
def _shipped() -> ImmutableSandboxedEnvironment:
    return _environment(None)


def _environment(templates: Path | None) -> ImmutableSandboxedEnvironment:
    loaders: list[BaseLoader] = [FileSystemLoader(_HERE / "templates")]
    if templates is not None:
        loaders.insert(0, FileSystemLoader(templates))
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals = {"say": _say, "strong": _strong}
    problems = [problem for name in environment.list_templates(["html"]) for problem in _faults(environment, name)]
    if problems:
        raise ConfigurationError(problems)
    return environment


def _faults(environment: ImmutableSandboxedEnvironment, name: str) -> Iterator[Problem]:
    """The problem of a template that does not compile."""
    try:
        environment.get_template(name)
    except TemplateSyntaxError as error:
        yield Problem(error.filename or name, error.lineno, 1, name, f"does not compile: {error.message}")
    except (TemplateError, UnicodeDecodeError) as error:
        yield Problem(name, 1, 1, name, f"cannot be read: {error}")


def _say(text: str, **values: object) -> str:
    """A text with its values."""
    return fill(text, {name: str(value) for name, value in values.items()})


def _strong(text: str, **values: object) -> Markup:
    """A text with its values emphasised, and isolated from the direction of the text around them."""
    marked = {name: f"<strong><bdi>{escape(value)}</bdi></strong>" for name, value in values.items()}
    return Markup(fill(str(escape(text)), marked))  # noqa: S704  both parts are escaped


def _look(accent: str, scheme: Scheme | None) -> Look:
    colour = Colour.parse(accent)
    light, dark = (_variables(colour, each) for each in SCHEMES)
    both = {"light": light, "dark": dark, None: f"{light}@media (prefers-color-scheme:dark){{{dark}}}"}[scheme]
    style = both + _SPACE("", (_HERE / "style.css").read_text(encoding="utf-8"))
    script = _SPACE("", (_HERE / "reveal.js").read_text(encoding="utf-8"))
    return Look(scheme or "light dark", Markup(style), Markup(script))  # noqa: S704  files of the package


def _variables(accent: Colour, scheme: Scheme) -> str:
    colours = ";".join(f"--{name}:{value}" for name, value in palette(accent, scheme).items())
    return f":root{{color-scheme:{scheme};{colours}}}"
