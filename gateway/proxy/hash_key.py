"""The key with which an upstream with `balance: {hash: …}` chooses a target."""

import re
from collections.abc import Callable
from typing import TypeAlias

from gateway.gate.admission import RequestHead
from gateway.settings.model import BalanceSettings

HashKey: TypeAlias = Callable[[RequestHead, bytes], bytes | None]
"""Returns the key for a request and its upstream field block, or None if the request has no key."""


def hash_key_of(balance: BalanceSettings) -> HashKey:
    """Return the function that finds the key of a request."""
    kind, _, name = balance.hash.partition(" ")
    if kind == "cookie":
        return _cookie(name.encode("ascii"))
    if kind == "header":
        return _header(name.encode("ascii"))
    return _client_address


def _client_address(request: RequestHead, block: bytes) -> bytes | None:
    return request.client.encode("ascii", "replace") or None


def _cookie(name: bytes) -> HashKey:
    """Use the first cookie of this name with a value (RFC 6265 5.4). Names are case-sensitive."""
    pair = re.compile(rb"(?:^|;)[ \t]*" + re.escape(name) + rb"[ \t]*=[ \t]*([^;]*[^; \t])")

    def find(request: RequestHead, block: bytes) -> bytes | None:
        for field, value in request.fields.kept:
            if len(field) == 6 and field.lower() == b"cookie":
                found = pair.search(value)
                if found is not None:
                    return found[1]
        return None

    return find


def _header(name: bytes) -> HashKey:
    """Use the first field of this name in the upstream request. It includes the identity headers of the gateway and
    excludes those that a client forges."""
    line = re.compile(rb"^" + re.escape(name) + rb":[ \t]*([^\r\n]*[^\r\n \t])", re.IGNORECASE | re.MULTILINE)

    def find(request: RequestHead, block: bytes) -> bytes | None:
        found = line.search(block)
        return None if found is None else found[1]

    return find
