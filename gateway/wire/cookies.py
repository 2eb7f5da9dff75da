"""The Cookie and Set-Cookie fields (RFC 6265bis), as far as the gateway's own cookies are concerned.

The parser reads a Cookie field in one pass, linear in its length (CVE-2024-7592: http.cookies takes quadratic time for
backslashes). It does not unquote: a quoted name is another name (Werkzeug PR #1965), and a pair without `=` has no
name. The session cookie is recognised byte by byte. Cookies to remove are recognised in any case and with white space
around the name: some upstreams ignore both.
"""

from typing import Final

_SPACE: Final = b" \t"
# Browsers accept a cookie of this prefix only from the host itself, with Secure, HttpOnly and Path=/ (RFC 10017).
PREFIX: Final = "__Host-Http-"
_FLOW: Final = b"-flow"  # the cookie of a sign-in in progress


class OwnCookies:
    """The cookies that only the gateway sets and reads. `session` is the name of the session cookie.

    Without `secure` (http on this machine), browsers refuse the prefix, so the names have none.
    """

    def __init__(self, name: str, *, secure: bool) -> None:
        self.secure = secure
        self.session = ((PREFIX if secure else "") + name).encode("ascii")
        self._lowered = self.session.lower()
        self._names = frozenset((self._lowered, self._lowered + _FLOW))

    def split(self, value: bytes) -> tuple[bytes, list[bytes]]:
        """The field without own cookies, and the values of the session cookie. The rest of the field is unchanged."""
        if self._lowered not in value.lower():
            return value, []
        pairs = value.split(b";")
        kept, values = [], []
        for pair in pairs:
            name, equals, content = pair.partition(b"=")
            if not equals or name.strip(_SPACE).lower() not in self._names:
                kept.append(pair)
            elif name.lstrip(_SPACE) == self.session:
                values.append(content)
        if len(kept) == len(pairs):
            return value, []
        return (b";".join(kept) if b"".join(kept).strip(_SPACE) else b"").strip(_SPACE), values

    def is_set_by(self, value: bytes) -> bool:
        """Whether a Set-Cookie field sets an own cookie. A cookie without a name counts too: its value can begin with
        the name of an own one, and browsers send it as it is."""
        name, equals, _ = value.partition(b";")[0].partition(b"=")
        name = name.strip(_SPACE)
        return not equals or not name or name.lower() in self._names


def set_cookie(own: OwnCookies, value: str, *, same_site: str, max_age: int | None = None) -> str:
    """The Set-Cookie field of the session cookie: for the whole host, hidden from scripts. Without `max_age` the cookie
    ends with the browser."""
    attributes = ["Path=/", *(("Secure",) if own.secure else ()), "HttpOnly", f"SameSite={same_site.capitalize()}"]
    if max_age is not None:
        attributes.append(f"Max-Age={max_age}")
    return "; ".join((f"{own.session.decode('ascii')}={value}", *attributes))
