"""The composition root: all wiring of the application happens here.

`running` builds the runtime that `gateway serve` and the ASGI application share. Long-lived resources are in
`server/resources.py`, built-in endpoints in `server/endpoints.py`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.accounts.administration import Administration, how_to_make_one
from gateway.api.console.memory import ConsoleMemory
from gateway.api.console.recent_refusals import RecentRefusals
from gateway.api.errors import NoStore, failed, refused, store_is_out
from gateway.api.operations import Readiness
from gateway.errors import ConfigurationError, Refusal, StorageUnavailable
from gateway.gate.factory import GateFactory
from gateway.gate.forward_auth import Verifier
from gateway.gate.gate import Gate
from gateway.gate.rate_limits import Limits
from gateway.gate.session_cookies import own_cookies
from gateway.identity.assertions import Assertions
from gateway.identity.credentials import CredentialLines
from gateway.observability.decision_log import DecisionLog
from gateway.observability.events import event
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.metrics.shared_memory import WorkerSlot
from gateway.policy.loader import Configuration, operations_policy
from gateway.policy.version import policy_version
from gateway.proxy.proxy import Proxy
from gateway.proxy.tls import TlsContexts
from gateway.samples import SampleSource
from gateway.server.endpoints import Endpoint, Services, api_routes, endpoints, open_pages, open_services
from gateway.server.reload import Reloadable, Reloader
from gateway.server.resources import Resources, open_resources
from gateway.server.runtime import Runtime
from gateway.settings.checks import missing_extras
from gateway.settings.model import Settings
from gateway.wire.addresses import TrustedProxies, is_loopback
from gateway.wire.fields import FieldRules

# Only annotations. Pages and tracing are imported if they are configured.
if TYPE_CHECKING:
    from gateway.api.pages.endpoints import Pages
    from gateway.observability.tracing import Tracer


@asynccontextmanager
async def running(
    configuration: Configuration, slot: WorkerSlot | None = None
) -> AsyncIterator[tuple[Runtime, Reloader]]:
    """A running gateway and its reloader.

    `slot` is the worker's in the shared metrics. Raises CannotStart and ConfigurationError.
    """
    async with AsyncExitStack() as stack:
        resources = await open_resources(configuration, stack)
        services = open_services(resources)
        metrics = Metrics(resources.observer, slot)
        resources.stack.callback(metrics.close)
        memory = ConsoleMemory.of(metrics)
        readiness = Readiness(resources.stores.degraded)
        pages = open_pages(resources)
        api = _api(
            resources,
            endpoints(
                resources,
                services,
                metrics=metrics,
                memory=memory,
                readiness=readiness,
                version=lambda: reloader.policy_version,
                current=lambda: reloader.configuration,
                pages=pages,
            ),
        )
        runtime = _runtime(resources, api, readiness, memory.refusals)
        if pages is not None:
            runtime.refusal_page = pages.refusals
        await services.accounts.prepare()
        if slot is None or slot.number == 0:  # Once, independent of the number of workers.
            _say_where_to_sign_in(resources.settings)
            await _say_without_admin(services.administration)
        _add_sources(metrics, resources, services=services, runtime=runtime)
        reloader = _reloader(resources, runtime, services=services, pages=pages)
        _start_ticking(resources, runtime, metrics=metrics, memory=memory)
        # This frame lives as long as the gateway. A reload must free the first configuration, which both refer to.
        del configuration, resources
        yield runtime, reloader


def _api(resources: Resources, by_name: Mapping[str, Endpoint]) -> Starlette:
    """The application of the built-in endpoints, called for admitted requests."""
    return Starlette(
        routes=api_routes(resources.policy, by_name),
        middleware=[Middleware(NoStore)],
        exception_handlers={Refusal: refused, StorageUnavailable: store_is_out, Exception: failed},
    )


def _runtime(resources: Resources, api: Starlette, readiness: Readiness, refusals: RecentRefusals) -> Runtime:
    """The runtime for the initial configuration."""
    settings, policy, ticker = resources.settings, resources.policy, resources.ticker
    decision_log = _decision_log(resources, lambda: runtime.policy_version)
    gates = GateFactory(
        resources.credentials,
        resources.stores.directory,
        sessions=resources.session_verifier,
        decisions=decision_log,
        shadow_decisions=resources.shadow_log,
    )
    own_names = _own_header_names(settings)
    rules = FieldRules(own_names, own_cookies(settings))
    assertions = _assertions(resources)
    runtime = Runtime(
        server=settings.server,
        gate=gates.build(
            policy, resources.configuration.shadows, Limits(policy.routes, shared=resources.stores.buckets)
        ),
        gates=gates,
        policy_version=policy_version(settings),
        verifier=Verifier(
            own_names,
            assertions,
            decision_log,
            credential_lines=CredentialLines.of(settings.identity.headers),
        ),
        proxy=Proxy(
            settings,
            policy.routes,
            rules=rules,
            ticker=ticker,
            loop=resources.loop,
            tls=TlsContexts(settings.upstreams),
            assertions=assertions,
        ),
        api=api,
        observer=resources.observer,
        readiness=readiness,
        header_rules=rules,
        proxies=TrustedProxies(settings.server.trusted_proxies),
        ticker=ticker,
        loop=resources.loop,
        refusals=refusals,
        decision_log=decision_log,
    )
    runtime.tracer = _tracer(resources)
    if settings.server.operations_port is not None:
        runtime.with_operations(_operations_gate(resources))
    return runtime


def _operations_gate(resources: Resources) -> Gate:
    """The gate of the listener on `server.operations_port`."""
    return Gate(
        policy=operations_policy(resources.settings),
        credentials=resources.credentials,
        directory=resources.stores.directory,
        limits=Limits(),
    )


def _decision_log(resources: Resources, version: Callable[[], str]) -> DecisionLog | None:
    settings = resources.settings.observability.decision_log
    return None if settings is None else DecisionLog(settings, resources.observer.say, version=version)


def _assertions(resources: Resources) -> Assertions | None:
    settings = resources.settings.identity.assertion
    return None if settings is None else Assertions(resources.tokens, settings, resources.ticker)


def _tracer(resources: Resources) -> "Tracer | None":
    """The tracer, None without `observability.tracing`. Raises ConfigurationError if its libraries are missing."""
    settings = resources.settings.observability.tracing
    if settings is None:
        return None
    problems = missing_extras(resources.settings)
    if problems:
        raise ConfigurationError(problems)
    from gateway.observability.tracing import Tracer  # Its libraries take half a second and 20 MiB.

    tracer = Tracer(settings)
    resources.stack.callback(tracer.close)
    resources.observer.completed = tracer.observing(resources.observer.completed)
    return tracer


def _add_sources(metrics: Metrics, resources: Resources, *, services: Services, runtime: Runtime) -> None:
    sources: tuple[SampleSource, ...] = (
        runtime.samples,
        resources.stores.samples,
        resources.credentials.samples,
        services.passwords.samples,
        services.lockout.samples,
        services.accounts.sign_in.samples,
        *(() if resources.session_verifier is None else (resources.session_verifier.samples,)),
        *(() if services.browser is None else (services.browser.samples,)),
        resources.ticker.lag.samples,
        resources.shadow_log.samples,
        *(() if services.mail is None else (services.mail.samples,)),
    )
    for source in sources:
        metrics.add(source)


def _reloader(resources: Resources, runtime: Runtime, *, services: Services, pages: "Pages | None") -> Reloader:
    return Reloader(
        resources.configuration,
        runtime,
        credentials=resources.credentials,
        directory=resources.stores.directory,
        followers=(
            services.accounts,
            services.administration,
            services.api_keys,
            *_browser_followers(services),
        ),
        pages=pages,
        mail=services.mail,
    )


def _browser_followers(services: Services) -> tuple[Reloadable, ...]:
    return () if services.browser is None else (services.browser,)


def _start_ticking(resources: Resources, runtime: Runtime, *, metrics: Metrics, memory: ConsoleMemory) -> None:
    """Start the ticker. It stops first, so that it calls no closed component."""
    resources.ticker.subscribe(resources.observer.tick)
    resources.ticker.subscribe(metrics.tick)
    resources.ticker.subscribe(memory.refusals.tick)
    if resources.observer.has_metrics:
        resources.ticker.subscribe(memory.history.tick)
        resources.stack.callback(memory.history.close)
    resources.ticker.start()
    resources.stack.callback(lambda: runtime.proxy.close())
    resources.stack.callback(runtime.watch.close)
    resources.stack.callback(resources.ticker.stop)


def _say_where_to_sign_in(settings: Settings) -> None:
    """Name the one address of a gateway for development where the listener's own address is another origin, whose
    forms are refused."""
    address = settings.server.public_url
    if settings.sessions is None or address is None or not is_loopback(address):
        return
    if urlsplit(address).hostname != settings.server.host:
        event("sessions", f"open {address} in the browser: sessions work at no other address (server.public_url)")


async def _say_without_admin(administration: Administration) -> None:
    command = await how_to_make_one(administration)
    if command is not None:
        event("accounts", f"no administrator exists yet; run on this machine: {command}")


def _own_header_names(settings: Settings) -> tuple[str, ...]:
    """The headers that only the gateway sets: identity headers and the assertion."""
    headers, assertion = settings.identity.headers, settings.identity.assertion
    return (*headers.names.values(), *(() if assertion is None else (assertion.header,)))
