"""Built-in endpoints: the services behind them, and their routes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

from gateway.accounts.administration import Administration
from gateway.accounts.api_keys import ApiKeyService
from gateway.accounts.confirmation import Confirmation
from gateway.accounts.lockout import Lockout
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.service import Accounts, SessionService
from gateway.accounts.sign_in import PasswordSignIn, VerificationRequired
from gateway.api.accounts import account_endpoints, key_endpoints, session_endpoints
from gateway.api.administration import administration_endpoints
from gateway.api.console.memory import OWN_ROUTES, ConsoleMemory
from gateway.api.openapi.document import openapi_endpoints
from gateway.api.operations import Readiness, operation_endpoints
from gateway.api.session_cookie import FirstSessions
from gateway.gate.rate_limits import MailLimits, RegistrationLimit
from gateway.identity.access_token import Tokens
from gateway.identity.directory import Directory
from gateway.identity.keys import KeyRing
from gateway.observability.metrics.metrics import Metrics
from gateway.policy.loader import Configuration
from gateway.policy.policy import Policy
from gateway.server.resources import Resources
from gateway.settings.model import Settings

# Only annotations. Sessions, pages and mail are imported if they are configured.
if TYPE_CHECKING:
    from gateway.accounts.browser_sessions import BrowserSessions
    from gateway.api.pages.endpoints import Pages
    from gateway.server.mail import MailServices

Endpoint = Callable[[Request], Awaitable[Response]]


class Services(NamedTuple):
    """The services used by the account endpoints."""

    passwords: PasswordPool
    lockout: Lockout
    accounts: Accounts
    administration: Administration
    sessions: SessionService
    api_keys: ApiKeyService
    browser: "BrowserSessions | None"
    mail: "MailServices | None"


def open_services(resources: Resources) -> Services:
    """Create the services of a process. Their threads end with the foundation."""
    settings, stores = resources.settings, resources.stores
    passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds)
    resources.stack.callback(passwords.close)
    lockout = Lockout(settings.accounts.lockout, shared=stores.failures)
    registrations = RegistrationLimit(settings.accounts.registration_limit, shared=stores.buckets)
    limits = None if settings.mail is None else MailLimits(settings.mail.limits, shared=stores.buckets)
    verification = None
    if limits is not None and settings.accounts.email.verification == "required":
        verification = VerificationRequired(stores.outbox, limits)
    accounts = Accounts(
        users=stores.users,
        sessions=stores.sessions,
        passwords=passwords,
        feed=stores.feed,
        settings=settings,
        tokens=resources.tokens,
        lockout=lockout,
        registrations=registrations,
        verification=verification,
        mail_limits=limits,
    )
    administration = Administration(
        users=stores.users,
        sessions=stores.sessions,
        passwords=passwords,
        feed=stores.feed,
        settings=settings,
        trail=stores.trail,
    )
    confirmation = Confirmation(stores.users, passwords, lockout)
    mail = None
    if limits is not None:
        from gateway.server.mail import open_mail  # Imports the libraries of SMTP and of texts.

        mail = open_mail(
            resources,
            accounts=accounts,
            passwords=passwords,
            confirmation=confirmation,
            registrations=registrations,
            limits=limits,
        )
    return Services(
        passwords,
        lockout,
        accounts,
        administration,
        sessions=SessionService(stores.sessions, stores.feed),
        api_keys=ApiKeyService(stores.api_keys, stores.feed, settings),
        browser=_browser_sessions(resources, accounts.sign_in, confirmation),
        mail=mail,
    )


def _browser_sessions(
    resources: Resources, sign_in: PasswordSignIn, confirmation: Confirmation
) -> "BrowserSessions | None":
    stores = resources.stores
    if resources.session_verifier is None:
        return None
    # Imported here: most gateways have no sessions of browsers.
    from gateway.accounts.browser_sessions import BrowserSessions
    from gateway.server.session_cleaning import SessionCleaning

    cleaning = SessionCleaning(stores.sessions.delete_old)
    cleaning.start()
    resources.stack.push_async_callback(cleaning.close)
    return BrowserSessions(
        stores.browser_sessions,
        users=stores.users,
        sessions=stores.sessions,
        sign_in=sign_in,
        confirmation=confirmation,
        verifier=resources.session_verifier,
        feed=stores.feed,
        settings=resources.settings,
    )


def endpoints(
    resources: Resources,
    services: Services,
    *,
    metrics: Metrics,
    memory: ConsoleMemory,
    readiness: Readiness,
    version: Callable[[], str],
    current: Callable[[], Configuration],
    pages: "Pages | None",
) -> Mapping[str, Endpoint]:
    """Every endpoint by its route name. `version` returns the version of the active policy, `current` the active
    configuration. `memory` is that of the console. `pages` is None without pages."""
    observability = resources.settings.observability
    first_sessions = FirstSessions(services.browser, lambda: current().policy)
    return {
        **account_endpoints(services.accounts, services.browser, first_sessions),
        **_browser_endpoints(services, current),
        **session_endpoints(services.sessions),
        **key_endpoints(services.api_keys),
        **administration_endpoints(services.administration),
        **_link_endpoints(services, first_sessions, resources.settings),
        **operation_endpoints(state=readiness, policy=version, metrics=metrics, settings=observability),
        **openapi_endpoints(lambda: current().settings, resources.policy.own),
        **_console_on_demand(
            # Not `resources`: a reload must free the first configuration.
            partial(
                _open_console,
                services.accounts,
                resources.tokens,
                resources.stores.directory,
                admin_role=resources.settings.accounts.admin_role,
                metrics=metrics,
                memory=memory,
                current=current,
                version=version,
            )
        ),
        **_page_endpoints(pages, services),
        "tokens.jwks": _jwks(resources.tokens.keys),
    }


def _console_on_demand(open_console: Callable[[], Mapping[str, Endpoint]]) -> Mapping[str, Endpoint]:
    """The console, opened in a thread at the first request for it: its modules take 2 MiB and a tenth of a start."""
    opened: Mapping[str, Endpoint] | None = None
    opening = asyncio.Lock()

    def endpoint(name: str) -> Endpoint:
        async def run(request: Request) -> Response:
            nonlocal opened
            async with opening:  # a failure, such as a lack of descriptors, is not kept: the next request tries again
                if opened is None:
                    opened = await asyncio.to_thread(open_console)
            return await opened[name](request)

        return run

    return {name: endpoint(name) for name in OWN_ROUTES}


def _open_console(
    accounts: Accounts,
    tokens: Tokens,
    directory: Directory,
    *,
    admin_role: str,
    metrics: Metrics,
    memory: ConsoleMemory,
    current: Callable[[], Configuration],
    version: Callable[[], str],
) -> Mapping[str, Endpoint]:
    # Imported here, as above.
    from gateway.api.console.endpoints import Console, console_endpoints
    from gateway.api.console.pages import PATH
    from gateway.api.console.session import SigningIn

    signing_in = SigningIn(
        PATH,
        accounts,
        admin_role=admin_role,
        tokens=tokens,
        directory=directory,
        settings=lambda: current().settings,
    )
    return console_endpoints(Console(signing_in, metrics, memory=memory, current=current, version=version))


def _browser_endpoints(services: Services, current: Callable[[], Configuration]) -> Mapping[str, Endpoint]:
    if services.browser is None:
        return {}
    from gateway.api.browser_sessions import browser_endpoints  # Imported here: only sessions of browsers need it.

    return browser_endpoints(services.browser, services.accounts, lambda: current().policy)


def open_pages(resources: Resources) -> "Pages | None":
    """The pages for accounts, None without them. Raises ConfigurationError for faulty texts and templates."""
    if resources.settings.accounts.pages is None:
        return None
    from gateway.api.pages.endpoints import Pages  # Jinja2 takes 20 ms and 3 MiB.

    return Pages(resources.settings)


def _page_endpoints(pages: "Pages | None", services: Services) -> Mapping[str, Endpoint]:
    if pages is None or services.browser is None:
        return {}
    from gateway.api.pages.endpoints import page_handlers  # Imported here, as above.

    return pages.endpoints(
        page_handlers(
            services.browser,
            accounts=services.accounts,
            sessions=services.sessions,
            keys=services.api_keys,
            links=services.mail,
        )
    )


def _link_endpoints(services: Services, first_sessions: FirstSessions, settings: Settings) -> Mapping[str, Endpoint]:
    mail = services.mail
    if mail is None:
        return {}
    from gateway.api.links import LinkEndpoints, link_endpoints  # Imported here: only links in mails need it.

    handlers = LinkEndpoints(
        verification=mail.verification,
        resets=mail.resets,
        invitations=mail.invitations,
        acceptance=mail.acceptance,
        first_sessions=first_sessions,
        settings=settings,
    )
    return link_endpoints(handlers, settings)


def api_routes(policy: Policy, by_name: Mapping[str, Endpoint]) -> list[StarletteRoute]:
    """The endpoints at the paths that the policy reserves for them."""
    routes: list[StarletteRoute] = []
    for route in policy.own:
        endpoint = by_name.get(route.endpoint or "")
        if endpoint is not None and route.methods is not None:
            methods = sorted(method.decode("ascii") for method in route.methods)
            routes.append(StarletteRoute(route.pattern, endpoint, methods=methods, name=route.name))
    return routes


def _jwks(keys: KeyRing) -> Endpoint:
    async def jwks(request: Request) -> Response:
        """The public keys. Identical for all clients: the only built-in response that can be cached."""
        return JSONResponse(keys.jwks(), headers={"cache-control": "max-age=300"})

    return jwks
