"""The composition root: the only place that knows how everything is put together.

`create_app` gives a Starlette application, the ASGI face. `running` makes the runtime behind it; `gateway serve` uses
the same two and puts its own protocol class in front.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

from gateway.accounts import described as accounts_described
from gateway.accounts.administration import Administration
from gateway.accounts.administration_endpoints import administration_endpoints
from gateway.accounts.endpoints import account_endpoints
from gateway.accounts.first_admin import how_to_make_one
from gateway.accounts.key_endpoints import key_endpoints
from gateway.accounts.lockout import Lockout
from gateway.accounts.own_keys import OwnKeys
from gateway.accounts.own_sessions import OwnSessions
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.service import Accounts
from gateway.accounts.session_endpoints import session_endpoints
from gateway.asgi.middleware import GateMiddleware
from gateway.console.endpoints import OPERATIONS as CONSOLE_OPERATIONS
from gateway.console.endpoints import Console, console_endpoints
from gateway.console.pages import PATH as CONSOLE
from gateway.console.signing_in import SigningIn
from gateway.errors import CannotStart, Refusal, StorageUnavailable
from gateway.gate import Gate
from gateway.identity.assertions import Assertions
from gateway.identity.credentials import Credentials
from gateway.identity.key_loading import key_ring
from gateway.identity.keys import KeyRing
from gateway.identity.presented_keys import PresentedKeys
from gateway.identity.tokens import Tokens
from gateway.issuers.opening import open_issuers
from gateway.limits.limits import Limits
from gateway.logged_gate import gate_maker, shadowing
from gateway.openapi.endpoints import openapi_endpoints
from gateway.operations import described as operations_described
from gateway.operations.board import Place
from gateway.operations.decision_log import DecisionLog
from gateway.operations.endpoints import Readiness, operation_endpoints
from gateway.operations.events import EventHandler, Failures, event
from gateway.operations.metrics import Metrics
from gateway.operations.observer import Observer
from gateway.operations.shadow_log import ShadowLog
from gateway.own_errors import failed, refused, store_is_out
from gateway.policy.loading import Configuration, load_configuration, operations_policy
from gateway.policy.version import policy_version
from gateway.proxy.proxy import Proxy
from gateway.proxy.tls import TlsContexts
from gateway.reloading import Reloader
from gateway.runtime import Runtime, RuntimeHolder
from gateway.settings.model import Settings
from gateway.stores import Stores, open_stores
from gateway.ticking import Ticker
from gateway.verifying import Verifier
from gateway.wire.addresses import TrustedProxies
from gateway.wire.fields import FieldRules

if TYPE_CHECKING:
    from gateway.operations.tracing import Tracer

Endpoint = Callable[[Request], Awaitable[Response]]

# What the own endpoints say of themselves.
OPERATIONS: Final = {**accounts_described.OPERATIONS, **operations_described.OPERATIONS, **CONSOLE_OPERATIONS}
SCHEMAS: Final = {**accounts_described.SCHEMAS, **operations_described.SCHEMAS}


def create_app_from_environment() -> Starlette:
    """A factory for ASGI servers: the configuration is GATEWAY_CONFIG, else config/gateway.yaml."""
    return create_app(load_configuration(Path(os.environ.get("GATEWAY_CONFIG", "config/gateway.yaml"))))


def create_app(configuration: Configuration) -> Starlette:
    """The gateway as an ASGI application. Its stores are opened by the lifespan, and closed by it."""
    holder = RuntimeHolder()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with running(configuration, app) as (runtime, _):
            holder.runtime = runtime
            runtime.readiness.phase = "serving"
            yield
            runtime.readiness.phase = "draining"

    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(GateMiddleware, holder=holder)],
        exception_handlers={Refusal: refused, StorageUnavailable: store_is_out, Exception: failed},
    )


@asynccontextmanager
async def running(
    configuration: Configuration, app: Starlette, place: Place | None = None
) -> AsyncIterator[tuple[Runtime, Reloader]]:
    """A running gateway, and what changes it; `app` is given the own endpoints. `place` is where it tells other workers
    what it has counted. Raises CannotStart and ConfigurationError."""
    settings, policy = configuration.settings, configuration.policy
    keys = key_ring(settings)
    tokens = Tokens(keys, settings.tokens)
    loop = asyncio.get_running_loop()
    ticker = Ticker(loop)
    async with AsyncExitStack() as stack:
        _report_failures(loop, stack)
        stores = await open_stores(settings, stack)
        presented_keys = PresentedKeys(stores.api_keys, tokens, ttl=settings.cache.user_ttl)
        stack.push_async_callback(presented_keys.close)
        issuers = open_issuers(settings.tokens, ticker, clock=loop.time, stack=stack)
        credentials = Credentials(tokens, issuers=issuers, api_keys=presented_keys)
        observer = Observer(settings.observability, [route.name for route in (*policy.own, *policy.routes)])
        stack.callback(observer.close)
        shadow_log = ShadowLog()
        make_gate = shadowing(gate_maker(_decision_log(settings, observer, lambda: runtime.policy)), shadow_log)
        rules = FieldRules(_own_header_names(settings))
        tls = TlsContexts(settings.upstreams)
        wanted = settings.identity.assertion
        assertions = None if wanted is None else Assertions(tokens, wanted, ticker)
        proxy = Proxy(settings, policy.routes, rules=rules, ticker=ticker, loop=loop, tls=tls, assertions=assertions)
        runtime = Runtime(
            server=settings.server,
            gate=make_gate(
                policy=policy,
                credentials=credentials,
                directory=stores.directory,
                limits=Limits(policy.routes, shared=stores.buckets),
                relaxed=settings.server.paths == "relaxed",
            ),
            make_gate=make_gate,
            policy=policy_version(settings),
            verifier=Verifier(_own_header_names(settings), assertions),
            proxy=proxy,
            own=app,
            observer=observer,
            readiness=Readiness(stores.degraded),
            rules=rules,
            proxies=TrustedProxies(settings.server.trusted_proxies),
            ticker=ticker,
            loop=loop,
        )
        runtime.tracer = _tracer(settings, observer, stack)
        if settings.server.operations_port is not None:
            runtime.with_operations(_operations_gate(settings, credentials, stores))
        passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds)
        stack.callback(passwords.close)
        lockout = Lockout(settings.accounts.lockout, shared=stores.failures)
        accounts, administration = _accounts(stores, tokens, settings, passwords=passwords, lockout=lockout)
        if place is None or place.number == 0:  # once, however many workers there are
            await _say_without_admin(administration)
        metrics = Metrics(observer, place)
        for source in (runtime, stores, credentials, passwords, lockout, ticker.lag, shadow_log):
            metrics.add(source.samples)
        stack.callback(metrics.close)
        own_keys = OwnKeys(stores.api_keys, stores.feed, settings)
        signing_in = SigningIn(CONSOLE, accounts, tokens=tokens, directory=stores.directory, settings=settings)
        handlers = {
            **account_endpoints(accounts),
            **session_endpoints(OwnSessions(stores.sessions, stores.feed)),
            **key_endpoints(own_keys),
            **administration_endpoints(administration),
            **operation_endpoints(
                state=runtime.readiness, policy=lambda: runtime.policy, metrics=metrics, settings=settings
            ),
            **openapi_endpoints(settings, policy.own, OPERATIONS, SCHEMAS),
            **console_endpoints(Console(signing_in, metrics, current=lambda: reloader.configuration)),
            "tokens.jwks": _jwks(keys),
        }
        followers = (accounts, administration, own_keys)
        reloader = Reloader(
            configuration, runtime, credentials=credentials, directory=stores.directory, followers=followers
        )
        _serve_own(app, configuration, handlers)
        ticker.listen(observer.tick)
        ticker.listen(metrics.tick)
        ticker.start()
        stack.callback(lambda: runtime.proxy.close())
        stack.callback(runtime.watch.close)
        stack.callback(ticker.stop)
        yield runtime, reloader


def _tracer(settings: Settings, observer: Observer, stack: AsyncExitStack) -> "Tracer | None":
    """What traces requests, None where nobody asks for it. Raises CannotStart where its libraries are not there."""
    asked = settings.observability.tracing
    if asked is None:
        return None
    try:
        from gateway.operations.tracing import Tracer  # its libraries take half a second and 20 MiB, and few ask for it
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"observability.tracing needs what is not installed ({error.name}): pip install 'gateway[tracing]'"
        ) from None
    tracer = Tracer(asked)
    stack.callback(tracer.close)
    observer.completed = tracer.observing(observer.completed)
    return tracer


def _operations_gate(settings: Settings, credentials: Credentials, stores: Stores) -> Gate:
    """What comes to `server.operations_port` goes by this one."""
    return Gate(
        policy=operations_policy(settings),
        credentials=credentials,
        directory=stores.directory,
        limits=Limits(),
        relaxed=False,
    )


def _accounts(
    stores: Stores, tokens: Tokens, settings: Settings, *, passwords: PasswordPool, lockout: Lockout
) -> tuple[Accounts, Administration]:
    shared: dict[str, Any] = {
        "users": stores.users,
        "sessions": stores.sessions,
        "passwords": passwords,
        "feed": stores.feed,
        "settings": settings,
    }
    return Accounts(**shared, tokens=tokens, lockout=lockout), Administration(**shared, trail=stores.trail)


def _decision_log(settings: Settings, observer: Observer, version: Callable[[], str]) -> DecisionLog | None:
    wanted = settings.observability.decision_log
    return None if wanted is None else DecisionLog(wanted, observer.say, version=version)


async def _say_without_admin(administration: Administration) -> None:
    command = await how_to_make_one(administration)
    if command is not None:
        event("accounts", f"nobody may administrate accounts yet; at this machine run: {command}")


def _own_header_names(settings: Settings) -> tuple[str, ...]:
    """The headers that only the gateway may set: identity, and the assertion where there is one."""
    headers, assertion = settings.identity.headers, settings.identity.assertion
    names = [headers.id, headers.email, headers.roles, assertion.header if assertion is not None else None]
    return tuple(name for name in names if name is not None)


def _report_failures(loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
    """What should not have happened is said on standard error, with its traceback, once a minute for each place."""
    failures = Failures()
    handler = EventHandler(failures)
    for name in ("gateway", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
    loop.set_exception_handler(failures.on_loop_error)
    stack.callback(loop.set_exception_handler, None)


# ---- the gateway's own endpoints


def _jwks(keys: KeyRing) -> Endpoint:
    async def jwks(request: Request) -> Response:
        """The public keys. Public and the same for everybody: the only own answer that may be stored."""
        return JSONResponse(keys.jwks(), headers={"cache-control": "max-age=300"})

    return jwks


def _serve_own(app: Starlette, configuration: Configuration, handlers: Mapping[str, Endpoint]) -> None:
    """Serve what there is a handler for, at the paths that the policy reserves for it."""
    app.router.routes.clear()
    for route in configuration.policy.own:
        handler = handlers.get(route.endpoint or "")
        if handler is not None and route.methods is not None:
            methods = sorted(method.decode("ascii") for method in route.methods)
            app.router.routes.append(StarletteRoute(route.pattern, handler, methods=methods, name=route.name))
