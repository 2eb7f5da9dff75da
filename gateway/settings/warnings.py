"""Every warning there is: what is legal in a configuration but dangerous, or surely not what was meant.

Each has a name, by which a comment beside the line silences it: `# gateway: allow short-passwords`. The reasons are
those of docs/warnings.md.
"""

from collections.abc import Mapping
from typing import Final

WARNINGS: Final[Mapping[str, str]] = {
    # ---- of single values and sections, said by `gateway serve` as well
    "wide-trusted-proxies": "Whoever is a trusted proxy may say for whom he speaks.",
    "database-in-memory": "Accounts and sessions end with the process.",
    "few-bcrypt-rounds": "A stolen table of passwords is guessed quickly.",
    "short-passwords": "Short passwords are guessed at the login.",
    "refresh-shorter-than-access": "The refresh token is over before the access token that it is to renew.",
    "long-leeway": "Tokens live on after their end.",
    "unmapped-roles": "The roles of an issuer mean nothing here unless `role_map` says what they are called.",
    "id-tokens-accepted": "An ID token is a statement for an application, not for an API. An application that got one "
    "could use it here.",
    "secret-in-file": "A secret in the file is read by all who read the file, and stays in its history.",
    "unverified-tls": "Anyone on the way can pretend to be the upstream.",
    "tls-without-https": "The settings of TLS have no effect.",
    "optional-with-requirement": "`auth: optional` reads as if anonymous callers passed, and none does.",
    "everyone-reads-metrics": "Metrics name routes, and how much they are used.",
    "unknown-allow": "A comment allows a warning that there is not: nothing is silenced by it.",
    # ---- of the policy as a whole, said by `gateway check`
    "open-beside-restricted": "An upstream that ignores case, or dots and spaces at the end of a segment, serves a "
    "restricted path to whoever spells it otherwise, through a broader route.",
    "undeclared-role": "Nothing gives anybody this role, and without `roles:` a misspelt one is not noticed.",
    "unused-role": "No rule asks for the role, or for one that it implies.",
    "unreachable-route": "More specific routes take all of its paths. The path alone picks the place: for a method "
    "that they do not serve the answer is 405, never this route.",
    "owner-not-an-id": "Only a user's id makes an owner; a segment that holds something else makes nobody one.",
    "websocket-on-public-route": "Any page of any origin can open a WebSocket there with its visitor's network and "
    "cookies, and nobody is asked who he is.",
    "credentials-in-clear": "The caller's token crosses the network readable for whoever is on the way.",
    "unused-upstream": "No route leads there.",
    "limit-by-proxy-address": "Something in front of the gateway ends TLS, and is no trusted proxy: all callers have "
    "its address, and share one count.",
    "session-outlives-key": "The key that is made is kept in memory: all sessions end with the process.",
    "open-registration": "A route for any signed-in user is open to every stranger where registration is open.",
    "own-paths-hide": "The gateway answers its own paths itself. A broad route never gets them, so an upstream with a "
    "login of its own at /auth is cut off.",
    "foreign-pattern": "Other routers write a parameter as `<id>`, `:id` or `[id]`. Here that is a literal, which no "
    "request has, and the rule protects nothing.",
    "empty-roles": "`roles:` without a declared role turns the check of role names off.",
    "host-hides-routes": "A request for a host that any route names sees that host's routes only.",
    "cors-without-content-type": "A browser sends JSON only where `Content-Type` is among the allowed headers.",
}
