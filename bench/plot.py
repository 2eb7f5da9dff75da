"""A picture of one result: CPU per request on a logarithmic scale. Needs matplotlib, which is optional."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Outcome, cpu_us, outcome_from_json, rps

OURS, IDENTITY, PLAIN = "#1f6feb", "#8b949e", "#d0d7de"


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw the result into `path`; the suffix decides the format (svg, png)."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gateway"
    from matplotlib import pyplot

    outcomes = sorted(
        (outcome_from_json(data) for data in result["peers"]),
        key=lambda outcome: -outcome.spread(cpu_us).median,
    )
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(outcomes) + 1.4))
    _bars(axes, outcomes)
    axes.set_xlabel("µs CPU per request (logarithmic; shorter is better)")
    axes.set_title(
        f"CPU per proxied request, {result['machine']['cpu']}, {result['machine']['python']}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _bars(axes: Any, outcomes: Sequence[Outcome]) -> None:
    spreads = [outcome.spread(cpu_us) for outcome in outcomes]
    medians = [each.median for each in spreads]
    errors = [[each.median - each.low for each in spreads], [each.high - each.median for each in spreads]]
    colours = [_colour(outcome) for outcome in outcomes]
    axes.barh([outcome.title for outcome in outcomes], medians, xerr=errors, color=colours, ecolor="#57606a")
    axes.set_xscale("log")
    axes.set_xlim(min(medians) * 0.6, max(medians) * 6)
    for index, outcome in enumerate(outcomes):
        text = f"  {medians[index]:,.0f} µs, {outcome.spread(rps).median:,.0f} req/s"
        axes.text(spreads[index].high, index, text, va="center", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colour(outcome: Outcome) -> str:
    if outcome.name.startswith("gateway"):
        return OURS
    return IDENTITY if outcome.identity else PLAIN
