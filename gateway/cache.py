"""A bounded cache of two dicts, the young and the old generation, without bookkeeping per entry.

Entries in use are in the young generation. When that is full or has existed for one lifetime, it becomes the old
generation and the previous old generation is dropped. Using an old entry moves it to the young generation. The common
hit costs one dict lookup, and unused entries free their memory.

Freeing 50,000 user records at once would block the process for 20 ms. Each insertion therefore frees a few entries of
dropped generations.
"""

from typing import Final, Generic, TypeVar

K = TypeVar("K", bytes, str)
V = TypeVar("V")

_AT_ONCE: Final = 64  # Entries freed per insertion: 30 µs.


class TwoGenerationCache(Generic[K, V]):
    """A cache of at most `max_entries` entries with at most `max_key_length` bytes (or characters) of keys. Up to half
    as many dropped entries can still await deallocation.

    Below these limits an entry stays for at least `lifetime` seconds; an unused one is dropped by the first insertion
    after two lifetimes.

    Code on the hot path reads `young` first and calls `get` on a miss, which saves a call for the common hit.
    """

    __slots__ = ("_going", "_half_entries", "_half_length", "_length", "_lifetime", "_old", "_turn_at", "young")

    def __init__(self, max_entries: int, *, lifetime: float, max_key_length: int = 1 << 62) -> None:
        self._half_entries = max(1, max_entries // 2)
        self._half_length = max(1, max_key_length // 2)
        self._lifetime = lifetime
        self._turn_at = float("-inf")
        self._length = 0
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._going: list[dict[K, V]] = []

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def __contains__(self, key: K) -> bool:
        return key in self.young or key in self._old

    def get(self, key: K) -> V | None:
        """The entry; None without one. An entry of the old generation moves to the young one."""
        value = self.young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self._insert(key, value)
        return value

    def put(self, key: K, value: V, now: float) -> None:
        """Insert or replace an entry. `now` is in seconds, always from the same clock."""
        if now >= self._turn_at:
            self._turn()
            self._turn_at = now + self._lifetime
        self._insert(key, value)
        if self._going:
            self._free()

    def drop(self, key: K) -> None:
        """Remove an entry if it exists."""
        self._old.pop(key, None)
        if self.young.pop(key, None) is not None:
            self._length -= len(key)

    def clear(self) -> None:
        """Remove all entries."""
        self._turn()
        self._turn()

    def _insert(self, key: K, value: V) -> None:
        self._old.pop(key, None)
        if key not in self.young:
            if len(self.young) >= self._half_entries or self._length + len(key) > self._half_length:
                self._turn()
            self._length += len(key)
        self.young[key] = value

    def _free(self) -> None:
        """Free some dropped entries. More entries are freed than inserted, so the backlog stays bounded."""
        going = self._going
        for _ in range(_AT_ONCE):
            while going and not going[-1]:
                going.pop()
            if not going:
                return
            going[-1].popitem()

    def _turn(self) -> None:
        if self._old:
            self._going.append(self._old)
        self._old = self.young
        self.young = {}
        self._length = 0
