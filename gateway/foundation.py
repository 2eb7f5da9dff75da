"""Long-lived resources: clock, keys, stores, verifiers, metrics."""

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.errors import ConfigurationError
from gateway.identity.access_token import Tokens
from gateway.identity.api_key_verifier import PresentedKeys
from gateway.identity.credentials import Credentials
from gateway.identity.discovery.open import open_issuers
from gateway.identity.signing_keys import key_ring, mac_keys
from gateway.observability.events import EventHandler, Failures
from gateway.observability.observer import Observer
from gateway.observability.shadow_log import ShadowLog
from gateway.policy.loader import Configuration
from gateway.policy.policy import Policy
from gateway.settings.model import Settings
from gateway.settings.storage_folder import missing_folder
from gateway.stores import Stores, open_stores
from gateway.ticker import Ticker


@dataclass(frozen=True, slots=True)
class Foundation:
    """The resources of a process. A reload changes their contents but keeps the objects. `configuration` is the initial
    one; `stack` closes all resources in reverse order."""

    configuration: Configuration
    stack: AsyncExitStack
    loop: asyncio.AbstractEventLoop
    ticker: Ticker
    tokens: Tokens
    stores: Stores
    credentials: Credentials
    observer: Observer
    shadow_log: ShadowLog

    @property
    def settings(self) -> Settings:
        """The initial settings."""
        return self.configuration.settings

    @property
    def policy(self) -> Policy:
        """The initial policy."""
        return self.configuration.policy


async def lay_foundation(configuration: Configuration, stack: AsyncExitStack) -> Foundation:
    """Open the resources; `stack` closes them. Raises CannotStart and ConfigurationError."""
    settings, policy = configuration.settings, configuration.policy
    remembered = settings.cache.max_local_entries
    loop = asyncio.get_running_loop()
    _report_failures(loop, stack)
    if problems := missing_folder(settings):
        raise ConfigurationError(problems)
    tokens = Tokens(key_ring(settings), settings.tokens, remembered=remembered)
    ticker = Ticker(loop)
    stores = await open_stores(settings, mac_keys(settings, tokens.keys), stack)
    presented_keys = PresentedKeys(stores.api_keys, tokens, ttl=settings.cache.user_ttl)
    stack.push_async_callback(presented_keys.close)
    issuers = open_issuers(settings.tokens, ticker, clock=loop.time, stack=stack, remembered=remembered)
    observer = Observer(settings.observability, [route.name for route in (*policy.own, *policy.routes)])
    stack.callback(observer.close)
    return Foundation(
        configuration,
        stack,
        loop,
        ticker,
        tokens,
        stores,
        Credentials(tokens, issuers=issuers, api_keys=presented_keys, max_size=settings.tokens.max_size),
        observer,
        ShadowLog(),
    )


def _report_failures(loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
    """Log unexpected errors with their traceback on standard error, once a minute per source line."""
    failures = Failures()
    handler = EventHandler(failures)
    for name in ("gateway", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
    loop.set_exception_handler(failures.on_loop_error)
    stack.callback(loop.set_exception_handler, None)
