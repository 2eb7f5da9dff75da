"""Unicode normalisation (NFC) of client text, with bounded cost.

Normalisation sorts combining marks in quadratic time: the 32,600 marks that fit into a request body would block the
event loop for 1.5 seconds. The length is therefore checked first.
"""

import unicodedata
from typing import Final

# A canonical decomposition has at most 1.5 characters per byte of UTF-8 (U+01D5: 3 for 2 bytes). A text has no more
# characters than its decomposition, and NFC does not change the decomposition.
_CHARACTERS_PER_BYTE: Final = 1.5


def composed(text: str, *, max_bytes: int) -> str:
    """The text in NFC. Returned unchanged if its NFC certainly exceeds `max_bytes` bytes of UTF-8: then the text itself
    has more than 1.5 times as many characters."""
    if len(text) > max_bytes * _CHARACTERS_PER_BYTE:
        return text
    return unicodedata.normalize("NFC", text)
