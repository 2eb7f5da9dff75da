"""For upstreams in Python: the caller's identity, verified from the gateway's assertion.

    from gateway.client import Identity, IdentityMiddleware

The import is light: it loads no part of the server, and httpx only for the first fetch of the keys.
"""

from gateway.client.middleware import IdentityMiddleware
from gateway.client.verifier import AssertionVerifier, Identity

__all__ = ["AssertionVerifier", "Identity", "IdentityMiddleware"]
