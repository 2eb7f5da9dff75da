"""`gateway explain`: show the route of a request, its requirements, and the decision with its reason."""

import os
from pathlib import Path

import click

from gateway.analysis.explain import explain
from gateway.analysis.request_line import parse_request_line
from gateway.analysis.simulate import PolicyRequest
from gateway.cli.caller import person
from gateway.cli.configuration import loaded_policy
from gateway.cli.explain_json import document
from gateway.cli.explain_text import lines
from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json, say
from gateway.cli.program import FINE, NO
from gateway.policy.roles import RoleHierarchy
from gateway.settings.reader import InvalidValue


def asked(
    method: str, url: str, *, origin: str | None = None, websocket: bool = False, preflight: bool = False
) -> PolicyRequest:
    """The request for METHOD and URL. Raises click.UsageError."""
    try:
        request = parse_request_line(method, url, websocket=websocket)
    except InvalidValue as error:
        right = f" ({error.right})" if error.right else ""
        raise click.UsageError(f"{method} {url}: {error.message}{right}.") from None
    if preflight and origin is None:
        raise click.UsageError("--preflight needs --origin: browsers send preflights for pages only.")
    return request._replace(origin=None if origin is None else os.fsencode(origin), preflight=preflight)


@click.command("explain")
@click.argument("method")
@click.argument("url")
@config_option
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="A role of the caller, repeatable.")
@click.option("--user", metavar="ID", help="An account, by its id or e-mail address, read from the database.")
@click.option("--anonymous", is_flag=True, help="A caller without a credential.")
@click.option("--websocket", is_flag=True, help="The request is a WebSocket handshake; ws:// implies it.")
@click.option("--origin", metavar="ORIGIN", help="The origin of the page, such as https://app.example.com.")
@click.option("--preflight", is_flag=True, help="Explain the CORS preflight of the request.")
@json_option
def command(
    method: str,
    url: str,
    config: Path,
    roles: tuple[str, ...],
    user: str | None,
    anonymous: bool,
    websocket: bool,
    origin: str | None,
    preflight: bool,
    as_json: bool,
) -> int:
    """Explain how a request would be decided, and why.

    METHOD and URL are used exactly as a client would send them. Without --role, --user or --anonymous, the caller is
    signed in and has no role; --user with --role is a made-up id.

    Sends, starts and changes nothing. Exit code 0: allowed, 1: refused.
    """
    if anonymous and (roles or user is not None):
        raise click.UsageError("--anonymous excludes --role and --user.")
    request = asked(method, url, origin=origin, websocket=websocket, preflight=preflight)
    configuration = loaded_policy(config)
    settings = configuration.settings
    caller = person(settings, user, roles, anonymous=anonymous)
    explanation = explain(configuration.policy, RoleHierarchy(settings.roles), request, caller, configuration.shadows)
    if as_json:
        print_json(document(explanation, settings))
    else:
        for line in lines(explanation, settings):
            say(line)
    return FINE if explanation.verdict.is_allowed else NO
