"""Pictures of a result: CPU per request, latency, growth. Requires matplotlib, an optional dependency."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Outcome, cpu_us, outcome_from_json, rps

OURS, IDENTITY, PLAIN = "#1f6feb", "#bc4c00", "#6e7781"
MARKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # ms
DELAYS = ("p50", "p99", "p999")
LEGEND = ((OURS, "the gateway"), (IDENTITY, "decides and identifies too"), (PLAIN, "does neither"))


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw the result into `path`. The suffix selects the format (svg, png)."""
    outcomes = sorted(
        (outcome for data in result["peers"] if (outcome := outcome_from_json(data)).traffic == _headline(result)),
        key=lambda outcome: -outcome.spread(cpu_us).median,
    )
    figure, axes = _pyplot().subplots(figsize=(9, 0.42 * len(outcomes) + 1.4))
    _points(axes, outcomes)
    axes.set_xlabel("µs CPU per request (logarithmic; shorter is better)")
    axes.set_title(f"CPU per proxied request, {result['machine']['cpu']}, {result['machine']['python']}", fontsize=10)
    _save(figure, path)


def _headline(result: Mapping[str, Any]) -> str:
    """The traffic of the picture: varying heads, or repeated ones in results of the time before heads varied."""
    return "varying" if any(data.get("traffic") == "varying" for data in result["peers"]) else "repeated"


def _points(axes: Any, outcomes: Sequence[Outcome]) -> None:
    """Draw points with their range. Bars would be misleading, because their length has no meaning on a log scale."""
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


def plot_latency(latency: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """The latency at each rate: p50, p99 and p99.9 on a logarithmic scale."""
    figure, _ = _pyplot().subplots(1, len(latency), figsize=(9, 0.3 * len(next(iter(latency.values()))) + 1.4))
    for axis, (rate, ways) in zip(figure.axes, latency.items(), strict=True):
        for place, (name, delays) in enumerate(reversed(list(ways.items()))):
            points = [delays[key] for key in DELAYS]
            colour = OURS if name.startswith("gateway") else PLAIN
            axis.plot(points, [place] * len(points), color=colour, linewidth=5, alpha=0.3)
            for point, marker in zip(points, "o|x", strict=True):
                axis.plot([point], [place], marker, color=colour)
        axis.set_yticks(range(len(ways)), list(reversed(list(ways))) if axis is figure.axes[0] else [""] * len(ways))
        axis.set_xscale("log")
        most = max(delays["p999"] for delays in ways.values())
        marks = [mark for mark in MARKS if mark < most * 2]
        axis.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axis.set_xticks([], minor=True)
        axis.set_ylim(-0.7, len(ways) - 0.3)
        axis.set_xlabel("ms: ● p50, | p99, × p99.9")
        axis.set_title(f"{rate} requests/s", fontsize=10)
        axis.grid(axis="x", alpha=0.2)
    _save(figure, path)


def plot_growth(scale: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A small picture for each growing quantity, with the axis from zero."""
    figure, axes = _pyplot().subplots(2, (len(scale) + 1) // 2, figsize=(13, 5))
    for axis, (what, points) in zip(axes.flat, scale.items(), strict=False):
        axis.plot([_short(point) for point in points], list(points.values()), "o-", color=OURS)
        axis.set_ylim(0, max(points.values()) * 1.15)
        axis.set_title(what, fontsize=8)
        axis.grid(axis="y", alpha=0.2)
    for axis in list(axes.flat)[len(scale) :]:
        axis.set_visible(False)
    figure.suptitle("µs for each request, where no other unit is named", fontsize=9)
    _save(figure, path)


def _short(count: str) -> str:
    """1000 as 1k, 1000000 as 1M."""
    return re.sub("000$", "k", re.sub("000000$", "M", count))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gateway"
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    _pyplot().close(figure)


def _colour(outcome: Outcome) -> str:
    if outcome.name.startswith("gateway"):
        return OURS
    return IDENTITY if outcome.identity else PLAIN
