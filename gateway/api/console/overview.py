"""The overview: the traffic of the last fifteen minutes, the upstreams, and the latest refusals."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Final

from gateway.api.console import charts, pages
from gateway.api.console.charts import Line, Point
from gateway.api.console.pages import Column
from gateway.api.console.recent_refusals import RecentRefusal
from gateway.observability.metrics.history import TargetTotals, TrafficReport, TrafficSample
from gateway.samples import OTHER

# Status classes from the bottom of the chart to its top, with their names and styles.
_STATUSES: Final = {
    "2xx": ("2xx", "f1"),
    "3xx": ("3xx", "f2"),
    "1xx": ("WebSocket", "f5"),
    "4xx": ("4xx", "f3"),
    "5xx": ("5xx", "f4"),
    "499": ("client left", "f6"),
    OTHER: (OTHER, "f6"),
}
_CODE_STYLES: Final = ("f3", "f4", "f5", "f2", "f1")
_PERCENTILES: Final = (("median", "l1"), ("p95", "l2 dash"), ("p99", "l4 dot"))
_STATES: Final = {
    "up": ("✓ up", "good"),
    "down": ("✕ down", "bad"),
    "ejected": ("✕ ejected", "bad"),
    "failing": ("✕ failing", "bad"),
    "unused": ("– not contacted yet", ""),
}
_CHECKED: Final = ("✓ up, no requests yet", "good")
_STRIPS: Final = {"up": "up", "unused": "unused"}
_MOST_TARGETS: Final = 200
_MOST_REFUSALS: Final = 10


def overview(
    report: TrafficReport,
    policy: str,
    checked: Collection[str],
    refusals: Sequence[RecentRefusal],
    routes: Collection[str],
    *,
    is_live: bool,
) -> str:
    """Build the page. `policy` is the version of the policy, `checked` are the upstreams with health checks, `routes`
    the names of the routes, which a reload can have removed since a refusal."""
    alerts = [f"{store} is down" for store in report.now.out]
    alerts += [
        f"{name}: fewer than half of the targets are usable, so ejections are ignored" for name in report.now.panics
    ]
    return (
        pages.heading("Overview", _aside(report, is_live=is_live))
        + "".join(map(pages.alert, alerts))
        + pages.tiles(_tiles(report, policy))
        + f'<div class="charts">{"".join(_charts(report))}</div>'
        + _upstreams(report, checked)
        + pages.card("Latest refusals", refusal_table(refusals, _MOST_REFUSALS, routes))
    )


def no_numbers() -> str:
    """Build the replacement for the overview where metrics are switched off."""
    return pages.heading("Overview") + "<p>Metrics are switched off: <code>observability.metrics</code>.</p>"


def _aside(report: TrafficReport, *, is_live: bool) -> str:
    workers = report.now.workers
    whose = f"Sum of {workers} worker processes" if workers > 1 else f"Process {os.getpid()}"
    first = (*report.samples, report.rest)[0]
    since = f", since {pages.clock(first.at - first.seconds)}" if len(report.samples) < 2 else ""
    again = f'<a href="{pages.link("overview")}">Refresh</a>'
    if is_live:
        again = f'Refreshes every 10 s · <a href="{pages.link("overview")}">Stop</a>'
    else:
        again += f' · <a href="{pages.link("overview", live="1")}">every 10 s</a>'
    return f"{whose}{since} · {pages.clock(report.now.at)} UTC · {again}"


def _tiles(report: TrafficReport, policy: str) -> dict[str, str]:
    latest, now = report.latest, report.now
    whole = [*report.samples, report.rest]
    total, refused = (sum(getattr(each, name) for each in whole) for name in ("total", "refused"))
    failed = sum(each.statuses.get("5xx", 0) for each in whole)
    return {
        "Requests": _tile(f"{pages.rate(latest.total / latest.seconds)}/s", f"{pages.count(total)} in 15 min"),
        "Refused": _tile(
            f"{pages.rate(latest.refused / latest.seconds)}/s", f"{pages.percent(refused, total)} in 15 min"
        ),
        "Errors (5xx)": _tile(
            f"{pages.rate(latest.statuses.get('5xx', 0) / latest.seconds)}/s", f"{pages.count(failed)} in 15 min"
        ),
        "Latency p99": _tile(pages.duration(latest.p99), f"median {pages.duration(latest.median)}"),
        "Connections": _tile(pages.count(now.connections), f"{now.workers} worker{'s' if now.workers != 1 else ''}"),
        "CPU": _tile(f"{report.cpu:.2f} cores", f"loop lag p99 {pages.duration(report.lag)}"),
        "Memory": _tile(f"{now.memory / 2**20:.0f} MiB", f"version {escape(now.version)}"),
        "Policy": _tile(f"<code>{escape(policy)}</code>", "version of the rules"),
    }


def _tile(value: str, small: str) -> str:
    return f"{value}<small>{small}</small>"


# ---- charts


def _charts(report: TrafficReport) -> Iterable[str]:
    now = report.now.at
    yield charts.stacked("Requests", "/s", _by_status(report), now)
    yield charts.stacked("Refusals by code", "/s", _by_code(report), now)
    yield charts.logarithmic("Latency", [_percentile(report, *each) for each in _PERCENTILES], now)


def _points(report: TrafficReport, value: Callable[[TrafficSample], float | None]) -> list[Point]:
    """One value of each sample, and of the time since the last one."""
    points = [Point(each.at - each.seconds, each.at, value(each)) for each in report.samples]
    start = report.samples[-1].at if report.samples else report.rest.at - report.rest.seconds
    return [*points, Point(start, report.now.at, value(report.latest))]


def _rates(report: TrafficReport, name: str, style: str, counted: Callable[[TrafficSample], float]) -> Line:
    points = _points(report, lambda sample: counted(sample) / sample.seconds)
    highest = max(point.value or 0.0 for point in points)
    return Line(name, style, points, pages.rate(points[-1].value or 0.0), pages.rate(highest))


def _with_status(status: str, sample: TrafficSample) -> float:
    return sample.statuses.get(status, 0.0)


def _with_code(code: str, sample: TrafficSample) -> float:
    return sample.codes.get(code, 0.0)


def _by_status(report: TrafficReport) -> list[Line]:
    seen = {status for sample in (*report.samples, report.latest) for status in sample.statuses}
    return [
        _rates(report, title, style, partial(_with_status, status))
        for status, (title, style) in _STATUSES.items()
        if status in seen
    ]


def _by_code(report: TrafficReport) -> list[Line]:
    """The most frequent codes, and the others together."""
    counts: dict[str, float] = {}
    for sample in (*report.samples, report.latest):
        for code, number in sample.codes.items():
            counts[code] = counts.get(code, 0.0) + number
    order = sorted((code for code in counts if code != OTHER), key=lambda code: (-counts[code], code))
    named = order[: len(_CODE_STYLES)]
    lines = [
        _rates(report, code, style, partial(_with_code, code)) for code, style in zip(named, _CODE_STYLES, strict=False)
    ]
    if len(counts) > len(named):
        lines.append(_rates(report, "others", "f6", lambda sample: sample.refused - _sum_of(sample.codes, named)))
    return lines


def _sum_of(counts: Mapping[str, float], names: Iterable[str]) -> float:
    return sum(counts.get(name, 0.0) for name in names)


def _percentile(report: TrafficReport, name: str, style: str) -> Line:
    points = _points(report, lambda sample: getattr(sample, name))
    values = [point.value for point in points if point.value is not None]
    return Line(name, style, points, pages.duration(points[-1].value), pages.duration(max(values, default=None)))


# ---- upstreams


def _upstreams(report: TrafficReport, checked: Collection[str]) -> str:
    targets = report.now.targets
    if not targets:
        return ""
    shown = sorted(targets, key=lambda name: (targets[name].state in _STRIPS, name))[:_MOST_TARGETS]
    totals = {name: _sums(report, name) for name in targets}
    of_upstream: dict[str, float] = {}
    for (upstream, _), (requests, _) in totals.items():
        of_upstream[upstream] = of_upstream.get(upstream, 0.0) + requests
    rows = []
    for name in sorted(shown):
        requests, failures = totals[name]
        share = requests / of_upstream[name[0]] if of_upstream[name[0]] else 0.0
        rows.append(
            [
                f"{escape(name[0])}<br><code class=soft>{escape(name[1])}</code>",
                _state(targets[name], name[0] in checked),
                _strip(report, name),
                f"{charts.share_bar(share)}{pages.percent(requests, of_upstream[name[0]])}",
                pages.count(requests),
                pages.count(failures),
                f"{targets[name].busy} / {targets[name].waiting}",
            ]
        )
    columns = (
        *(Column("Target"), Column("State"), Column("Last 15 min"), Column("Share of the upstream")),
        *(Column("Requests", True), Column("Failures", True), Column("Busy / waiting", True)),
    )
    more = len(targets) - len(shown)
    rest = f"<p>{more} more: <code>gateway top --once</code> shows them.</p>" if more else ""
    return pages.card("Upstreams", pages.table(columns, rows, "Targets of the upstreams") + rest)


def _state(target: TargetTotals, is_checked: bool) -> str:
    return pages.tag(*(_CHECKED if target.state == "unused" and is_checked else _STATES[target.state]))


def _sums(report: TrafficReport, name: tuple[str, str]) -> tuple[float, float]:
    """The requests and the failures of a target in the whole time."""
    requests = failures = 0.0
    for sample in (*report.samples, report.rest):
        if name in sample.targets:
            index = sample.targets.index(name)
            requests += sample.requests[index]
            failures += sample.failures[index]
    return requests, failures


def _strip(report: TrafficReport, name: tuple[str, str]) -> str:
    """The states of a target. Equal states in a row are one bar."""
    bars: list[Point] = []
    styles: list[str] = []
    for sample in (*report.samples, report.rest):
        if name not in sample.targets:
            continue
        style = _STRIPS.get(sample.states[sample.targets.index(name)], "fault")
        if styles and styles[-1] == style:
            bars[-1] = bars[-1]._replace(end=sample.at)
        else:
            bars.append(Point(sample.at - sample.seconds, sample.at, None))
            styles.append(style)
    faults = sum(bar.end - bar.start for bar, style in zip(bars, styles, strict=True) if style == "fault")
    label = f"{faults / 60:.0f} of the last 15 minutes with faults" if faults else "no faults in the last 15 minutes"
    return charts.strip(bars, styles, label, report.now.at)


# ---- refusals


def refusal_table(refusals: Sequence[RecentRefusal], most: int, routes: Collection[str] | None = None) -> str:
    """Build the table of refusals, latest first. Equal ones are one row. They belong to one process. With `routes`, a
    column names the route of each, with a link if the route still exists."""
    if not refusals:
        return f'<p class="soft">None in process {os.getpid()} so far.</p>'
    equal: dict[RecentRefusal, list[RecentRefusal]] = {}
    for each in refusals:
        equal.setdefault(each._replace(at=0.0, request_id=""), []).append(each)
    shown = list(equal.values())[:most]
    rows = [_refusal_row(each) for each in shown]
    columns = [Column("Request"), Column("Refusal"), Column("Reason"), Column("Caller")]
    if routes is not None:
        columns.append(Column("Route"))
        rows = [[*row, _route_name(each[0].route, routes)] for row, each in zip(rows, shown, strict=True)]
    note = f"Of process {os.getpid()}. Paths are without queries. Of a flood, only a part is kept."
    return pages.table(columns, rows, "Refused requests") + f'<p class="soft small">{note}</p>'


def _refusal_row(equal: Sequence[RecentRefusal]) -> list[str]:
    """The row of equal refusals, latest first."""
    latest = equal[0]
    often = f' <span class="soft">and {len(equal) - 1} more</span>' if len(equal) > 1 else ""
    return [
        f"{pages.clock(latest.at)}{often}<br><code class=soft>{escape(f'{latest.method} {latest.path}')}</code>",
        pages.tag(f"{latest.status} {latest.code}", "bad" if latest.status >= 500 else "warn"),
        escape(latest.reason),
        _caller(latest),
    ]


def _route_name(name: str, routes: Collection[str]) -> str:
    if name in routes:
        return f'<a href="{pages.link("route", name=name)}">{escape(name)}</a>'
    return escape(name) or "–"


def _caller(refusal: RecentRefusal) -> str:
    roles = f" ({', '.join(refusal.roles) or 'no roles'})" if refusal.user else ""
    return f'{escape(refusal.user + roles or "unknown")}<br><span class="soft small">{escape(refusal.client)}</span>'
