"""Finds the objects of the gateway that only the garbage collector frees."""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, CoroutineType, FrameType, FunctionType, GeneratorType, MethodType, TracebackType

import gateway

SOURCE = str(Path(gateway.__file__).parent)


class Found:
    """Descriptions of the objects that the garbage collector has found: `2 x Answer`."""

    def __init__(self) -> None:
        self.objects: list[str] = []


@contextmanager
def unsearched() -> Iterator[Found]:
    """Disable the garbage collector during the block, then run it."""
    found = Found()
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        counted = Counter(_described(each) for each in gc.garbage if is_ours(each))
        found.objects = [f"{count} x {kind}" for kind, count in counted.most_common()]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        if was_enabled:
            gc.enable()


def is_ours(thing: object) -> bool:
    """Return whether an object belongs to the gateway: an instance of its classes, or a frame or function of its
    source."""
    code = _code_of(thing)
    if code is not None:
        return code.co_filename.startswith(SOURCE)
    return type(thing).__module__.partition(".")[0] == "gateway"


def _code_of(thing: object) -> CodeType | None:
    match thing:
        case FrameType():
            return thing.f_code
        case TracebackType():
            return thing.tb_frame.f_code
        case FunctionType():
            return thing.__code__
        case MethodType():
            return _code_of(thing.__func__)
        case CoroutineType():
            return thing.cr_code
        case GeneratorType():
            return thing.gi_code
    return None


def _described(thing: object) -> str:
    code, kind = _code_of(thing), type(thing).__qualname__
    return kind if code is None else f"{kind} of {code.co_qualname}"
