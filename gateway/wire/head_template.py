"""Serialize the fields that a proxy passes on, with one template for all heads that have the same field names.

Clients and upstreams send the same names in the same order again and again, with other values. The names of such heads
are classified once, and `%` then writes all lines in one step, however many fields a head has.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final

Field = tuple[bytes, bytes]
Names = tuple[bytes, ...]
Values = tuple[bytes, ...]
Picker = Callable[[Values], Values]

# Clients and upstreams choose the names, so heads with many or long ones are not remembered.
KNOWN_HEADS: Final = 1024
_MOST_NAMES: Final = 32
_LONGEST_NAMES: Final = 512  # In bytes, all names of a head together.


def is_memorable(names: Names) -> bool:
    """Whether the names of a head are few and short enough to be remembered."""
    return len(names) <= _MOST_NAMES and sum(map(len, names)) <= _LONGEST_NAMES


class HeadTemplate:
    """The fields at the `indexes` of heads with these names."""

    __slots__ = ("_names", "_pick", "_template")

    def __init__(self, names: Names, indexes: Sequence[int]) -> None:
        self._names = tuple([names[index] for index in indexes])
        self._pick = picker(indexes)
        self._template: bytes | None = None
        if is_memorable(names):  # The template is a second copy of the names.
            self._template = b"".join([b"%b: %%b\r\n" % name.replace(b"%", b"%%") for name in self._names])

    def fields(self, values: Values) -> list[Field]:
        """The fields of a head with all these values."""
        return list(zip(self._names, self._pick(values), strict=True))

    def lines(self, values: Values) -> bytes:
        """The same fields, serialized."""
        if self._template is None:
            return b"".join([b"%b: %b\r\n" % field for field in self.fields(values)])
        return self._template % self._pick(values)


def picker(indexes: Sequence[int]) -> Picker:
    """A function that picks values. Of one index, `itemgetter` would return no tuple."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return itemgetter(slice(indexes[0], indexes[0] + 1) if indexes else slice(0))
