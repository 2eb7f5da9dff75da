"""The grammar of names, hosts, addresses and paths. Each check returns the text to store.

All checks raise InvalidValue, with a suggestion.
"""

import re
from ipaddress import ip_address
from typing import Final

from gateway.settings.postgresql_address import SCHEMES, postgresql_address
from gateway.settings.reader import InvalidValue
from gateway.settings.redis_address import redis_place

TCHARS: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ROUTE_NAME: Final = re.compile(r"[!-~]{1,128}")
_KEY_ID: Final = re.compile(r"[!-~]{1,128}")
_METHOD: Final = re.compile(TCHARS)
_LABELS: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)")
_PLACE: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN_FORM: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
# Headers that cannot be a hash key, each with an alternative. The gateway itself sets those of the connection.
_NO_HASH_KEYS: Final = {
    "cookie": "cookie NAME, the name of one cookie",
    "authorization": "X-User-Id, or the identity header of your own name",
    "host": "a header of the client",
    **dict.fromkeys(
        ("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via"),
        "a header of the client",
    ),
}
_LITERAL_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.~-]+")


def name(text: str) -> str:
    """The name of an upstream or an issuer."""
    if _NAME.fullmatch(text):
        return text
    raise InvalidValue("must be a name", "up to 64 of A-Z a-z 0-9 _ . -, the first a letter or a digit")


def role_name(text: str) -> str:
    """A role: any printable text. Headers carry it percent-encoded."""
    if text == text.strip() and len(text) <= 128:
        return text
    raise InvalidValue("must be a role name", "up to 128 characters, no space around it")


def route_name(text: str) -> str:
    """The name of a route. It appears in logs, metrics and policy tests, so it has no spaces."""
    if _ROUTE_NAME.fullmatch(text):
        return text
    raise InvalidValue("must be a name of visible ASCII characters", "for example user-space")


def key_id(text: str) -> str:
    """The id of a signing key (`kid`)."""
    if _KEY_ID.fullmatch(text):
        return text
    raise InvalidValue("must be a key id of visible ASCII characters", "for example k1")


def shared_secret(text: str) -> str:
    """A secret for HMAC. A public key or key set is refused, because others can know it (CVE-2026-48526)."""
    if "-----BEGIN " in text or text.lstrip().startswith(("{", "[")):
        raise InvalidValue("must be a random secret, not a key of another kind", "for example `openssl rand -hex 32`")
    return text


def method(text: str) -> str:
    """An HTTP method. Methods are case-sensitive (RFC 9110, section 9.1), and all registered ones are upper-case."""
    if not _METHOD.fullmatch(text):
        raise InvalidValue("must be an HTTP method", "for example GET")
    if text != text.upper():
        raise InvalidValue("must be an HTTP method in upper case", text.upper())
    if text == "CONNECT":
        raise InvalidValue("the gateway opens no tunnels", "leave it out; CONNECT is answered 501")
    return text


def header_name(text: str) -> str:
    if re.fullmatch(TCHARS, text):
        return text
    raise InvalidValue("must be a header name", "for example Content-Type")


def listen_host(text: str) -> str:
    bare = text[1:-1] if _BRACKETED.fullmatch(text) else text
    if _is_address(bare) or _is_host_name(text):
        return bare
    raise InvalidValue("must be an IP address or a host name", "for example 127.0.0.1, 0.0.0.0 or ::")


def route_host(text: str) -> str:
    """The host of a route: one name or address."""
    if text == "*":
        raise InvalidValue("must be one host", "leave it out: a route without a host is for every host")
    if "*" in text:
        raise InvalidValue("must be one host, without a wildcard", "a route for each host, or a route without one")
    return host_name(text)


def host_name(text: str) -> str:
    """A host in lower case, without port and trailing dot."""
    without_port = _PLACE.fullmatch(text)
    if without_port is not None and without_port["port"] and _is_host(without_port["host"]):
        raise InvalidValue("must be a host without a port, which has no effect", without_port["host"].lower())
    if not _is_host(text):
        url = _URL.fullmatch(text)
        bare = _PLACE.fullmatch(text if url is None else url["place"])
        right = bare["host"].lower() if url is not None and bare is not None and _is_host(bare["host"]) else ""
        raise InvalidValue("must be a host name or a bracketed IPv6 address", right or "for example api.example.com")
    return text.lower().removesuffix(".")


def served_host(text: str) -> str:
    """A host of `server.hosts`, or `*.` and a name for all names below it."""
    if text == "*":
        raise InvalidValue("must be a host name", "leave server.hosts out to serve every host")
    if "*" in text.removeprefix("*."):
        raise InvalidValue("must have its one wildcard as the first label", "for example *.example.com")
    if not text.startswith("*."):
        return host_name(text)
    name = host_name(text[2:])
    if name.startswith("[") or _is_address(name):
        raise InvalidValue("must be a wildcard before a name", "for example *.example.com")
    return f"*.{name}"


def request_host(text: str) -> str:
    """The value of a Host field: a host with an optional port."""
    _check_place(text, "for example app.example.com")
    return text.lower()


def origin(text: str, example: str = "http://127.0.0.1:9000", scheme: str = "http") -> str:
    """`http://host:port` in lower case, without a path."""
    url = _URL.fullmatch(text)
    example = f"for example {example}"
    if url is None or url["scheme"].lower() not in ("http", "https"):
        raise InvalidValue("must be an http:// or https:// address", _with_scheme(text, scheme) or example)
    if "@" in url["place"]:
        raise InvalidValue("must not hold a user name or password", example, shows_value=False)
    place = f"{url['scheme']}://{url['place']}".lower()
    if url["path"] or url["rest"]:
        raise InvalidValue("must end after the host and the port", place)
    _check_place(url["place"], example)
    return place


def public_origin(text: str) -> str:
    """An origin on the Internet."""
    return origin(text, "https://api.example.com", "https")


def _with_scheme(text: str, scheme: str) -> str:
    """A host with a scheme added, for a suggestion."""
    place = _PLACE.fullmatch(text.removeprefix("//"))
    return f"{scheme}://{place[0].lower()}" if place is not None and _is_host(place["host"]) else ""


def web_address(text: str) -> str:
    """An http or https address with a path and an optional query."""
    url = _URL.fullmatch(text)
    example = "for example https://idp.example.com/"
    if url is None or url["scheme"].lower() not in ("http", "https") or " " in text:
        raise InvalidValue("must be an http:// or https:// address", example)
    if "@" in url["place"]:
        raise InvalidValue("must not hold a user name or password", example, shows_value=False)
    if "#" in url["rest"]:
        raise InvalidValue("must not hold a fragment", example)
    _check_place(url["place"], example)
    return text


def issuer(text: str) -> str:
    """The name of an issuer: usually an address, but any text is allowed."""
    url = _URL.fullmatch(text)
    if url is not None and "@" in url["place"]:
        raise InvalidValue("must not hold a user name or password", "https://idp.example.com/", shows_value=False)
    return text


def browser_origin(text: str) -> str:
    """An origin as sent by browsers, without the default port of its scheme, or `*`."""
    if text == "*":
        return text
    example = "https://app.example.com"
    if "*" in text:
        raise InvalidValue("must be one origin, without a wildcard", f"each one by itself, for example {example}")
    found = origin(text, example, "https")
    return found.removesuffix(":443" if found.startswith("https:") else ":80")


def hash_key(text: str) -> str:
    """The key of `balance: {hash: …}`: `cookie NAME`, `header NAME` or `client_address`."""
    kind, _, name = " ".join(text.split()).partition(" ")
    if kind == "client_address" and not name:
        return kind
    if kind not in ("cookie", "header") or not re.fullmatch(TCHARS, name):
        raise InvalidValue("must be cookie NAME, header NAME or client_address", "for example cookie session")
    if kind == "header" and name.lower() in _NO_HASH_KEYS:
        raise InvalidValue("must be a header that tells clients apart", _NO_HASH_KEYS[name.lower()])
    return f"{kind} {name}"


def pattern(text: str) -> str:
    """A path pattern. Only its first character is checked here; the matcher checks its grammar."""
    if text.startswith("/"):
        return text
    raise InvalidValue("must begin with '/'", f"/{text.split('://')[-1]}")


def request_path(text: str) -> str:
    """A request target in origin form (RFC 9112, section 3.2.1): a path and an optional query."""
    if not text.startswith("/"):
        raise InvalidValue("must begin with '/'", f"/{text.split('://')[-1]}")
    if not _ORIGIN_FORM.fullmatch(text):
        raise InvalidValue("must be a valid request target", "for example /healthz?full=1, with escapes as %20")
    return text


def own_prefix(text: str) -> str:
    """The path prefix of the gateway's own endpoints: literal segments."""
    if not text.startswith("/") or text.endswith("/"):
        raise InvalidValue(
            "must begin with '/' and not end with it", f"/{text.strip('/')}" if text.strip("/") else '""'
        )
    if not all(_LITERAL_SEGMENT.fullmatch(segment) and segment.strip(".") for segment in text[1:].split("/")):
        raise InvalidValue("must be made of plain segments", "for example /auth; A-Z a-z 0-9 _ . ~ - between slashes")
    if text.split("/")[1] == "_gateway":
        raise InvalidValue("must not lie below /_gateway, where health and metrics are", "for example /auth")
    return text


def database_address(text: str) -> str:
    """The address of an SQLite or a PostgreSQL database."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in SCHEMES:
        postgresql_address(text)
    elif not separator or scheme not in ("sqlite", "sqlite+aiosqlite"):
        right = "for example sqlite:///gateway.db or postgresql://user:password@host/db"
        raise InvalidValue("must be the address of an SQLite or PostgreSQL database", right)
    elif rest and not rest.startswith("/"):
        raise InvalidValue("an SQLite address has three slashes before its path", f"{scheme}:///{rest}")
    elif "?" in rest and "mode=memory" not in rest and not rest.startswith("/:memory:"):
        raise InvalidValue("has options, which an SQLite address does not take", text.partition("?")[0])
    return text


def redis_address(text: str) -> str:
    """The address of a Redis: a single server, with TLS, behind Sentinels, or a cluster."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("redis", "rediss", "redis+sentinel", "redis+cluster"):
        raise InvalidValue(
            "must be the address of a Redis",
            "redis://host:6379/0, or rediss://, redis+sentinel://, redis+cluster://",
        )
    if not rest.rpartition("@")[2].partition("/")[0].partition("?")[0]:
        raise InvalidValue("must name a host", f"for example {scheme}://127.0.0.1:6379/0")
    redis_place(text)
    return text


def _check_place(place: str, example: str) -> None:
    parts = _PLACE.fullmatch(place)
    if parts is None or not _is_host(parts["host"]):
        raise InvalidValue("must name a host and perhaps a port", example)
    if parts["port"] is not None and not 1 <= int(parts["port"]) <= 65535:
        raise InvalidValue("must have a port from 1 to 65535", example)


def _is_host(text: str) -> bool:
    bracketed = _BRACKETED.fullmatch(text)
    return _is_address(bracketed[1]) if bracketed is not None else _is_host_name(text)


def _is_host_name(text: str) -> bool:
    """Whether a text is a host name or an IPv4 address. Digits and dots alone must be an address."""
    if not _LABELS.fullmatch(text):
        return False
    return _is_address(text.removesuffix(".")) if text.replace(".", "").isdigit() else True


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
