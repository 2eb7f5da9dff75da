"""`gateway explain`: show the route of a request, its requirements, and the decision with its reason."""

import os
from pathlib import Path
from typing import Final

import click

from gateway.analysis.explain import SIGNED_IN, Credential, Person, State, explain
from gateway.analysis.simulate import PolicyRequest, parse_request_line
from gateway.cli.configuration import config_option, json_option, loaded_policy
from gateway.cli.explain_json import document
from gateway.cli.explain_text import lines
from gateway.cli.output import print_json, say
from gateway.cli.program import FINE, NO
from gateway.errors import CannotStart
from gateway.identity.user import CredentialKind, UserRecord
from gateway.policy.roles import RoleHierarchy
from gateway.settings.model import Settings
from gateway.settings.reader import InvalidValue
from gateway.settings.types import parse_duration


def person(settings: Settings, user: str | None, roles: tuple[str, ...], *, anonymous: bool) -> Person | None:
    """The caller described by options: anonymous, a user with these roles, or an account by id or address.

    A user with roles is hypothetical, and no account is read. Raises CannotStart and StorageUnavailable if an account
    cannot be read.
    """
    if anonymous:
        return None
    if roles:
        return Person(user or "", frozenset(roles))
    if user is not None and "|" in user:
        raise CannotStart(f"{user} is of another issuer and has no account here; give its roles with --role")
    return SIGNED_IN if user is None else _account(settings, user)


def _account(settings: Settings, user: str) -> Person:
    import asyncio  # a fifth of the start-up time, and only a real account needs it

    record = asyncio.run(_read(settings, user))
    if record is None:
        return Person(user, state="unknown")
    state: State = "active" if record.is_active else "disabled"
    return Person(record.id, record.roles, record.email, state, record.email_verified)


async def _read(settings: Settings, user: str) -> UserRecord | None:
    # Imported here: SQLAlchemy takes longer than everything else, and only a real account needs it.
    from gateway.accounts.emails import email_address
    from gateway.cli.stores import open_database
    from gateway.storage.schema import command_to_run, is_current
    from gateway.storage.users import Users

    async with open_database(settings) as database:
        if not await is_current(database):
            command = command_to_run(settings.position_of("storage").file)
            raise CannotStart(f"storage.database does not have the tables of this version; run: {command}")
        if "@" not in user:
            return await Users(database).user(user)
        try:
            return await Users(database).by_email(email_address(user).canonical)
        except ValueError:  # not an address, so no account has it
            return None


_KINDS: Final[dict[str, CredentialKind]] = {"cookie": "session", "token": "token", "api-key": "api_key"}


def asked(
    method: str,
    url: str,
    *,
    origin: str | None = None,
    fetch_site: str | None = None,
    websocket: bool = False,
    preflight: bool = False,
) -> PolicyRequest:
    """The request for METHOD and URL. Raises click.UsageError."""
    try:
        request = parse_request_line(method, url, websocket=websocket)
    except InvalidValue as error:
        right = f" ({error.right})" if error.right else ""
        raise click.UsageError(f"{method} {url}: {error.message}{right}.") from None
    if preflight and origin is None:
        raise click.UsageError("--preflight needs --origin: browsers send preflights for pages only.")
    page, site = (None if value is None else os.fsencode(value) for value in (origin, fetch_site))
    return request._replace(origin=page, fetch_site=site, preflight=preflight)


def presented(credential: str | None, age: str | None) -> Credential:
    """The credential described by options. Raises click.UsageError."""
    seconds = 0.0 if age is None else parse_duration(age)
    if seconds is None:
        raise click.UsageError(f"--age {age}: must be a duration (for example 20m).")
    if age is not None and credential == "api-key":
        raise click.UsageError("--age excludes --credential api-key: an API key contains no sign-in.")
    return Credential(_KINDS[credential or "token"], seconds)


@click.command("explain")
@click.argument("method")
@click.argument("url")
@config_option
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="A role of the caller, repeatable.")
@click.option("--user", metavar="ID", help="An account, by its id or e-mail address, read from the database.")
@click.option("--anonymous", is_flag=True, help="A caller without a credential.")
@click.option("--websocket", is_flag=True, help="The request is a WebSocket handshake; ws:// implies it.")
@click.option("--origin", metavar="ORIGIN", help="The origin of the page, such as https://app.example.com.")
@click.option("--fetch-site", metavar="SITE", help="The value of Sec-Fetch-Site, such as same-origin.")
@click.option("--credential", type=click.Choice([*_KINDS]), help="The kind of credential; token by default.")
@click.option("--age", metavar="DURATION", help="The age of the sign-in, such as 20m; 0s by default.")
@click.option("--unverified", is_flag=True, help="The e-mail address of the caller is not verified.")
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
    fetch_site: str | None,
    credential: str | None,
    age: str | None,
    unverified: bool,
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
    if anonymous and (credential is not None or age is not None or unverified):
        raise click.UsageError("--anonymous excludes --credential, --age and --unverified.")
    request = asked(method, url, origin=origin, fetch_site=fetch_site, websocket=websocket, preflight=preflight)
    shown = presented(credential, age)
    configuration = loaded_policy(config)
    settings = configuration.settings
    caller = person(settings, user, roles, anonymous=anonymous)
    if caller is not None:
        verified = caller.email_verified and not unverified
        caller = caller._replace(credential=shown, email_verified=verified)
    explanation = explain(configuration.policy, RoleHierarchy(settings.roles), request, caller, configuration.shadows)
    if as_json:
        print_json(document(explanation, settings))
    else:
        for line in lines(explanation, settings):
            say(line)
    return FINE if explanation.verdict.is_allowed else NO
