"""The counts of one worker as a value that can be sent to another worker and added to its own."""

import marshal
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from gateway.observability.metrics.families import FAMILIES
from gateway.observability.metrics.request_counters import Counts, Labels
from gateway.samples import Histogram, Sample

Series = tuple[str, tuple[str, ...]]  # a family, and the values of its labels

_AT_A_TIME: Final = 256  # entries encoded in one piece, which blocks other threads
_LENGTH: Final = struct.Struct("I")


class State(NamedTuple):
    """The counts of requests, and the samples of other sources."""

    requests: dict[Labels, Counts]
    samples: dict[Series, float | Histogram]


def state_of(requests: Iterable[tuple[Labels, Counts]], samples: Iterable[Sample]) -> State:
    """The state of a worker. Series from several sources are added."""
    state = State(dict(requests), {})
    for family, labels, value in samples:
        _put(state.samples, (family, labels), value)
    return state


def together(states: Iterable[State]) -> State:
    """The combined state of several workers."""
    whole = State({}, {})
    for state in states:
        for labels, counts in state.requests.items():
            before = whole.requests.get(labels)
            whole.requests[labels] = counts if before is None else added(before, counts)
        for series, value in state.samples.items():
            _put(whole.samples, series, value)
    return whole


def counted(state: State) -> State:
    """The part of an ended worker's state that persists: counts, but not gauges."""
    kept = {series: value for series, value in state.samples.items() if FAMILIES[series[0]].kind != "gauge"}
    return State(state.requests, kept)


def encoded(state: State) -> Iterator[bytes]:
    """The state in pieces, for `decoded` in the same version of Python."""
    for entries in (iter(state.requests.items()), iter(state.samples.items())):
        while batch := [(tuple(key), value) for key, value in islice(entries, _AT_A_TIME)]:
            piece = marshal.dumps(batch)
            yield _LENGTH.pack(len(piece)) + piece
        yield _LENGTH.pack(0)


def decoded(data: bytes) -> State:
    """The inverse of `encoded`. The data is trusted, because only workers of this gateway can write it."""
    state, at = State({}, {}), 0
    for part in range(2):
        while length := _LENGTH.unpack_from(data, at)[0]:
            at += _LENGTH.size
            for key, value in marshal.loads(data[at : at + length]):  # noqa: S302  # see above
                if part == 0:
                    state.requests[Labels(*key)] = value
                else:
                    state.samples[key] = value
            at += length
        at += _LENGTH.size
    return state


def _put(samples: dict[Series, float | Histogram], series: Series, value: float | Histogram) -> None:
    before = samples.get(series)
    if before is None:
        samples[series] = value
    elif isinstance(before, list) and isinstance(value, list):
        samples[series] = added(before, value)
    else:
        assert not isinstance(before, list) and not isinstance(value, list)
        family = FAMILIES[series[0]]
        samples[series] = family.together(float(before), float(value)) if family.kind == "gauge" else before + value


def added(one: list[float], other: list[float]) -> list[float]:
    """The element-wise sums."""
    return [mine + others for mine, others in zip(one, other, strict=True)]
