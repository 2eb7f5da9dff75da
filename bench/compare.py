"""Compare two results: `python -m bench.compare OLD.json NEW.json`.

Absolute figures depend on the machine and its load. The relevant column is the ratio to Envoy, which was measured in
the same rounds.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

REFERENCE = "envoy-jwt"
REPEATED = "repeated"  # the only kind of traffic in results of the time before heads varied
NOTABLE = 0.05


def windows(result: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The windows by peer and, apart from repeated heads, kind of traffic."""
    return {
        _key(peer["name"], peer.get("traffic", REPEATED)): peer["windows"]
        for peer in result["peers"]
        if peer["windows"]
    }


def _key(name: str, traffic: str) -> str:
    return name if traffic == REPEATED else f"{name}, {traffic}"


def cpu(measured: list[dict[str, float]]) -> float:
    """Median CPU microseconds per request."""
    return median(window["cpu_us"] for window in measured)


def relative(name: str, result: Mapping[str, Any]) -> float | None:
    """CPU as a multiple of the reference peer's, by round; None without the reference."""
    all_windows = windows(result)
    reference = _key(REFERENCE, name.partition(", ")[2] or REPEATED)
    if reference not in all_windows:
        return None
    pairs = zip(all_windows[name], all_windows[reference], strict=False)
    return median(mine["cpu_us"] / other["cpu_us"] for mine, other in pairs)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The lines of the comparison, for peers in both results."""
    before, after = windows(old), windows(new)
    lines = [f"{'':36}{'µs CPU per request':>26}{'× Envoy (JWT)':>24}{'change':>10}"]
    for name in (name for name in after if name in before):
        then, now = relative(name, old), relative(name, new)
        costs = f"{cpu(before[name]):.1f} → {cpu(after[name]):.1f}"
        ratios = f"{then:.3f} → {now:.3f}" if then and now else "–"
        lines.append(f"{name:36}{costs:>26}{ratios:>24}{_change(then, now):>10}")
    return lines


def _change(then: float | None, now: float | None) -> str:
    if not then or not now:
        return "–"
    change = now / then - 1
    return f"{change:+.1%}" + ("" if abs(change) < NOTABLE else " !")


def main() -> int:
    """Exit code 0; 2 if a file is not a result."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    try:
        old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
        lines = compare(old, new)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"not two results of this benchmark: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
