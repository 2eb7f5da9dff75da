"""What one worker has counted, as a value: it can be sent to another worker, and added to what that has counted."""

import marshal
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from gateway.observability.metrics.families import FAMILIES
from gateway.observability.metrics.request_counters import Counts, Labels
from gateway.samples import Histogram, Sample

Series = tuple[str, tuple[str, ...]]  # a family, and the values of its labels

_AT_A_TIME: Final = 256  # entries that are encoded in one piece, because nothing else runs meanwhile
_LENGTH: Final = struct.Struct("I")


class State(NamedTuple):
    """Requests as the hot path counts them, and the samples of everybody else."""

    requests: dict[Labels, Counts]
    samples: dict[Series, float | Histogram]


def state_of(requests: Iterable[tuple[Labels, Counts]], samples: Iterable[Sample]) -> State:
    """The state of a worker. Of a series that several sources have counted it is the sum."""
    state = State(dict(requests), {})
    for family, labels, value in samples:
        _put(state.samples, (family, labels), value)
    return state


def together(states: Iterable[State]) -> State:
    """The state of several workers."""
    whole = State({}, {})
    for state in states:
        for labels, counts in state.requests.items():
            before = whole.requests.get(labels)
            whole.requests[labels] = counts if before is None else added(before, counts)
        for series, value in state.samples.items():
            _put(whole.samples, series, value)
    return whole


def counted(state: State) -> State:
    """What stays of a worker that has ended: what it has counted, not how things were with it."""
    kept = {series: value for series, value in state.samples.items() if FAMILIES[series[0]].kind != "gauge"}
    return State(state.requests, kept)


def encoded(state: State) -> Iterator[bytes]:
    """The state in pieces, for `decoded` of the same Python."""
    for entries in (iter(state.requests.items()), iter(state.samples.items())):
        while batch := [(tuple(key), value) for key, value in islice(entries, _AT_A_TIME)]:
            piece = marshal.dumps(batch)
            yield _LENGTH.pack(len(piece)) + piece
        yield _LENGTH.pack(0)


def decoded(data: bytes) -> State:
    """What `encoded` has made, by a worker of the same gateway: nobody else can write there."""
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
    """The sums of what stands at the same places."""
    return [mine + others for mine, others in zip(one, other, strict=True)]
