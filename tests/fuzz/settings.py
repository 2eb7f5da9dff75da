"""The length of the fuzzers' runs and the choice of cases, from the environment (docs/testing.md)."""

import os
from typing import Final

SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "4"))
SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
FIRST: Final = int(os.environ.get("FUZZ_FIRST", "0"))
MOST_FAILURES: Final = int(os.environ.get("FUZZ_FAILURES", "5"))
