"""The address of a Redis: a single server, a server behind Sentinels, or a cluster.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]        rediss:// the same with TLS
    redis+sentinel://[…@]HOST[:PORT],HOST…/SERVICE[/DATABASE]
    redis+cluster://[…@]HOST[:PORT],HOST…

Options follow after `?`: `db` (the number of the database), `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` (paths),
`ssl=true` for Sentinels and clusters, `sentinel_username` and `sentinel_password`. The driver's options for timeouts
and retries are not supported, because the gateway sets its own limits.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.settings.reader import InvalidValue

_PORTS: Final = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = ("db", *_FILES, "ssl", "sentinel_username", "sentinel_password")
_EXAMPLE: Final = "for example redis://host:6379/0"


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A parsed address. `service` is its name at the Sentinels; `options` are redis-py's."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def redis_place(text: str) -> RedisPlace:
    """Parse an address. Raises InvalidValue with a message that contains no credentials."""
    scheme, _, rest = text.partition("://")
    if scheme not in _PORTS:
        raise InvalidValue("must begin with redis://, rediss://, redis+sentinel:// or redis+cluster://", _EXAMPLE)
    place, _, query = rest.partition("?")
    userinfo, _, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    given = _query(query)
    service, database = _path(scheme, unquote(path), given.get("db"))
    options: dict[str, Any] = {name: given[name] for name in _FILES if name in given} | _credentials(userinfo)
    if scheme == "rediss" or given.get("ssl") == "true":
        options["ssl"] = True
    if database:
        options["db"] = database
    sentinel_options = {
        name: given[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in given
    }
    nodes = tuple(_node(host, _PORTS[scheme]) for host in hosts.split(","))
    if len(nodes) > 1 and scheme in ("redis", "rediss"):
        raise InvalidValue("names several hosts", "redis+sentinel:// or redis+cluster:// for several")
    return RedisPlace(scheme, nodes, service, options, sentinel_options)


def _path(scheme: str, path: str, option: str | None) -> tuple[str, int]:
    """The name of the service at the Sentinels, and the number of the database."""
    service = ""
    if scheme == "redis+sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise InvalidValue(
                "must name the service that the Sentinels watch", "redis+sentinel://host:26379/mymaster/0"
            )
    if path and not _is_number(path):
        raise InvalidValue("must end in the number of a database", "redis://host:6379/0")
    if option is not None and not _is_number(option):
        raise InvalidValue("option db must be the number of a database", "redis://host:6379?db=0")
    if path and option is not None and int(path) != int(option):
        raise InvalidValue("names two databases", "redis://host:6379/0 or redis://host:6379?db=0")
    database = int(path or option or 0)
    if database and scheme == "redis+cluster":
        raise InvalidValue("names a database, and a cluster has database 0 only", "redis+cluster://host:6379")
    return service, database


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _query(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown and "@" in query:  # part of a password, which the message must not contain
        raise InvalidValue(
            "has a '?' in the user or password that is not percent-encoded",
            "%3F; ${NAME} in the user and password is encoded",
        )
    if unknown:
        raise InvalidValue(f"has the unknown option {unknown[0]}", f"known are {', '.join(_OPTIONS)}")
    if options.get("ssl", "true") not in ("true", "false"):
        raise InvalidValue("option ssl must be true or false", "?ssl=true")
    return options


def _credentials(userinfo: str) -> dict[str, str]:
    user, _, password = userinfo.partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in given.items() if value}


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts: SplitResult = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise InvalidValue("has an invalid host or port", _EXAMPLE) from None
    if not parts.hostname:
        raise InvalidValue("must name a host", _EXAMPLE)
    return parts.hostname, default_port if port is None else port
