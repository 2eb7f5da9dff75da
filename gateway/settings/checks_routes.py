"""What routes say together, and with the upstreams and roles they name.

Patterns and rewrites have a grammar of their own, which the matcher knows; only the names in them are looked at here.
"""

import re
from typing import Final

from gateway.settings.model import RouteSettings, Settings
from gateway.settings.reader import Reader, known, quoted

_CAPTURE: Final = re.compile(r"\{([^{}/]*)\}")


def check_routes(settings: Settings, reader: Reader) -> None:
    """Report routes that name what is not there, or contradict themselves."""
    names: dict[str, str] = {}
    upstreams = _defined_upstreams(reader)
    for route in settings.routes:
        if upstreams is not None and route.upstream not in upstreams:
            message = f"{quoted(route.upstream)} is not defined ({known(upstreams)})"
            reader.report_at(f"{route.key}.upstream", message)
        if route.roles is not None or route.owner is not None:
            _check_requirement(route, reader)
        if route.strip_prefix is not None and route.rewrite is not None:
            reader.report_at(f"{route.key}.strip_prefix", "does not go with rewrite (one of them)")
        if route.cors is not None or route.rate_limit is not None:
            _check_limits(route, reader)
        if route.name is not None:
            first = names.setdefault(route.name, route.key)
            if first != route.key:
                message = f"must be unique, found '{route.name}' in {first} too (another name)"
                reader.report_at(f"{route.key}.name", message)


def _defined_upstreams(reader: Reader) -> frozenset[str] | None:
    """The names of all upstreams in the file; None if they could not be read, so that routes are not to blame."""
    return None if "upstreams" in reader.rejected else reader.defined.get("upstreams", frozenset())


def _check_requirement(route: RouteSettings, reader: Reader) -> None:
    asks = "roles" if route.roles is not None else "owner"
    if route.auth == "none":
        message = f"contradicts {asks}: whoever needs no token has neither roles nor an id (required)"
        reader.report_at(f"{route.key}.auth", message)
    elif route.auth == "optional":
        message = f"is as good as required: without a token, nobody meets {asks} (required)"
        reader.warn_at(f"{route.key}.auth", "optional-with-requirement", message)
    captures = _CAPTURE.findall(route.path)
    if route.owner is not None and route.owner not in captures:
        message = f"{quoted(route.owner)} is not a capture of {quoted(route.path)} ({known(captures)})"
        reader.report_at(f"{route.key}.owner", message)


def _check_limits(route: RouteSettings, reader: Reader) -> None:
    if route.cors is not None and route.cors.credentials and "*" in route.cors.origins:
        message = "must not be '*' with credentials: every page could act for its visitors (name the origins)"
        reader.report_at(f"{route.key}.cors.origins", message)
    if route.rate_limit is not None and route.rate_limit.by == "user" and route.auth == "none":
        message = "cannot be user where auth is none: no user is known (address)"
        reader.report_at(f"{route.key}.rate_limit.by", message)
