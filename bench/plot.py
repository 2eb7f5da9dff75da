"""A picture of one result: CPU per request on a logarithmic scale. Needs matplotlib, which is optional."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Outcome, cpu_us, outcome_from_json, rps

OURS, IDENTITY, PLAIN = "#1f6feb", "#bc4c00", "#6e7781"
LEGEND = ((OURS, "the gateway"), (IDENTITY, "decides and identifies too"), (PLAIN, "does neither"))


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
    _points(axes, outcomes)
    axes.set_xlabel("µs CPU per request (logarithmic; shorter is better)")
    axes.set_title(f"CPU per proxied request, {result['machine']['cpu']}, {result['machine']['python']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _points(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Points with their range, not bars: on a logarithmic scale the length of a bar means nothing."""
    for index, outcome in enumerate(outcomes):
        cost, rate = outcome.spread(cpu_us), outcome.spread(rps).median
        axes.plot([cost.low, cost.high], [index, index], color=_colour(outcome), linewidth=5, alpha=0.3)
        axes.plot([cost.median], [index], "o", color=_colour(outcome))
        text = f"  {cost.median:,.0f} µs, {rate:,.0f} requests/s"
        axes.text(cost.high, index, text, va="center", fontsize=8)
    axes.set_yticks(range(len(outcomes)), [outcome.title for outcome in outcomes])
    axes.set_xscale("log")
    axes.set_xlim(right=max(outcome.spread(cpu_us).high for outcome in outcomes) * 8)
    axes.grid(axis="x", which="both", alpha=0.2)
    for colour, meaning in LEGEND:
        axes.plot([], [], "o", color=colour, label=meaning)
    axes.legend(loc="lower left", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colour(outcome: Outcome) -> str:
    if outcome.name.startswith("gateway"):
        return OURS
    return IDENTITY if outcome.identity else PLAIN
