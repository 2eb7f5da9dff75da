"""Every warning of `gateway check`, with its reason: legal settings that are dangerous, or likely mistakes.

A comment beside the line silences a warning by its name: `# gateway: allow short-passwords`. docs/warnings.md has the
same reasons.
"""

from collections.abc import Mapping
from typing import Final

WARNINGS: Final[Mapping[str, str]] = {
    # ---- single values and sections; `gateway serve` logs these too
    "wide-trusted-proxies": "A trusted proxy can state any client address.",
    "database-in-memory": "Accounts and sessions are lost when the process ends.",
    "few-bcrypt-rounds": "An attacker with a stolen password table guesses passwords quickly.",
    "short-passwords": "An attacker can guess short passwords at the login.",
    "refresh-shorter-than-access": "The refresh token expires before the access token that it renews.",
    "long-leeway": "Tokens stay valid after their expiry.",
    "unmapped-roles": "The roles of an issuer have no effect unless `role_map` maps them to roles of the gateway.",
    "id-tokens-accepted": (
        "An ID token is meant for an application, not for an API. An application that receives one could use it here."
    ),
    "secret-in-file": "Everyone who can read the file can read the secret, and the secret stays in the file's history.",
    "unverified-tls": "An attacker on the network path can impersonate the upstream.",
    "tls-without-https": "The TLS settings have no effect.",
    "optional-with-requirement": "`auth: optional` suggests that anonymous callers pass, but none does.",
    "everyone-reads-metrics": "Metrics reveal the names of routes and their traffic.",
    "unknown-allow": "A comment allows an unknown warning, so it silences nothing.",
    # ---- the policy as a whole; `gateway check` only
    "open-beside-restricted": (
        "An upstream that ignores case, or dots and spaces at the end of a segment, serves a restricted path in "
        "another spelling, through a broader route."
    ),
    "undeclared-role": "No user can receive this role, and without `roles:` a misspelt role goes unnoticed.",
    "unused-role": "No rule requires the role, or a role that it implies.",
    "unreachable-route": (
        "More specific routes match all of its paths. The path alone selects the route: for a method that they do "
        "not serve, the response is 405, never this route."
    ),
    "owner-not-an-id": "Only a user's id can match an owner; a segment with any other value matches no user.",
    "websocket-on-public-route": (
        "A page of any origin can open a WebSocket there with its visitor's network and cookies, without "
        "authentication."
    ),
    "credentials-in-clear": "The client's token crosses the network unencrypted.",
    "unused-upstream": "No route uses it.",
    "limit-by-proxy-address": (
        "A component in front of the gateway terminates TLS and is no trusted proxy: all callers have its address "
        "and share one count."
    ),
    "session-outlives-key": "The generated key exists only in memory: all sessions end with the process.",
    "open-registration": "With open registration, any stranger can use a route for any signed-in user.",
    "own-paths-hide": (
        "The gateway serves its own paths itself. A broad route never receives them, so an upstream with its own "
        "login at /auth is unreachable there."
    ),
    "foreign-pattern": (
        "Other routers write a parameter as `<id>`, `:id` or `[id]`. Here that is a literal, which matches no real "
        "request, so the rule protects nothing."
    ),
    "empty-roles": "`roles:` without a declared role disables the check of role names.",
    "host-hides-routes": "A request for a host that any route names matches only the routes of that host.",
    "any-host": (
        "An application that builds links from `Host` can be made to link to any site that a client names, and a "
        "cache stores the links."
    ),
    "cors-without-content-type": "A browser sends JSON only if the allowed headers include `Content-Type`.",
}
