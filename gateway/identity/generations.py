"""A bounded cache that evicts without book-keeping for each entry: two generations of dicts.

What is used lives in the young one. When that is full it becomes the old one, and the old one is dropped; an
entry that is used while it is old moves back to the young one. So a hit in the young generation, the common
case, costs one dict look-up, and what has not been used for a whole generation is gone.
"""

from typing import Generic, TypeVar

K = TypeVar("K", bytes, str)
V = TypeVar("V")


class Generations(Generic[K, V]):
    """At most `max_entries` entries whose keys have at most `max_key_length` bytes (or characters) in all.

    Read `young` first and ask `aged` on a miss: the hot path saves the call.
    """

    __slots__ = ("_half_entries", "_half_length", "_length", "_old", "young")

    def __init__(self, max_entries: int, max_key_length: int = 1 << 62) -> None:
        self._half_entries = max(1, max_entries // 2)
        self._half_length = max(1, max_key_length // 2)
        self._length = 0
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def aged(self, key: K) -> V | None:
        """The old generation's entry, which is young again by being asked for; None where there is none."""
        value = self._old.pop(key, None)
        if value is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep an entry; whatever was kept under this key is replaced."""
        self._old.pop(key, None)
        if key not in self.young:
            if len(self.young) >= self._half_entries or self._length + len(key) > self._half_length:
                self.turn()
            self._length += len(key)
        self.young[key] = value

    def drop(self, key: K) -> None:
        """Forget an entry, if it is there."""
        self._old.pop(key, None)
        if self.young.pop(key, None) is not None:
            self._length -= len(key)

    def turn(self) -> None:
        """Begin a new generation: what was old already is gone."""
        self._old = self.young
        self.young = {}
        self._length = 0

    def clear(self) -> None:
        """Forget everything."""
        self.turn()
        self.turn()
