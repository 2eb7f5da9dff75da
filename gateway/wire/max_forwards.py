"""Max-Forwards: how many more intermediaries can forward an OPTIONS or TRACE request (RFC 9110 7.6.2).

    value = 1*DIGIT     0: the recipient answers; otherwise it forwards the decremented value.

The grammar allows a single number. Recipients that guess the meaning of other values can disagree about which of them
answers, so the request is refused.
"""

import re
from typing import Final

from gateway.errors import Refusal
from gateway.wire.fields import MAX_FORWARDS, Placed, RequestFields

_LIMITED: Final = frozenset((b"OPTIONS", b"TRACE"))
_NUMBER: Final = re.compile(rb"[0-9]+").fullmatch
_MOST_DIGITS: Final = 9
_MOST: Final = 10**_MOST_DIGITS - 1  # 7.6.2: "the recipient's maximum supported value"


def forwards_left(method: bytes, fields: RequestFields) -> int | None:
    """The received value of Max-Forwards. None if the request is not limited: 7.6.2 limits only two methods.

    Raises Refusal `bad_request` for a malformed value and for repeated fields.
    """
    values = [value.strip(b" \t") for _, (_, value) in _fields(fields)]
    if not values or method not in _LIMITED:
        return None
    if len(values) > 1 or not _NUMBER(values[0]):
        raise Refusal("bad_request", "Max-Forwards is not one number")
    digits = values[0].lstrip(b"0")
    return _MOST if len(digits) > _MOST_DIGITS else int(digits or b"0")


def sent_on(method: bytes, fields: RequestFields) -> list[Placed]:
    """The Max-Forwards fields for the upstream, with their positions: decremented if they limit the request."""
    left = forwards_left(method, fields)
    if left is None:
        return _fields(fields)
    ((place, (name, _)),) = _fields(fields)
    return [(place, (name, b"%d" % (left - 1)))]


def _fields(fields: RequestFields) -> list[Placed]:
    return [placed for placed in fields.conditional if placed[1][0].lower() == MAX_FORWARDS]
