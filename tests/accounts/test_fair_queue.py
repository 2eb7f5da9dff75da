"""The fair queue: order, and eviction when it is full."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.password_threads import FairQueue


def filled(*work: str, room: int = 100) -> FairQueue[str]:
    """A queue of jobs whose first letter identifies the client."""
    line: FairQueue[str] = FairQueue(room)
    for each in work:
        line.join(each[0], each)
    return line


def taken(line: FairQueue[str]) -> list[str]:
    found = []
    while (work := line.next()) is not None:
        found.append(work)
    return found


def test_callers_take_turns_and_each_ones_work_keeps_its_order() -> None:
    line = filled("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert taken(line) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert len(line) == 0 and line.next() is None


def test_a_job_for_a_full_queue_replaces_one_of_the_client_with_most_jobs() -> None:
    line = filled("a1", "a2", "a3", "b1", room=4)
    assert line.join("c", "c1") == "a3"
    assert line.join("a", "a4") == "a4"
    assert line.join("b", "b2") == "b2", "no other client has more than this one would have"
    assert taken(line) == ["a1", "b1", "c1", "a2"]


def test_one_caller_may_have_the_whole_line_and_no_more() -> None:
    line = filled(*(f"a{number}" for number in range(4)), room=4)
    assert line.join("a", "a4") == "a4"
    assert len(line) == 4


def test_a_cancelled_job_frees_its_place() -> None:
    line = filled("a1", "a2", "b1", room=3)
    line.leave("a", "a1")
    line.leave("a", "a1")
    line.leave("z", "z1")
    assert line.join("c", "c1") is None
    assert taken(line) == ["a2", "b1", "c1"]


@given(st.lists(st.sampled_from("aaaaaabbcd"), max_size=80), st.integers(1, 20))
def test_a_client_with_fewer_jobs_than_another_is_not_refused(callers: str, room: int) -> None:
    line: FairQueue[str] = FairQueue(room)
    waiting: list[str] = []
    for number, caller in enumerate(callers):
        work = f"{caller}{number}"
        waiting.append(work)
        out = line.join(caller, work)
        if out is not None:
            counts = {each: sum(one[0] == each for one in waiting) for each in callers}
            assert counts[out[0]] == max(counts.values())
            waiting.remove(out)
        assert len(line) == len(waiting) <= room
    assert sorted(taken(line)) == sorted(waiting)
