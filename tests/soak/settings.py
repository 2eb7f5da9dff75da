"""The length of the soak test, from the environment (docs/testing.md)."""

import os
from pathlib import Path
from typing import Final

SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "10"))
PACE: Final = float(os.environ.get("SOAK_PACE", "0.1"))  # seconds between two actions of a client
RESULTS: Final = Path(os.environ.get("SOAK_RESULTS", "build/soak"))
