"""The external issuers of tokens (`tokens.external`), with the keys that they publish."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from gateway.identity.discovery.jwks_client import PublishedKeySet, discovered_keys, keys_at
from gateway.identity.external_issuer import ExternalIssuer
from gateway.settings.model import ExternalSettings, TokensSettings
from gateway.ticker import Ticker


def open_issuers(
    settings: TokensSettings, ticker: Ticker, *, clock: Callable[[], float], stack: AsyncExitStack, remembered: int
) -> dict[str, ExternalIssuer]:
    """The external issuers by `iss`. Their keys are fetched in the background until `stack` closes.

    `clock` is the ticker's, in seconds. All issuers together cache at most `remembered` tokens. Startup does not wait
    for issuers: until the keys of an issuer arrive, only requests with its tokens wait, and an issuer that is down
    affects nothing else.
    """
    issuers = {}
    for external in settings.external:
        keys = _keys(external, clock)
        keys.tick(clock())
        ticker.subscribe(keys.tick)
        stack.callback(keys.close)
        issuers[external.issuer] = ExternalIssuer(
            external, keys, leeway=settings.leeway, remembered=remembered // len(settings.external)
        )
    return issuers


def _keys(external: ExternalSettings, clock: Callable[[], float]) -> PublishedKeySet:
    fetch = discovered_keys(external.issuer) if external.jwks_url is None else keys_at(external.jwks_url)
    return PublishedKeySet(external.name, fetch, algorithms=external.algorithms, clock=clock)
