"""Email addresses: validation, and the canonical form for comparison.

An address is stored as its owner wrote it (trimmed, NFC) and compared by its canonical form. The local part is
case-folded without compatibility variants (NFKC and case folding): `BOB` and a full-width `Ｂｏｂ` both become `bob`,
which prevents look-alike registrations. The domain is its ASCII form in lower case.

Besides invalid addresses, the following are refused: quoted local parts, address literals, display names, domains
without a dot, characters that become `@`, `.` or other ASCII punctuation by compatibility mapping or as IDNA dots
(CVE-2026-40574: one domain was mistaken for another), and encoded words (RFC 2047), which some mail software decodes
into another address ("Splitting the email atom"). Reserved names such as `.test` or `.local` are accepted, because
a gateway often serves a private network. Deliverability is not checked.
"""

import re
import unicodedata
from typing import Final, NamedTuple

from gateway.accounts.inputs import composed

_MAX_LENGTH: Final = 254  # RFC 5321 4.5.3.1.3, without the brackets of a path. Checked before any expensive step.
_LONGEST_DOMAIN: Final = 253  # RFC 1035 2.3.4, without its length octets.
_SHORTEST_ENCODED: Final = len("xn--9ca.")  # RFC 5890 2.3.2.1: one character outside ASCII.
_DOTS: Final = frozenset("\u3002\uff0e\uff61")  # UTS 46 maps these to full stops.
_NOT_RESERVED: Final = ".example.com"
_ENCODED_WORD: Final = re.compile(r"=\?.*\?=").search
_PLAIN: Final = "must be a plain e-mail address, like name@example.com"


class EmailAddress(NamedTuple):
    """A valid address: `text` as written by its owner, `canonical` for comparison."""

    text: str
    canonical: str


def email_address(text: str) -> EmailAddress:
    """Parse an address. Raises ValueError with a message for the user."""
    text = composed(text.strip(), max_bytes=_MAX_LENGTH)
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"must be at most {_MAX_LENGTH} characters long")
    local, at, domain = text.rpartition("@")
    if (
        not at
        or _ENCODED_WORD(local)
        or any(_is_disguise(character) for character in text)
        or not _is_full_name(domain)
    ):
        raise ValueError(_PLAIN)
    return EmailAddress(text, f"{folded(local)}@{_ascii_domain(local, domain)}")


def folded(text: str) -> str:
    """A text without case and compatibility variants, for comparison (Unicode 3.13, D146)."""
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", once.casefold())


def _is_disguise(character: str) -> bool:
    """Whether a character outside ASCII is invisible, or maps to ASCII other than letters and digits."""
    if character.isascii():
        return False
    if character in _DOTS or unicodedata.category(character)[0] in "CZ":
        return True
    return any(part.isascii() and not part.isalnum() for part in unicodedata.normalize("NFKC", character))


def _is_full_name(domain: str) -> bool:
    """Whether a domain has a dot and is not an IPv4 address. The validator skips these checks for reserved names.

    Also refuses domains whose ASCII form would be too long: the validator takes milliseconds to encode them.
    """
    *labels, last = domain.split(".")
    shortest = sum(len(label) + 1 if label.isascii() else _SHORTEST_ENCODED for label in labels)
    return bool(labels) and not last.isdigit() and shortest <= _LONGEST_DOMAIN


def _ascii_domain(local: str, domain: str) -> str:
    """The domain in its ASCII form (IDNA), after validating the whole address. Raises ValueError.

    The validator cannot accept reserved names, so a reserved domain is validated as a subdomain of an ordinary one.
    """
    import email_validator  # A start reads no address, and this takes a twentieth of it: tables, patterns for Unicode.

    reserved = domain.lower().endswith(tuple(f".{name}" for name in email_validator.SPECIAL_USE_DOMAIN_NAMES))
    address = f"{local}@{domain}{_NOT_RESERVED if reserved else ''}"
    try:
        valid = email_validator.validate_email(address, strict=True, check_deliverability=False)
    except email_validator.EmailNotValidError:
        raise ValueError(_PLAIN) from None
    ascii_domain = valid.ascii_domain.lower()
    return ascii_domain.removesuffix(_NOT_RESERVED) if reserved else ascii_domain
