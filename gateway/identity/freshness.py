"""Freshness of sensitive requests: a recent authentication (RFC 9470).

A stolen token or cookie is valid for a while, and a new password or API key would extend the access of the thief. API
keys and tokens of external issuers say nothing about an authentication, so they are never fresh.
"""

from gateway.errors import Refusal, reauthentication_required
from gateway.identity.user import Claims


def not_fresh(claims: Claims, max_age: float, *, now: float, leeway: float) -> Refusal | None:
    """The refusal of a credential whose authentication is not recent enough, None if it is. Times are in seconds."""
    if claims.auth_time and now - claims.auth_time <= max_age + leeway:
        return None
    reason = f"authenticated {now - claims.auth_time:.0f} s ago" if claims.auth_time else "no authentication is known"
    return reauthentication_required(max_age, reason)
