"""Common passwords, the first guesses of an attacker (NIST SP 800-63B 5.1.1.2): refused as new passwords.

The list is the file common_passwords.txt: whole passwords, and words combined with common endings, 1.6 million in all.
The comparison is in NFC and case-insensitive, and reads digits and signs in words as the letters they resemble
(`P@ssw0rd1`). The list takes 0.4 MiB and is loaded with the first new password.
"""

import unicodedata
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from gateway.accounts.passwords import Password

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
