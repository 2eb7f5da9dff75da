"""Memory of objects, measured from outside: everything that an object refers to, code excepted."""

import gc
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType


def _reachable(thing: object) -> Iterator[object]:
    seen: set[int] = set()
    waiting = [thing]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, (type, ModuleType, FunctionType, BuiltinFunctionType)):
            continue
        seen.add(id(each))
        yield each
        waiting += gc.get_referents(each)
        if isinstance(each, dict):
            waiting += each  # The garbage collector does not visit keys that are texts.


def size_of(thing: object) -> int:
    """Bytes of an object and of all objects that it refers to."""
    return sum(sys.getsizeof(each) for each in _reachable(thing))


def strings_in(thing: object) -> int:
    """The number of distinct texts and byte strings in an object and in all objects that it refers to."""
    return sum(isinstance(each, (str, bytes)) for each in _reachable(thing))
