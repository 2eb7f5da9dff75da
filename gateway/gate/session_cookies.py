"""The session cookie as a credential: on the own hosts only, and from own pages where a request can change something.

Browsers add the cookie to every request to its host, whichever page causes the request. A request that can change
something must therefore prove that it comes from an own page (`policy/browsers.py`).
"""

from gateway.errors import Refusal
from gateway.gate.admission import RequestHead
from gateway.identity.session_verifier import SessionVerifier
from gateway.policy.browsers import BrowserPolicy, must_prove_page
from gateway.policy.route import Route
from gateway.settings.model import Settings
from gateway.wire.credential_fields import OwnCookies
from gateway.wire.fields import METHOD_OVERRIDES, RequestFields


class SessionCookies:
    """Finds the session cookies of requests under one policy. `verifier` verifies them."""

    def __init__(self, verifier: SessionVerifier, browsers: BrowserPolicy) -> None:
        self.verifier = verifier
        self._browsers = browsers

    def presented(self, request: RequestHead, route: Route) -> bytes | None:
        """The cookie that can be the credential of the request, None without one.

        Raises Refusal `cross_site` without the proof that the request needs. A value of another form is no session
        cookie and needs no proof.
        """
        cookie = sent_to_own_host(request, self._browsers)
        if route.own_page:
            self.require_own_page(request)
        elif cookie is not None:
            fields = request.fields
            can_write = request.websocket or (bool(fields.conditional) and _overrides_method(fields))
            if not must_prove_page(route, request.method, can_write=can_write):
                return cookie
            refusal = self._browsers.check_page(route, request.method, fields.kept, can_write=can_write)
            if refusal is not None and self.verifier.is_cookie(cookie):
                raise refusal
        return cookie

    def require_own_page(self, request: RequestHead) -> None:
        """Raise Refusal `cross_site` like the function below."""
        require_own_page(request, self._browsers)


def require_own_page(request: RequestHead, browsers: BrowserPolicy) -> None:
    """Raise Refusal `cross_site` unless the request comes from an own page to an own host."""
    fields = request.fields
    missing = browsers.missing_proof(fields.canonical_host or b"", fields.kept)
    if missing:
        raise Refusal("cross_site", missing)


def sent_to_own_host(request: RequestHead, browsers: BrowserPolicy) -> bytes | None:
    """The value of the session cookie; None on other hosts, where each application could have set it."""
    fields = request.fields
    return fields.session_cookie if fields.canonical_host in browsers.origins.hosts else None


def _overrides_method(fields: RequestFields) -> bool:
    """Whether an upstream with `method_override` would see another method. Pages of an origin in `cors` can send such a
    field."""
    return any(name.lower() in METHOD_OVERRIDES for _, (name, _) in fields.conditional)


def own_cookies(settings: Settings) -> OwnCookies | None:
    """The gateway's own cookies, None without sessions."""
    sessions, public_url = settings.sessions, settings.server.public_url or ""
    return None if sessions is None else OwnCookies(sessions.cookie, secure=public_url.startswith("https:"))
