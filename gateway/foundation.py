"""What a running gateway stands on: its clock, keys, stores, credentials, and who counts. `app.py` builds upon it."""

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.identity.credentials import Credentials
from gateway.identity.key_loading import key_ring, mac_keys
from gateway.identity.presented_keys import PresentedKeys
from gateway.identity.tokens import Tokens
from gateway.issuers.opening import open_issuers
from gateway.operations.events import EventHandler, Failures
from gateway.operations.observer import Observer
from gateway.operations.shadow_log import ShadowLog
from gateway.policy.loading import Configuration
from gateway.policy.matcher import Policy
from gateway.settings.model import Settings
from gateway.stores import Stores, open_stores
from gateway.ticking import Ticker


@dataclass(frozen=True, slots=True)
class Foundation:
    """Made once for a process: a reload changes what these know, not which they are. `configuration` is the one that
    the process has started with; `stack` closes all that is opened, the last first."""

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
        """The settings that the process has started with."""
        return self.configuration.settings

    @property
    def policy(self) -> Policy:
        """The policy that the process has started with."""
        return self.configuration.policy


async def lay_foundation(configuration: Configuration, stack: AsyncExitStack) -> Foundation:
    """Open what everything else needs; `stack` closes it. Raises CannotStart and ConfigurationError."""
    settings, policy = configuration.settings, configuration.policy
    remembered = settings.cache.max_local_entries
    loop = asyncio.get_running_loop()
    _report_failures(loop, stack)
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
    """What should not have happened is said on standard error, with its traceback, once a minute for each place."""
    failures = Failures()
    handler = EventHandler(failures)
    for name in ("gateway", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
    loop.set_exception_handler(failures.on_loop_error)
    stack.callback(loop.set_exception_handler, None)
