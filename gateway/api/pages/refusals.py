"""Refusals to browsers that navigate, as pages with the status of the refusal."""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

from gateway.api.pages.rendering import Form, Page
from gateway.api.pages.site import PATHS, Site, reason_text
from gateway.api.pages.views import DeniedView
from gateway.errors import Refusal
from gateway.gate.admission import RequestHead
from gateway.identity.principal import Principal
from gateway.wire.navigation import is_navigation
from gateway.wire.problem import Field, problem_fields

# Another account can help.
_BY_SIGN_IN: Final = frozenset(
    (
        "credential_not_allowed",
        "forbidden",
        "token_expired",
        "token_invalid",
        "token_missing",
        "token_revoked",
        "user_inactive",
    )
)
_REPLACED: Final = frozenset((b"content-type", b"cache-control"))


class RefusalPages:
    """Refusals as pages for browsers that navigate. `site` returns the pages in force."""

    def __init__(self, site: Callable[[], Site]) -> None:
        self._site = site

    def __call__(self, refusal: Refusal, request: RequestHead) -> tuple[list[Field], bytes] | None:
        is_shown = refusal.location is None and self._site().pages.errors
        if is_shown and is_navigation(request.method, request.fields):
            return self.page(refusal, request)
        return None

    def page(self, refusal: Refusal, request: RequestHead) -> tuple[list[Field], bytes]:
        """The fields, without Content-Length, and the body of a refusal as a page."""
        site = self._site()
        html, headers = site.renderer.render(_page(site, refusal, request))
        kept = [field for field in problem_fields(refusal, request.request_id) if field[0] not in _REPLACED]
        return [*kept, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())], html.encode()


def _page(site: Site, refusal: Refusal, request: RequestHead) -> Page:
    accepted = b",".join(value for name, value in request.fields.kept if name.lower() == b"accept-language")
    language = site.language(None, accepted.decode("latin-1"))
    texts = site.catalogue.texts(language)
    caller = refusal.caller
    view = DeniedView(
        email=(caller.email or "") if isinstance(caller, Principal) else "",
        request_id=request.request_id.decode("ascii"),
        can_retry=refusal.status in (429, 502, 503, 504),
    )
    heading = texts["pages"]["denied"][_title(refusal)]
    form = Form(reason=reason_text(texts, refusal))
    urls = {**site.urls({}), "sign_in": _sign_in(site, refusal, request)}
    return Page("denied", language, heading, view, form, urls)


def _title(refusal: Refusal) -> str:
    if refusal.status == 404:
        return "title_missing"
    return "title_failed" if refusal.status >= 500 or refusal.status == 429 else "title"


def _sign_in(site: Site, refusal: Refusal, request: RequestHead) -> str | None:
    """The sign-in page that returns here, where another account can help."""
    if refusal.code not in _BY_SIGN_IN:
        return None
    url = site.pages.path + PATHS["sign_in"]
    here = site.safe_return(request.target.decode("latin-1"))
    return url if here is None else f"{url}?{urlencode({'return_to': here})}"
