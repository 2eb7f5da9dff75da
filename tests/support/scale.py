"""How much of the large test inputs runs: all of it with TESTS_SCALE=whole, a share of it by default."""

import os
from typing import Final

import hypothesis

WHOLE: Final = os.environ.get("TESTS_SCALE") == "whole"
_SHARE: Final = 4


def examples(count: int) -> hypothesis.settings:
    """The settings of a property that is tested with this many examples in a whole run, and with a quarter of them by
    default."""
    return hypothesis.settings(max_examples=scaled(count))


def scaled(count: int) -> int:
    return count if WHOLE else count // _SHARE
