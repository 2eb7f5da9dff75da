"""Runs a module with a defect in the gateway: it keeps each request head in a reference cycle.

`python -m tests.memory.defective MODULE ARGUMENTS`
"""

import runpy
import sys

from gateway.gate.admission import RequestHead


class SelfReference:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self, held: object) -> None:
        self.itself = self
        self.held = held


_correct = RequestHead.__init__


def _defective(self: RequestHead, *arguments: object, **options: object) -> None:
    _correct(self, *arguments, **options)  # type: ignore[arg-type]
    SelfReference((self, self.fields))


RequestHead.__init__ = _defective  # type: ignore[method-assign]
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
