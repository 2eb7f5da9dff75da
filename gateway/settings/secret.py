"""Values that must not be seen: a key, a password, an address that holds one."""

import re
from typing import Final

HIDDEN: Final = "********"
_SECRETISH: Final = re.compile(r"SECRET|PASSW|PASSPHRASE|TOKEN|CREDENTIAL|PRIVATE|KEY|PWD", re.IGNORECASE)
_USERINFO: Final = re.compile(r"//.*@", re.DOTALL)
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[^\s:\[\]@]*)(?::[0-9]{1,5})?")
_END_OF_USER: Final = re.compile(r"[:/?#]")


class Secret:
    """A text that `repr`, `str` and messages never show; `reveal()` is the only way to it.

    `shown` is what may stand in a message or a log line: of an address everything but its password and its
    query, of anything else nothing.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    @property
    def shown(self) -> str:
        """The text without what is secret in it: `postgresql://app:********@db/gateway`."""
        return without_password(self._text) if "://" in self._text else HIDDEN

    def __repr__(self) -> str:
        return f"Secret({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def without_password(address: str) -> str:
    """An address as it may be shown. Drivers take passwords from the query as well, so that goes altogether.

    Cut by hand: a password with an unescaped `/`, `?` or `#` makes urlsplit end the host inside of it.
    """
    scheme, _, rest = address.partition("://")
    userinfo, at, tail = rest.rpartition("@")
    tail, question, _ = tail.partition("?")
    place = tail.partition("/")[0]
    if not all(_HOST_AND_PORT.fullmatch(host) for host in place.split(",")):
        return f"{scheme}://{HIDDEN}"
    user = _END_OF_USER.split(userinfo, maxsplit=1)[0]
    known = user if user == userinfo else f"{user}:{HIDDEN}"
    return f"{scheme}://{known}{at}{tail}{question}{HIDDEN if question else ''}"


def without_userinfo(text: str) -> str:
    """A text as it may be quoted in a message: what looks like `user:password@` after `//` is blotted out."""
    return _USERINFO.sub(f"//{HIDDEN}@", text) if "@" in text else text


def is_secretish(name: str) -> bool:
    """Whether a variable of this name probably holds a secret: `DB_PASSWORD`, `api_token`, `SigningKey`."""
    return _SECRETISH.search(name) is not None
