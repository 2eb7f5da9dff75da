"""The address of a PostgreSQL database, in libpq's format.

    postgresql://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…]/DATABASE[?OPTION=VALUE&…]

`postgres://` and `postgresql+asyncpg://` are synonyms. The driver knows some of libpq's options and sends the others to
the server, which refuses them. The tables below list the supported options; any other option is a problem.
"""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from gateway.settings.reader import InvalidValue

SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
EXAMPLE: Final = "for example postgresql://user:password@host/gateway"

# Options parsed by the driver.
_DRIVER_OPTIONS: Final = frozenset(
    {"host", "port", "user", "password", "passfile", "dbname", "database", "service", "target_session_attrs"}
    | {"sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation"}
    | {"ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"}
)
# Session parameters, sent to the server at the start of a connection.
_SESSION_PARAMETERS: Final = frozenset(
    {"application_name", "options", "search_path", "statement_timeout", "lock_timeout", "timezone"}
    | {"idle_in_transaction_session_timeout"}
)
# Socket options: non-negative integers.
_SOCKET_OPTIONS: Final = frozenset(
    {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)
# Options whose listed values have no effect. The driver supports neither GSSAPI encryption nor channel binding.
_WITHOUT_EFFECT: Final = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "client_encoding": ("utf8", "UTF8", "auto"),
    "load_balance_hosts": ("disable",),
}
_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_VALUES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
}
# Options that name a file which the driver reads. Without sslrootcert it uses the roots of the system.
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_KNOWN: Final = frozenset(_DRIVER_OPTIONS | _SESSION_PARAMETERS | _SOCKET_OPTIONS | set(_WITHOUT_EFFECT))
_ESCAPES: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class PostgresqlAddress:
    """A parsed address. `dsn` is the part for the driver. `default_target` is the kind of server to connect to; None if
    the address specifies it or has one host. `connect_timeout` is in seconds. `socket_options` have libpq's names."""

    dsn: str = field(repr=False)
    default_target: str | None
    connect_timeout: float | None
    session_parameters: dict[str, str]
    socket_options: dict[str, int]


def postgresql_address(text: str) -> PostgresqlAddress:
    """Parse an address. Raises InvalidValue with a message that contains no credentials."""
    authority, database, query = _split(text)
    if not database and not any(option in query for option in ("dbname", "database", "service")):
        raise InvalidValue("must name a database", EXAMPLE)
    for host in authority.rpartition("@")[2].split(","):
        _check_host(unquote(host))
    _check_named_once(authority, database, query)
    driver: list[str] = []
    session: dict[str, str] = {}
    socket: dict[str, int] = {}
    timeout: float | None = None
    for name, (raw, value) in query.items():
        _check_value(name, value)
        if name == "connect_timeout":
            timeout = float(_whole(name, value)) or None  # libpq: zero means no limit
        elif name in _SOCKET_OPTIONS:
            socket[name] = _whole(name, value)
        elif name in _SESSION_PARAMETERS:
            session[name] = value
        elif name in _DRIVER_OPTIONS:
            driver.append(f"{name}={raw}")
    dsn = f"postgresql://{authority}/{database}" + (f"?{'&'.join(driver)}" if driver else "")
    # Of several hosts, connect to a writable one. libpq's default is the first that answers.
    has_several = "," in authority or "," in query.get("host", ("", ""))[1]
    target = "read-write" if has_several and "target_session_attrs" not in query else None
    return PostgresqlAddress(dsn, target, timeout, session, socket)


def files_of(text: str) -> dict[str, str]:
    """The options of a valid address that name files."""
    query = _split(text)[2]
    return {name: query[name][1] for name in _FILES if query.get(name, ("", ""))[1]}


def _check_named_once(authority: str, database: str, query: dict[str, tuple[str, str]]) -> None:
    """The driver ignores an option that the address has already; libpq ignores the address."""
    user_info, _, hosts = authority.rpartition("@")
    user, _, password = user_info.partition(":")
    host_and_port = [host.rpartition("]")[2].partition(":") for host in hosts.split(",")]
    named = {
        "host": any(not host.startswith(":") for host in hosts.split(",") if host),
        "port": any(port for _, _, port in host_and_port),
        "user": bool(user),
        "password": bool(password),
        "dbname": bool(database),
        "database": bool(database) or "dbname" in query,
    }
    for name, is_named in named.items():
        if is_named and name in query:
            raise InvalidValue(f"has the option '{name}' beside the same part of the address", "only one of them")


def _split(text: str) -> tuple[str, str, dict[str, tuple[str, str]]]:
    """User info and hosts, the database, and the options with their raw and decoded values."""
    _, _, rest = text.partition("://")
    if "#" in rest or not _ESCAPES.fullmatch(rest):
        raise InvalidValue(
            "has a '#' or a '%' that is not percent-encoded", "%23 and %25; ${NAME} in the user and password is encoded"
        )
    rest, _, options = rest.partition("?")
    authority, _, database = rest.partition("/")
    # Before this check, nothing is parsed as an option or a host: a message must not contain a part of a password.
    if "/" in database or "@" in database + options + authority.rpartition("@")[0]:
        raise InvalidValue(
            "has a '/', a '?' or an '@' in the user or password that is not percent-encoded",
            "%2F, %3F and %40; ${NAME} in the user and password is encoded",
        )
    query: dict[str, tuple[str, str]] = {}
    for part in options.split("&") if options else []:
        name, equals, raw = part.partition("=")
        decoded = parse_qsl(part, keep_blank_values=True)
        if not equals or len(decoded) != 1 or name in query:
            raise InvalidValue("has an option that is repeated or has no value", "?name=value&other=value")
        query[name] = raw, decoded[0][1]
    return authority, database, query


def _check_host(host: str) -> None:
    if host.startswith("/"):  # the directory of a Unix socket
        return
    found = _HOST.fullmatch(host)
    if found is None or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535):
        raise InvalidValue("must have hosts with an optional port", "for example db1:5432,db2:5432 or [::1]:5432")


def _check_value(name: str, value: str) -> None:
    if name != "connect_timeout" and name not in _KNOWN:
        known = ", ".join(sorted({*_KNOWN, "connect_timeout"}))
        raise InvalidValue(f"has the option '{name}', which is not supported", known)
    allowed = _WITHOUT_EFFECT.get(name) or _VALUES.get(name)
    if allowed is not None and value not in allowed:
        raise InvalidValue(f"has a value of '{name}' that is not supported", f"{name}={'|'.join(allowed)}")
    if name == "port" and not all(map(_is_port, value.split(","))):
        raise InvalidValue("has a value of 'port' that is not a port", "port=5432")


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def _whole(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise InvalidValue(f"has a value of '{name}' that is not a whole number", f"{name}=10")
    return int(value)
