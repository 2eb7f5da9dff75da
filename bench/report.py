"""The report: tables in Markdown that are also readable in a terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.figures import Outcome, cpu_us, outcome_from_json, p50, p99, ratio, rps
from bench.processes import MIB
from bench.targets import further_verdicts, verdicts
from bench.traffic import TRAFFIC, Traffic

REFERENCES = (("envoy-jwt", "× Envoy (JWT)"), ("nginx", "× nginx"), ("uvicorn-hello", "× hello"))


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report of one result, given as in the JSON file."""
    outcomes = [outcome_from_json(data) for data in result["peers"]]
    parts = [
        f"# Benchmark of {result['machine']['date'][:10]}\n",
        _machine(result),
        *(requests_table(traffic, outcomes) for traffic in TRAFFIC),
        _peers(outcomes),
        targets_table(outcomes, result),
        footprint_table(result.get("footprint", {})),
        latency_tables(result.get("latency", {})),
        websocket_table(result.get("websocket", {})),
        bulk_table(result.get("bulk", {})),
        scale_tables(result.get("scale", {})),
        _left_out(result.get("left_out", {})),
    ]
    return "\n".join(part for part in parts if part)


def requests_table(traffic: Traffic, measured: Sequence[Outcome]) -> str:
    """CPU per request and other figures: medians, with the range over the rounds in brackets."""
    outcomes = [outcome for outcome in measured if outcome.traffic == traffic.name]
    if not outcomes:
        return ""
    named = {outcome.name: outcome for outcome in outcomes}
    references = [(named[name], title) for name, title in REFERENCES if name in named]
    header = [
        "",
        "µs CPU per request",
        *(title for _, title in references),
        "requests/s",
        "p50 ms",
        "p99 ms",
        "PSS MiB",
    ]
    rows = [[outcome.title, *_row(outcome, references)] for outcome in outcomes]
    return f"## {traffic.title}\n\n{table(header, rows)}"


def _peers(outcomes: Sequence[Outcome]) -> str:
    """Versions and work of the peers."""
    lines = [f"- **{outcome.title}** {outcome.version}: {outcome.does}\n" for outcome in outcomes]
    return "".join(dict.fromkeys(lines))


def _row(outcome: Outcome, references: Iterable[tuple[Outcome, str]]) -> list[str]:
    cpu = outcome.spread(cpu_us)
    return [
        f"{_short(cpu.median)} ({_short(cpu.low)}–{_short(cpu.high)})",
        *(f"{ratio(outcome, other, cpu_us).median:.2f}" for other, _ in references),
        f"{outcome.spread(rps).median:,.0f}",
        f"{outcome.spread(p50).median:.2f}",
        f"{outcome.spread(p99).median:.2f}",
        f"{outcome.pss / MIB:.0f}",
    ]


def targets_table(outcomes: Sequence[Outcome], result: Mapping[str, Any]) -> str:
    """Targets and measured values; empty without any of them."""
    named = {outcome.key: outcome for outcome in outcomes}
    found = [*verdicts(named, result.get("footprint", {})), *further_verdicts(result)]
    rows = [
        [verdict.what, verdict.spread, verdict.quiet, verdict.goal, "met" if verdict.met else "**missed**"]
        for verdict in found
    ]
    return f"## Targets\n\n{table(['', 'measured', 'at their best', 'wanted', ''], rows)}" if rows else ""


def footprint_table(footprint: Mapping[str, float]) -> str:
    """Start-up and idle figures, by peer."""
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in footprint if "." in key))
    columns = ("answer_ms", "answer_cpu_ms", "idle_pss_mib", "idle_rss_mib", "idle_cpu_ms_per_s")
    rows = [[name, *(_number(footprint.get(f"{name}.{column}")) for column in columns)] for name in names]
    header = ["", "first answer, ms", "CPU until then, ms", "idle PSS, MiB", "idle RSS, MiB", "idle CPU, ms/s"]
    helped = f"`gateway --help` takes {footprint['help_ms']:.0f} ms.\n" if "help_ms" in footprint else ""
    return f"## Start and idle\n\n{table(header, rows)}{helped}" if rows else ""


def bulk_table(bulk: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Large bodies in both directions."""
    rows = [
        [name, *(_number(ways[way][key]) for way in ("down", "up") for key in ways[way])] for name, ways in bulk.items()
    ]
    header = [
        "",
        *(f"{way}, {unit}" for way in ("down", "up") for unit in ("MB/s", "CPU ms", "memory grew, MiB")),
    ]
    return f"## Large bodies\n\n{table(header, rows)}" if rows else ""


def latency_tables(latency: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table for each rate. Brackets show the difference to the direct connection."""
    parts = []
    for rate, ways in latency.items():
        direct = ways.get("direct", {})
        rows = [[name, *(_delay(delays, key, direct) for key in delays)] for name, delays in ways.items()]
        parts.append(table([f"{rate} requests/s, ms", "p50", "p99", "p99.9", "longest"], rows))
    return "## Latency at a fixed rate\n\n" + "\n".join(parts) if parts else ""


def _delay(delays: Mapping[str, float], key: str, direct: Mapping[str, float]) -> str:
    added = f" (+{max(0.0, delays[key] - direct[key]):.2f})" if direct and delays is not direct else ""
    return f"{delays[key]:.2f}{added}"


def scale_tables(scale: Mapping[str, Mapping[str, float]]) -> str:
    """One table for each growing quantity."""
    parts = [
        table([what, *points], [[_unit(what), *(f"{value:g}" for value in points.values())]])
        for what, points in scale.items()
    ]
    return "## As it grows\n\n" + "\n".join(parts) if parts else ""


def _unit(what: str) -> str:
    return next((unit for unit in ("KiB", "ms") if unit in re.split(r"\W+", what)), "µs")


def websocket_table(websocket: Mapping[str, Mapping[str, float]]) -> str:
    """Echoes, and the memory of idle connections."""
    columns = ("messages_per_second", "cpu_us", "websocket_kib", "event_stream_kib")
    header = ["", "echoes/s", "µs CPU per echo", "KiB per idle WebSocket", "KiB per event stream"]
    rows = [[name, *(_number(figures[column]) for column in columns)] for name, figures in websocket.items()]
    return f"## WebSockets and event streams\n\n{table(header, rows)}" if rows else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table, with the first column to the left and the others to the right."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if index == 0 else ("-" * (max(width, 2) - 1) + ":") for index, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)]) + "\n"


def _machine(result: Mapping[str, Any]) -> str:
    machine, options = result["machine"], result["options"]
    busy = [window["load_average"] for peer in result["peers"] for window in peer["windows"]]
    load = f"{min(busy):.1f} to {max(busy):.1f}" if busy else "unknown"
    optimised = " (built with PGO)" if machine["python_optimised"] else ""
    return (
        f"{machine['cpus']} × {machine['cpu']}{' (virtual)' if machine['virtual'] else ''}, "
        f"{machine['system']}, {machine['python']}{optimised}, "
        f"gateway at {result['commit'] or 'an unknown commit'}. "
        f"{options['connections']} connections, {options['rounds']} rounds of {options['seconds']:g} s, "
        f"load by {options['driver']}, upstream {options['upstream']}; load average {load}.\n\n"
        "A figure of requests is the median of the rounds, with the smallest and largest in brackets. `×` is a ratio "
        "of CPU; at their best is the ratio of the best rounds of both sides. The method is in docs/benchmarks.md.\n"
    )


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    lines = (f"- {name}: {(reason.splitlines() or [''])[0]}" for name, reason in left_out.items())
    return "## Not measured\n\n" + "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
