"""For upstreams in Python: who calls, verified from the assertion that the gateway sends along.

    from gateway.upstream import Identity, IdentityMiddleware

It imports nothing of the gateway that serves; httpx is imported when the keys are fetched for the first time.
"""

from gateway.upstream.middleware import IdentityMiddleware
from gateway.upstream.verifier import AssertionVerifier, Identity

__all__ = ["AssertionVerifier", "Identity", "IdentityMiddleware"]
