"""The lifetime of idle connections, as a value with a manual clock."""

import pytest

from gateway.proxy.idle_limit import IdleLimit


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"timeout=5, max=100", 4.0),
        (b"timeout=5", 4.0),
        (b"max=100, timeout=3", 2.0),
        (b"max=100,Timeout=3", 2.0),
        (b'timeout="3"', 2.0),
        (b"timeout=2", 1.0),
        (b"timeout=1", 0.5),
        (b"timeout=0", 0.0),
        (b"timeout=75", 4.0),
        (b"timeout=999999999", 4.0),
        (b"timeout=x", 4.0),
        (b"timeout=-1", 4.0),
        (b"idletimeout=1", 4.0),
        (b"max=1", 4.0),
        (b"", 4.0),
    ],
)
def test_an_announced_limit_is_kept_with_a_margin(field: bytes, seconds: float) -> None:
    limit = IdleLimit(4.0)
    limit.announced(field)
    assert limit.seconds == seconds


def test_the_last_announcement_holds() -> None:
    limit = IdleLimit(4.0)
    limit.announced(b"timeout=2")
    limit.announced(b"timeout=4")
    assert limit.seconds == 3.0


@pytest.mark.parametrize(
    ("idle", "seconds"), [(2.0, 1.0), (3.9, 1.95), (0.5, 0.25), (0.0, 0.05), (4.0, 4.0), (1e9, 4.0)]
)
def test_a_connection_that_the_target_closed_halves_the_limit_to_its_age(idle: float, seconds: float) -> None:
    limit = IdleLimit(4.0)
    limit.closed(idle, now=0.0)
    assert limit.seconds == seconds


def test_the_shortest_limit_holds() -> None:
    limit = IdleLimit(4.0)
    limit.closed(2.0, now=0.0)
    limit.closed(3.0, now=0.0)
    assert limit.seconds == 1.0
    limit.announced(b"timeout=1")
    assert limit.seconds == 0.5


def test_a_limit_that_was_seen_is_forgotten_after_a_minute() -> None:
    """A restart closes connections of any age, once."""
    limit = IdleLimit(4.0)
    limit.announced(b"timeout=4")
    limit.closed(0.1, now=100.0)
    limit.tick(160.0)
    assert limit.seconds == 0.05
    limit.tick(160.1)
    assert limit.seconds == 3.0


# ---- requests that cannot be repeated


def test_they_use_connections_in_half_of_the_time_that_others_have_survived() -> None:
    limit = IdleLimit(4.0)
    limits = [limit.careful]
    for idle in (0.25, 1.0, 0.5, 3.9, 60.0):
        limit.survived(idle)
        limits.append(limit.careful)
    assert limits == [0.025, 0.125, 0.5, 0.5, 1.95, 4.0]


@pytest.mark.parametrize("closes_after", [0.1, 0.5, 1.0, 2.0, 3.9])
def test_they_never_come_near_the_limit_of_the_target(closes_after: float) -> None:
    """Neither before it was detected nor after it was forgotten."""
    limit, now = IdleLimit(4.0), 0.0
    for _ in range(3):
        for tick in range(100):
            limit.survived(min(tick / 100 * closes_after, limit.seconds))
            assert limit.careful <= closes_after / 2
        limit.closed(closes_after, now)
        assert limit.careful <= closes_after / 2
        now += 61.0
        limit.tick(now)


@pytest.mark.parametrize("field", [b"timeout=3", b"timeout=75", b"timeout=999999999"])
@pytest.mark.parametrize("survived", [0.0, 0.2, 1.0])
def test_an_announced_limit_gives_them_no_more_time(field: bytes, survived: float) -> None:
    """One program of many behind a target can announce anything."""
    limit = IdleLimit(4.0)
    limit.survived(survived)
    before = limit.careful
    limit.announced(field)
    assert limit.careful == before
    limit.announced(b"timeout=5")
    limit.announced(field)
    assert limit.careful == before


def test_an_announced_limit_shortens_their_time() -> None:
    limit = IdleLimit(4.0)
    limit.survived(4.0)
    limit.announced(b"timeout=2")
    assert limit.careful == 1.0


def test_announcements_do_not_make_up_for_a_connection_that_the_target_closed() -> None:
    limit = IdleLimit(4.0)
    limit.survived(4.0)
    limit.closed(1.0, now=0.0)
    for field in (b"timeout=5", b"timeout=999999999") * 2:
        limit.announced(field)
        assert (limit.seconds, limit.careful) == (0.5, 0.25)
    limit.tick(60.1)
    limit.announced(b"timeout=6")
    assert limit.careful == 0.25
