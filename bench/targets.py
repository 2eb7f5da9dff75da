"""The targets of the project, with their limits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.figures import Outcome, Window, cpu_us, p99, ratio, rps

Result = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Comparative:
    """A ratio of two peers that must be at most, or with `at_least` at least, `limit`. Both have the same
    traffic unless `their_traffic` names another."""

    what: str
    ours: str
    theirs: str
    of: Callable[[Window], float]
    limit: float
    at_least: bool = False
    traffic: str = "varying"
    their_traffic: str | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """A figure of one process that must be at most `limit`."""

    what: str
    key: str
    limit: float
    unit: str


@dataclass(frozen=True, slots=True)
class Further:
    """A figure at `place` in the result, or its ratio to the figure of `theirs`, whose place has that name instead of
    that of the native build."""

    what: str
    place: str
    limit: float
    theirs: str | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and its measurement. `quiet` is the ratio of the best windows. Other work on the machine can only worsen
    a window, so a difference between the two shows that the machine was busy."""

    what: str
    measured: float
    spread: str
    quiet: str
    goal: str
    met: bool


NATIVE, INTERPRETED, ENVOY, HELLO = "gateway-native", "gateway", "envoy-jwt", "uvicorn-hello"

COMPARATIVE = (
    Comparative("CPU, native, to Envoy with JWT", NATIVE, ENVOY, cpu_us, 0.45),
    Comparative("CPU, native, to uvicorn hello", NATIVE, HELLO, cpu_us, 1.35),
    Comparative("requests/s, native, to Envoy with JWT", NATIVE, ENVOY, rps, 2.2, at_least=True),
    Comparative("CPU, native, both with JSON access log, to Envoy", "gateway-native-log", "envoy-jwt-log", cpu_us, 0.5),
    Comparative("CPU, native, ASGI face to Envoy with JWT", "gateway-native-asgi", ENVOY, cpu_us, 0.75),
    Comparative("CPU, native, 10,000 routes to ten", "gateway-native-10000-routes", NATIVE, cpu_us, 1.03),
    Comparative("CPU, native, repeated heads, to Envoy with JWT", NATIVE, ENVOY, cpu_us, 0.4, traffic="repeated"),
    Comparative("CPU, native, repeated heads, to uvicorn hello", NATIVE, HELLO, cpu_us, 1.0, traffic="repeated"),
    Comparative("CPU, native, repeated heads, to plain nginx", NATIVE, "nginx", cpu_us, 1.5, traffic="repeated"),
    Comparative(
        "CPU, native, a refusal to an allowed request",
        NATIVE,
        NATIVE,
        cpu_us,
        0.6,
        traffic="refused",
        their_traffic="varying",
    ),
    Comparative("CPU, interpreted, to Envoy with JWT", INTERPRETED, ENVOY, cpu_us, 0.7),
    Comparative("CPU, native, to HAProxy with ES256", NATIVE, "haproxy-es256", cpu_us, 0.5),
    Comparative("CPU, Fastify to native", "fastify", NATIVE, cpu_us, 5, at_least=True),
    Comparative("CPU, fastapi-proxy-lib to native", "fastapi-proxy-lib", NATIVE, cpu_us, 60, at_least=True),
    Comparative("p99 at full load, native, to Envoy with JWT", NATIVE, ENVOY, p99, 1.0),
)

# Figures without windows: the places of one figure, or of two to compare.
FURTHER = (
    Further("MB/s down, to Envoy", f"bulk/{NATIVE}/down/megabytes_per_second", 1.0, ENVOY, at_least=True),
    Further("MB/s up, to Envoy", f"bulk/{NATIVE}/up/megabytes_per_second", 1.0, ENVOY, at_least=True),
    Further("WebSocket echoes/s, to Envoy", f"websocket/{NATIVE}/messages_per_second", 1.2, ENVOY, at_least=True),
    Further("p99 at 500 requests/s, to Envoy", f"latency/500/{NATIVE}/p99", 1.0, ENVOY),
    Further("p99 at 2000 requests/s, to Envoy", f"latency/2000/{NATIVE}/p99", 0.6, ENVOY),
    Further("ms of the longest pause, 100,000 users", "scale/longest pause, ms, cached users/100000", 20),
    Further("KiB of each of 10,000 idle connections", "scale/KiB of each idle connection/10000", 12),
)

FOOTPRINT = (
    Footprint("gateway --help", "help_ms", 300, "ms"),
    Footprint("gateway serve until it answers", f"{NATIVE}.answer_ms", 500, "ms"),
    Footprint("idle memory after 5 s (RSS)", f"{NATIVE}.idle_rss_mib", 75, "MiB"),
    Footprint("idle CPU", f"{NATIVE}.idle_cpu_ms_per_s", 20, "ms/s"),
    Footprint("10,000 routes until it answers", f"{NATIVE}-10000-routes.answer_ms", 3000, "ms"),
)


def verdicts(outcomes: Mapping[tuple[str, str], Outcome], footprint: Mapping[str, float]) -> Iterator[Verdict]:
    """The verdicts on the targets measured in this run."""
    for target in COMPARATIVE:
        ours = outcomes.get((target.ours, target.traffic))
        theirs = outcomes.get((target.theirs, target.their_traffic or target.traffic))
        if ours and theirs and ours.windows and theirs.windows:
            yield _compare(target, ours, theirs)
    for limit in FOOTPRINT:
        if limit.key in footprint:
            value = footprint[limit.key]
            goal = f"≤ {limit.limit:g} {limit.unit}"
            yield Verdict(limit.what, value, f"{value:.1f} {limit.unit}", "", goal, value <= limit.limit)


def further_verdicts(result: Result) -> Iterator[Verdict]:
    """The verdicts on figures without windows."""
    for target in FURTHER:
        ours = _at(result, target.place)
        theirs = 1.0 if target.theirs is None else _at(result, target.place.replace(NATIVE, target.theirs))
        if ours is not None and theirs:
            value = ours / theirs
            met = value >= target.limit if target.at_least else value <= target.limit
            goal = f"{'≥' if target.at_least else '≤'} {target.limit:g}"
            yield Verdict(target.what, value, f"{value:.2f}", "", goal, met)


def _at(result: Result, place: str) -> float | None:
    value: object = result
    for name in place.split("/"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _compare(target: Comparative, ours: Outcome, theirs: Outcome) -> Verdict:
    found = ratio(ours, theirs, target.of)
    met = found.median >= target.limit if target.at_least else found.median <= target.limit
    sign = "≥" if target.at_least else "≤"
    shown = f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"
    quiet = _best(ours, target.of) / _best(theirs, target.of)
    return Verdict(target.what, found.median, shown, f"{quiet:.2f}", f"{sign} {target.limit:g}", met)


def _best(outcome: Outcome, of: Callable[[Window], float]) -> float:
    measured = outcome.spread(of)
    return measured.high if of is rps else measured.low
