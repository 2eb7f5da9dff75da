"""Passwords: validation, and hashing in threads.

bcrypt uses only the first 72 bytes, so longer passwords are refused instead of truncated (CVE-2025-22228). The length
is in bytes of UTF-8 after NFC, which makes the same password from different keyboards the same bytes. Hashing takes a
quarter of a second of CPU at the usual cost and releases the GIL.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple, NewType

import bcrypt

from gateway.accounts.inputs import composed
from gateway.accounts.password_threads import Check, PasswordThreads
from gateway.samples import Sample

# NFC, UTF-8, at most 72 bytes without NUL: bcrypt uses every byte.
Password = NewType("Password", bytes)

MAX_BYTES: Final = 72
MAX_ROUNDS: Final = 16  # 2 ** 16 takes 4 seconds of CPU; hashes with more rounds would block all others.
# Rounds, 22 characters of salt of which the last carries only 2 bits, and 31 characters of hash.
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}").fullmatch
_MADE_UP: Final = "." * 53  # A salt and a hash that no password matches.


def chosen_password(text: str, *, min_length: int) -> Password:
    """Validate a new password; `min_length` is in characters. Raises ValueError with a message for the user."""
    normalised = composed(text, max_bytes=MAX_BYTES)
    if len(normalised) < min_length:
        raise ValueError(f"must be at least {min_length} characters long")
    if "\0" in normalised:
        raise ValueError("must not contain a NUL character")
    try:
        encoded = normalised.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode text") from None
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"must be at most {MAX_BYTES} bytes long in UTF-8, this is {len(encoded)} bytes")
    return Password(encoded)


def presented_password(text: str) -> Password | None:
    """Normalise a password to be checked. None for text that cannot be a password; it is then simply wrong."""
    try:
        return chosen_password(text, min_length=0)
    except ValueError:
        return None


class PasswordPool:
    """Hashes and checks passwords with bcrypt at a cost of 2 to the power of `rounds`.

    Every check takes the same work, because timing would reveal which addresses have an account (GHSA-6f65-4fv2-wwch):
    the work of `rounds`, or of the most expensive known stored hash, even if the stored hash is cheaper or missing.

    Asynchronous methods raise Refusal("overloaded") when too many passwords wait. `caller` identifies the client in the
    queue for the threads.
    """

    def __init__(self, *, rounds: int, threads: PasswordThreads | None = None) -> None:
        self._rounds = self._most_rounds = rounds
        self._threads = PasswordThreads() if threads is None else threads

    async def hash(self, password: Password, *, caller: str = "") -> str:
        """A hash to store, with a new salt."""
        return await self._threads.run(partial(_hash, password, self._rounds), caller=caller)

    async def matches(
        self, password: Password | None, stored: str | None, *, caller: str = "", check: Check | None = None
    ) -> bool:
        """Whether the password matches a stored hash. Without a hash (unknown user), with a foreign hash format, or
        without a possible password the result is False, after the same work."""
        self.expect(rounds_of(stored))
        work = partial(_matches, password, stored, self._most_rounds)
        return await self._threads.run(work, caller=caller, check=check)

    def expect(self, rounds: int) -> None:
        """Note that hashes of this cost are stored; from now on checks take as much work."""
        self._most_rounds = max(self._most_rounds, rounds)

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash has a cost other than the configured one."""
        return rounds_of(stored) != self._rounds

    def samples(self) -> Iterator[Sample]:
        """The queue length, and histograms of waiting and working time."""
        return self._threads.samples()

    def close(self) -> None:
        """Cancel waiting work; running work finishes."""
        self._threads.close()


def rounds_of(stored: str | None) -> int:
    """The cost of a bcrypt hash; 0 for other text."""
    found = None if stored is None else _BCRYPT(stored)
    return 0 if found is None else int(found[1])


def _matches(password: Password | None, stored: str | None, rounds: int) -> bool:
    """The result, after the work of `rounds` rounds, or of the hash's own cost if that is higher."""
    cost = rounds_of(stored)
    if not cost or stored is None:
        _work(password, rounds)
        return False
    is_right = bcrypt.checkpw(password or b"", stored.encode("ascii"))
    # 2^cost + (2^cost + 2^(cost+1) + … + 2^(rounds-1)) = 2^rounds
    for missing in range(cost, rounds):
        _work(password, missing)
    return is_right and password is not None


def _work(password: Password | None, rounds: int) -> None:
    bcrypt.checkpw(password or b"", f"$2b${rounds:02d}${_MADE_UP}".encode("ascii"))


def _hash(password: Password, rounds: int) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(rounds)).decode("ascii")


# Common passwords, the first guesses of an attacker (NIST SP 800-63B 5.1.1.2): refused as new passwords.
#
# The list is the file common_passwords.txt: whole passwords, and words combined with common endings, 1.6 million in
# all. The comparison is in NFC and case-insensitive, and reads digits and signs in words as the letters they resemble
# (`P@ssw0rd1`). The list takes 0.4 MiB and is loaded with the first new password.
_FILE: Final = Path(__file__).with_name("common_passwords.txt")
_STAND_FOR: Final = str.maketrans("@4301!$57", "aaeoiisst")


class _Commonest(NamedTuple):
    whole: frozenset[str]
    words: frozenset[str]
    endings: frozenset[str]
    longest: int  # length of the longest ending, in characters


def is_common(password: Password) -> bool:
    """Whether a password is in the list."""
    # Case folding can produce text that is not in NFC.
    text = unicodedata.normalize("NFC", password.decode().casefold())
    known = _commonest()
    if text in known.whole:
        return True
    return any(
        (at == len(text) or text[at:] in known.endings) and _is_word(text[:at], known.words)
        for at in range(len(text), max(0, len(text) - known.longest - 1), -1)
    )


def _is_word(text: str, words: frozenset[str]) -> bool:
    return text in words or text.translate(_STAND_FOR) in words


@cache
def _commonest() -> _Commonest:
    sections: dict[str, list[str]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and line[1:-1].isalpha():
            sections[line[1:-1]] = found = []
        elif sections:
            found += line.split()
    endings = frozenset(sections["endings"])
    return _Commonest(frozenset(sections["whole"]), frozenset(sections["words"]), endings, max(map(len, endings)))
