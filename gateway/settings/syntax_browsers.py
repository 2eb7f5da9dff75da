"""The grammar of cookie names, origins, links and mail addresses. Each check returns the text to store.

All checks raise InvalidValue, with a suggestion.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.errors import Refusal
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import TCHARS, browser_origin, request_path, web_address
from gateway.wire.addresses import is_loopback_host
from gateway.wire.paths import canonical_path

_KEY_BYTES: Final = 32  # AES-256
_LARGEST_LOGO: Final = 256 << 10
_LOGO_TYPES: Final = (".svg", ".png", ".webp")
_COOKIE_NAME: Final = re.compile(rf"(?=.{{1,64}}\Z){TCHARS}")
# Browsers treat cookies of these names by rules of their own (RFC 6265bis, section 4.1.3).
_COOKIE_PREFIXES: Final = ("__host-", "__secure-", "__http-")
_COLOUR: Final = re.compile(r"#[0-9A-Fa-f]{6}")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")  # BCP 47, without extensions
_PLACEHOLDER: Final = "{token}"
# RFC 5321, section 4.1.2, without quoted local parts and address literals.
_ADDRESS: Final = (
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
)
_MAILBOX: Final = re.compile(rf'{_ADDRESS}|(?:[^<>@"(),:;\\]+|"[^"\\]*") <{_ADDRESS}>')
_SMTP_SCHEMES: Final = ("smtp", "smtps", "smtp+plain")


def cookie_name(text: str) -> str:
    """The name of a cookie, without the prefix that the gateway adds."""
    if not _COOKIE_NAME.fullmatch(text):
        raise InvalidValue("must be a cookie name of at most 64 characters", "for example session")
    if text.lower().startswith(_COOKIE_PREFIXES):
        raise InvalidValue("must not begin with a prefix, which the gateway adds itself", "for example session")
    return text


def listed_origin(text: str) -> str:
    """One origin, as browsers send it."""
    if text in ("*", "null"):
        raise InvalidValue("must be one origin", "for example https://admin.example.com")
    return browser_origin(text)


def sign_in_place(text: str) -> str:
    """`pages`, `refuse`, or the path of a sign-in page."""
    return text if text in ("pages", "refuse") else local_path(text)


def local_path(text: str) -> str:
    """A path and an optional query on the gateway's own origin. Browsers read `//host` as another site."""
    path, _, _ = request_path(text).partition("?")
    try:
        canonical_path(path.encode(), relaxed=False)
    except Refusal as refusal:
        raise InvalidValue(
            f"must be a path that the gateway accepts; it has {refusal.reason}", "for example /login"
        ) from None
    return text


def footer_link(text: str) -> str:
    """An http address, a path, or `mailto:`. Other schemes can run scripts."""
    if text.startswith("/"):
        return local_path(text)
    if text.lower().startswith("mailto:"):
        return f"mailto:{_mail_address(text[7:])}"
    return web_address(text)


def link_template(text: str) -> str:
    """The address of a page that receives a link's token."""
    if text.count(_PLACEHOLDER) != 1:
        raise InvalidValue("must contain {token} once", "for example https://app.example.com/verify?token={token}")
    before, _, _ = text.partition(_PLACEHOLDER)
    if "/" not in before.partition("://")[2]:
        raise InvalidValue(
            "must contain {token} in its path or query", f"for example {before}/verify?token={_PLACEHOLDER}"
        )
    web_address(text.replace(_PLACEHOLDER, "token"))
    return text


def encryption_key(text: str) -> str:
    """A key of 32 bytes in base64."""
    try:
        size = len(b64decode(text.strip(), validate=True))
    except (NotBase64, ValueError):
        size = 0
    if size != _KEY_BYTES:
        raise InvalidValue(f"must be {_KEY_BYTES} bytes in base64", "openssl rand -base64 32")
    return text.strip()


def logo_file(text: str) -> str:
    """An image that browsers show without running anything of another site."""
    path = Path(text)
    if path.suffix.lower() not in _LOGO_TYPES:
        raise InvalidValue("must be an image .svg, .png or .webp", "for example logo.svg")
    size = path.stat().st_size
    if size > _LARGEST_LOGO:
        raise InvalidValue(f"must be at most {_LARGEST_LOGO >> 10}KiB, and has {size} bytes", "a smaller image")
    return text


def colour(text: str) -> str:
    """A colour in hexadecimal."""
    if _COLOUR.fullmatch(text):
        return text.lower()
    raise InvalidValue("must be a colour in hexadecimal", 'for example "#0a5fd7"')


def language(text: str) -> str:
    """A language tag."""
    if _LANGUAGE.fullmatch(text):
        return text
    raise InvalidValue("must be a language tag", "for example en or de-AT")


def mailbox(text: str) -> str:
    """An address, with a name or without."""
    if _MAILBOX.fullmatch(text) and len(text) <= 320:
        return text
    raise InvalidValue("must be an e-mail address", 'for example "Example <no-reply@example.com>"')


def _mail_address(text: str) -> str:
    if re.fullmatch(_ADDRESS, text):
        return text
    raise InvalidValue("must be mailto: and an e-mail address", "for example mailto:help@example.com")


def smtp_address(text: str) -> str:
    """The address of an SMTP server."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _SMTP_SCHEMES:
        raise InvalidValue("must be the address of an SMTP server", "smtp://user:password@host:587, or smtps://")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise InvalidValue("must name a host and perhaps a port", f"for example {scheme}://mail.example.com:587")
    if url.path.strip("/") or url.query or url.fragment:
        raise InvalidValue("must end after the host and the port", f"{scheme}://{host}")
    if any(control in unquote(url.netloc) for control in "\r\n\0"):
        raise InvalidValue("must not hold a control character", shows_value=False)
    if scheme == "smtp+plain" and not is_loopback_host(host):
        raise InvalidValue("must not cross the network without TLS", f"smtp://{host}")
    return text
