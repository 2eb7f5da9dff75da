"""Who may change an account: its holder, signed in with a session of this gateway's own."""

from gateway.errors import Refusal
from gateway.identity.accounts import Actor, Origin
from gateway.identity.records import Claims


def account_holder(claims: Claims, origin: Origin) -> Actor:
    """The caller as the holder of the account. Raises `forbidden` for whoever is not signed in with a session.

    Another issuer's subjects have their password and their sessions there. An API key is for machines: were it enough
    to make another key or another password, whoever finds one could keep what it opens after it has been deleted.
    """
    if claims.roles is not None:
        raise Refusal("forbidden", "asks for a session of the gateway's own")
    return Actor(claims.subject, origin)
