"""The former name of `gateway.client`."""

from gateway.client import AssertionVerifier, Identity, IdentityMiddleware

__all__ = ["AssertionVerifier", "Identity", "IdentityMiddleware"]
