"""Checks of sessions, pages, mail and the route keys that concern them."""

from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.settings.checks_tokens import numbered
from gateway.settings.model import RouteSettings, Settings
from gateway.settings.model_browsers import DAY, PageSettings, SessionSettings
from gateway.settings.reader import Reader, quoted
from gateway.settings.syntax import browser_origin
from gateway.settings.types import format_duration
from gateway.wire.addresses import is_loopback, is_trusted_transport
from gateway.wire.hosts import ServedHosts, canonical_host

# Only an annotation. The list is parsed for a configuration with origins.
if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

_LONG_SESSION: Final = 90 * DAY


def check_browsers(settings: Settings, reader: Reader) -> None:
    """Report contradictions between sessions, pages, mail and public address, and dangerous values."""
    _check_encryption_keys(settings, reader)
    _check_public_url(settings, reader)
    if settings.sessions is not None:
        _check_sessions(settings.sessions, settings, reader)
    _check_mail(settings, reader)
    if settings.accounts.pages is not None:
        _check_pages(settings.accounts.pages, settings, reader)
    _check_email(settings, reader)
    for route in settings.routes:
        _check_route(route, settings, reader)


def _check_encryption_keys(settings: Settings, reader: Reader) -> None:
    seen: dict[str, str] = {}
    for path, key in numbered("storage.encryption_keys", settings.storage.encryption_keys, reader):
        first = seen.setdefault(key.id, path)
        if first != path:
            reader.report_at(f"{path}.id", f"must be unique, found '{key.id}' in {first} too (another id)")
    on_postgresql = settings.storage.database.reveal().startswith("postgresql")
    if settings.mail is not None and on_postgresql and not settings.storage.encryption_keys:
        message = "needs storage.encryption_keys with PostgreSQL: mails that wait are encrypted"
        reader.report_at("mail", f"{message} ([{{id: e1, key: ${{file:/run/secrets/e1}}}}])")


def _check_public_url(settings: Settings, reader: Reader) -> None:
    users = {"sessions": settings.sessions, "mail": settings.mail}
    used_by = [name for name, section in users.items() if section is not None]
    public_url = settings.server.public_url
    if not used_by or "server.public_url" in reader.rejected:
        return
    if public_url is None:
        message = (
            "needs server.public_url, from which the gateway makes addresses (for example https://app.example.com)"
        )
        for name in used_by:
            reader.report_at(name, message)
    elif not is_trusted_transport(public_url):
        message = f"must be https with {' and '.join(used_by)}, or http on this machine, found {quoted(public_url)}"
        reader.report_at("server.public_url", f"{message} (https://{public_url.partition('://')[2]})")
    elif settings.server.hosts and "server.hosts" not in reader.rejected:
        _check_served(settings, reader)


def _check_served(settings: Settings, reader: Reader) -> None:
    """Report own origins whose host the gateway does not serve: every request there would be 421."""
    served = ServedHosts(settings.server.hosts)
    origins = settings.sessions.origins if settings.sessions is not None else ()
    places = {"server.public_url": settings.server.public_url or ""}
    places |= {f"sessions.origins[{index}]": origin for index, origin in enumerate(origins)}
    for path, address in places.items():
        host = urlsplit(address).netloc
        if canonical_host(host.encode("ascii")) not in served:
            message = f"must have a host of server.hosts, found {quoted(address)}"
            reader.report_at(path, f"{message} (list {urlsplit(address).hostname} in server.hosts)")


def _check_sessions(sessions: SessionSettings, settings: Settings, reader: Reader) -> None:
    if sessions.idle > sessions.lifetime:
        message = f"must not be longer than sessions.lifetime, found {format_duration(sessions.idle)}"
        reader.report_at("sessions.idle", f"{message} ({format_duration(sessions.lifetime)} or less)")
    if sessions.remember is not None and sessions.remember < sessions.lifetime:
        message = f"must not be shorter than sessions.lifetime, found {format_duration(sessions.remember)}"
        reader.report_at("sessions.remember", f"{message} ({format_duration(sessions.lifetime)} or more)")
    for key in ("lifetime", "remember"):
        if (getattr(sessions, key) or 0) > _LONG_SESSION:
            message = "keeps a stolen cookie useful for more than 90 days (90d or less)"
            reader.warn_at(f"sessions.{key}", "long-session", message)
    if settings.accounts.api_keys.max_ttl is None:
        message = "lets a key that a session creates outlive every session, without an end (for example 365d)"
        reader.warn_at("accounts.api_keys.max_ttl", "keys-without-end", message)
    public_url = settings.server.public_url
    if public_url is not None:
        for index, origin in enumerate(sessions.origins):
            _check_session_origin(f"sessions.origins[{index}]", origin, public_url, reader)


def _check_session_origin(path: str, origin: str, public_url: str, reader: Reader) -> None:
    scheme = public_url.partition("://")[0]
    if not origin.startswith(f"{scheme}://"):
        message = f"must have the scheme of server.public_url, {scheme}, found {quoted(origin)}"
        reader.report_at(path, f"{message} ({scheme}://{origin.partition('://')[2]})")
    elif site_of(origin) != site_of(public_url):
        message = f"must be of the same site as server.public_url, found {quoted(origin)} for {quoted(public_url)}"
        reader.report_at(path, f"{message} (a host below {site_of(public_url)}: browsers send the cookie nowhere else)")


def site_of(address: str) -> str:
    """The site of a URL: the registrable domain of its host, or the host itself if it has none."""
    host = (urlsplit(address).hostname or "").removesuffix(".")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if "." not in host:
        return host
    return _public_suffixes().privatesuffix(host) or host


@cache
def _public_suffixes() -> "PublicSuffixList":
    """The list that browsers use. Its import takes 70 ms and 1.4 MiB, which only files with `origins` need."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


def listed_origins(settings: Settings) -> frozenset[str]:
    """The origins whose pages can use sessions: that of `server.public_url` and `sessions.origins`."""
    own = () if settings.server.public_url is None else (browser_origin(settings.server.public_url),)
    return frozenset((*own, *(settings.sessions.origins if settings.sessions is not None else ())))


def _check_mail(settings: Settings, reader: Reader) -> None:
    mail = settings.mail
    if mail is None:
        return
    if (mail.smtp is None) == (mail.folder is None) and not {"mail.smtp", "mail.folder"} & reader.rejected:
        found = "neither" if mail.smtp is None else "both"
        reader.report_at(
            "mail", f"needs smtp or folder, found {found} (smtp: smtp://user:password@mail.example.com:587)"
        )
    if mail.folder is not None and not is_loopback(settings.server.public_url or ""):
        message = "sends no mail: links stay in files on this machine (smtp)"
        reader.warn_at("mail.folder", "mail-in-a-folder", message)
    if settings.accounts.pages is None and "accounts.pages" not in reader.rejected:
        message = "needs accounts.pages, which its links open (accounts: {pages: {}})"
        reader.report_at("mail", message)


def _check_pages(pages: PageSettings, settings: Settings, reader: Reader) -> None:
    if settings.sessions is None and "sessions" not in reader.rejected:
        reader.report_at("accounts.pages", "needs sessions, which its pages begin (sessions: {})")
    if settings.mail is None and "mail" not in reader.rejected:
        message = "offers no way back to people who forget their password (mail)"
        reader.warn_at("accounts.pages", "no-mail", message)
    listed = listed_origins(settings)
    for kind in ("verify", "reset", "invitation"):
        url = getattr(pages.urls, kind)
        if url is not None and listed and _origin_of(url) not in listed:
            message = f"must have the origin of server.public_url or one of sessions.origins, found {quoted(url)}"
            reader.report_at(f"accounts.pages.urls.{kind}", f"{message} ({', '.join(sorted(listed))})")


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return browser_origin(f"{parts.scheme}://{parts.netloc}")


def _check_email(settings: Settings, reader: Reader) -> None:
    accounts, verification = settings.accounts, settings.accounts.email.verification
    if settings.mail is None and "mail" not in reader.rejected:
        if verification != "none":
            message = f"needs mail, found {verification} without it (none, or set mail)"
            reader.report_at("accounts.email.verification", message)
        if accounts.registration == "invite":
            reader.report_at("accounts.registration", "needs mail, found invite without it (closed, or set mail)")
    if accounts.email.forward == "always" and verification != "none":
        message = "lets upstreams take an address that its user only claims for one that is verified (auto)"
        reader.warn_at("accounts.email.forward", "trusting-unverified-mail", message)


def _check_route(route: RouteSettings, settings: Settings, reader: Reader) -> None:
    if route.auth == "none":
        for key in ("fresh", "verified", "credentials", "same_origin"):
            if getattr(route, key):
                message = "contradicts auth: none, which reads no credential (auth: required)"
                reader.report_at(f"{route.key}.{key}", message)
    if route.credentials is not None and route.fresh is not None and not {"session", "token"} & {*route.credentials}:
        message = f"can never be met by [{', '.join(route.credentials)}], which contain no sign-in"
        reader.report_at(f"{route.key}.fresh", f"{message} (credentials with session or token)")
    if route.credentials is not None:
        _check_credentials(f"{route.key}.credentials", route.credentials, settings, reader)
    if settings.sessions is not None and route.cors is not None and route.cors.credentials:
        listed = listed_origins(settings)
        for index, origin in enumerate(route.cors.origins):
            if origin not in listed and origin != "*":
                message = (
                    "can read with cookies but never write, because sessions.origins does not list it (list it there)"
                )
                reader.warn_at(f"{route.key}.cors.origins[{index}]", "cors-without-session", message)


def _check_credentials(path: str, kinds: tuple[str, ...], settings: Settings, reader: Reader) -> None:
    unusable = set()
    if settings.sessions is None and "sessions" not in reader.rejected:
        unusable.add("session")
    if not settings.tokens.external and not any(key.startswith("tokens.external") for key in reader.rejected):
        unusable.add("external")
    if unusable.issuperset(kinds):
        message = f"accept no credential that exists here, found [{', '.join(kinds)}]"
        needed = " and ".join("sessions" if kind == "session" else "tokens.external" for kind in kinds)
        reader.report_at(path, f"{message} without {needed} (add token)")
