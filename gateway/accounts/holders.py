"""Account changes require a session of the gateway's own."""

from gateway.errors import Refusal
from gateway.identity.accounts import Actor, Origin
from gateway.identity.user import Claims


def account_holder(claims: Claims, origin: Origin) -> Actor:
    """The caller as the holder of the account. Raises `forbidden` without a session of the gateway's own.

    Subjects of external issuers manage passwords and sessions there. API keys are for machines: if a key could create
    another key or set a password, a stolen key could outlive its deletion.
    """
    if claims.roles is not None:
        raise Refusal("forbidden", "requires a session of the gateway's own")
    return Actor(claims.subject, origin)
