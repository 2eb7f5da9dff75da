"""E-mail addresses: which are accepted, and which are the same.

An address is kept as its owner wrote it (trimmed, NFC), and compared by its canonical form: the local part folded as
Unicode compares without case and without compatibility variants (NFKC and case folding, so that `BOB` and a full-width
`Ｂｏｂ` are `bob`, and nobody registers a look-alike of somebody else), the domain in its ASCII form in lower case.

Refused, beyond what is no address at all: quoted local parts, address literals, display names, domains without a dot,
and characters that only turn into `@`, `.` or other ASCII punctuation later on, by compatibility or as the dots of IDNA
(CVE-2026-40574: what looked like one domain was taken for another). Names that are reserved, like `.test` or `.local`,
are accepted: a gateway often serves a network of its own. Whether mail arrives there is not looked at.
"""

import unicodedata
from dataclasses import dataclass
from typing import Final

import email_validator

from gateway.accounts.composing import composed

_MAX_LENGTH: Final = 254  # RFC 5321 4.5.3.1.3, without the brackets of a path; checked before anything expensive
_LONGEST_DOMAIN: Final = 253  # RFC 1035 2.3.4, without its length octets
_SHORTEST_ENCODED: Final = len("xn--9ca.")  # RFC 5890 2.3.2.1: one character outside ASCII
_DOTS: Final = frozenset("\u3002\uff0e\uff61")  # UTS 46 takes them for full stops
_RESERVED: Final = tuple(f".{name}" for name in email_validator.SPECIAL_USE_DOMAIN_NAMES)
_NOT_RESERVED: Final = ".example.com"
_PLAIN: Final = "must be a plain e-mail address, like name@example.com"


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An address that was accepted: `text` as its owner writes it, `canonical` as it is compared."""

    text: str
    canonical: str


def email_address(text: str) -> EmailAddress:
    """The address in this text. Raises ValueError with a sentence for its owner."""
    text = composed(text.strip(), max_bytes=_MAX_LENGTH)
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"must be at most {_MAX_LENGTH} characters long")
    local, at, domain = text.rpartition("@")
    if not at or any(_is_disguise(character) for character in text) or not _is_full_name(domain):
        raise ValueError(_PLAIN)
    try:
        return EmailAddress(text, f"{folded(local)}@{_ascii_domain(local, domain)}")
    except email_validator.EmailNotValidError:
        raise ValueError(_PLAIN) from None


def folded(text: str) -> str:
    """A text as it is compared: without case and compatibility variants (Unicode 3.13, D146)."""
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", once.casefold())


def _is_disguise(character: str) -> bool:
    """Whether a character outside ASCII is invisible, or stands for ASCII that is neither letter nor digit."""
    if character.isascii():
        return False
    if character in _DOTS or unicodedata.category(character)[0] in "CZ":
        return True
    return any(part.isascii() and not part.isalnum() for part in unicodedata.normalize("NFKC", character))


def _is_full_name(domain: str) -> bool:
    """Whether a domain has a dot and is no IPv4 address: the validator asks for neither of reserved names. Too many
    labels for the ASCII form of a domain are refused before the validator takes milliseconds to encode them."""
    *labels, last = domain.split(".")
    shortest = sum(len(label) + 1 if label.isascii() else _SHORTEST_ENCODED for label in labels)
    return bool(labels) and not last.isdigit() and shortest <= _LONGEST_DOMAIN


def _ascii_domain(local: str, domain: str) -> str:
    """The domain in its ASCII form (IDNA), once the whole address was found to be valid.

    The validator has no way to accept reserved names, so the address is looked at below a name that is not reserved.
    """
    reserved = domain.lower().endswith(_RESERVED)
    address = f"{local}@{domain}{_NOT_RESERVED if reserved else ''}"
    ascii_domain = email_validator.validate_email(address, strict=True, check_deliverability=False).ascii_domain.lower()
    return ascii_domain.removesuffix(_NOT_RESERVED) if reserved else ascii_domain
