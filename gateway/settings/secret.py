"""Values that must not be shown: keys, passwords, and addresses that contain them."""

import re
from typing import Final

HIDDEN: Final = "********"
_SECRETISH: Final = re.compile(r"SECRET|PASSW|PASSPHRASE|TOKEN|CREDENTIAL|PRIVATE|KEY|PWD", re.IGNORECASE)
_USERINFO: Final = re.compile(r"//.*@", re.DOTALL)
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[^\s:\[\]@]*)(?::[0-9]{1,5})?")
_END_OF_USER: Final = re.compile(r"[:/?#]")


class Secret:
    """A text that `repr`, `str` and messages never show. Only `reveal()` returns it.

    `shown` is the form for messages and logs: an address without its password and query, otherwise only a mask.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    @property
    def shown(self) -> str:
        """The text with its secret parts masked: `postgresql://app:********@db/gateway`."""
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
    """Mask the password of an address. The whole query is masked, because drivers accept passwords in it.

    Parsed by hand, because urlsplit ends the host at an unescaped `/`, `?` or `#` in a password.
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
    """Mask everything that looks like `user:password@` after `//`."""
    return _USERINFO.sub(f"//{HIDDEN}@", text) if "@" in text else text


def is_secretish(name: str) -> bool:
    """Whether the name of a variable suggests a secret: `DB_PASSWORD`, `api_token`, `SigningKey`."""
    return _SECRETISH.search(name) is not None
