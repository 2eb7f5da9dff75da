"""The report on accounts: measured values and their targets."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.accounts import flood, revocation, store_size, timing
from bench.load import percentile


class Verdict(NamedTuple):
    """A target: the measured value, and whether it is met."""

    promise: str
    measured: str
    met: bool


def verdicts(result: Mapping[str, Any]) -> list[Verdict]:
    """All measured targets."""
    return [*_revocations(result), *_races(result), *_timing(result), *_sizes(result), *_flood(result)]


def markdown(result: Mapping[str, Any]) -> str:
    """The report of one result, given as in the JSON file."""
    machine = result["machine"]
    where = f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}, {machine['python']}"
    load = f"{result['load_before']} before, {result['load_after']} after (includes the benchmark)"
    parts = [
        f"# Accounts, {machine['date'][:10]}\n",
        f"{where}; commit {result['commit']}. Load average: {load}.\n",
        "| | measured | |\n|---|---|---|",
        *(f"| {each.promise} | {each.measured} | {'met' if each.met else '**missed**'} |" for each in verdicts(result)),
    ]
    return "\n".join(parts) + "\n"


def _revocations(result: Mapping[str, Any]) -> Iterator[Verdict]:
    limit = revocation.LIMIT_MS
    for name, times in result.get("revocation", {}).items():
        ordered = sorted(times)
        measured = (
            f"median {statistics.median(ordered):.1f} ms, p99 {percentile(ordered, 0.99):.1f} ms, "
            f"longest {ordered[-1]:.1f} ms of {len(ordered)}"
        )
        promise = f"{name}: refused on the other replica within {limit:.0f} ms"
        yield Verdict(promise, measured, ordered[-1] <= limit)


def _races(result: Mapping[str, Any]) -> Iterator[Verdict]:
    for name, found in result.get("races", {}).items():
        met = found["as it must be"] == found["trials"]
        yield Verdict(name, f"{found['as it must be']} of {found['trials']} times, over two replicas", met)


def _timing(result: Mapping[str, Any]) -> Iterator[Verdict]:
    times = result.get("timing")
    if times:
        known, unknown = (statistics.median(times[kind]) for kind in ("known", "unknown"))
        apart = abs(known - unknown) / max(known, unknown)
        measured = f"{unknown:.1f} and {known:.1f} ms, {apart:.1%} apart, {len(times['known'])} each"
        promise = f"refused logins of unknown and known users: medians within {timing.LIMIT:.0%}"
        yield Verdict(promise, measured, apart <= timing.LIMIT)


def _sizes(result: Mapping[str, Any]) -> Iterator[Verdict]:
    for name, times in result.get("store_size", {}).items():
        small, large = sorted(times, key=int)
        ratio = store_size.ratio(times)
        medians = " and ".join(f"{statistics.median(times[size]):.2f}" for size in (large, small))
        promise = f"{name} among {int(large):,} users: at most {store_size.LIMIT} × what it takes among {int(small):,}"
        yield Verdict(
            promise, f"{ratio:.2f} × ({medians} ms, medians of {len(times[small])})", ratio <= store_size.LIMIT
        )


def _flood(result: Mapping[str, Any]) -> Iterator[Verdict]:
    rounds = result.get("flood")
    if not rounds:
        return
    quiet, busy = (statistics.median(each[name] for each in rounds) for name in ("quiet_p99", "flood_p99"))
    worse = statistics.median(each["flood_p99"] / each["quiet_p99"] for each in rounds)
    promise = f"{flood.CLIENTS} clients log in without pause: proxied p99 below {flood.P99_LIMIT:.0f} × its quiet value"
    yield Verdict(promise, f"{worse:.1f} × ({busy:.1f} and {quiet:.1f} ms)", worse < flood.P99_LIMIT)
    share = statistics.median(each["logins"] / each["bcrypt"] for each in rounds)
    logins, alone = (statistics.median(each[name] for each in rounds) for name in ("logins", "bcrypt"))
    promise = f"and logins at least {flood.LOGINS_LIMIT:.0%} of what bcrypt alone reaches beside the same proxied load"
    yield Verdict(promise, f"{share:.0%} ({logins:.1f} and {alone:.1f} a second)", share >= flood.LOGINS_LIMIT)
