"""The task that deletes old sessions."""

import asyncio

from gateway.errors import StorageUnavailable
from gateway.server.session_cleaning import SessionCleaning


async def test_old_sessions_are_deleted_until_none_is_left_and_again_after_a_failure() -> None:
    outcomes: list[int | Exception] = [500, 3, 0, StorageUnavailable("database", "down"), ValueError("defect"), 1, 0]
    finished = asyncio.Event()

    async def delete_old() -> int:
        if not outcomes:
            finished.set()
            return 0
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    cleaning = SessionCleaning(delete_old, every=0.001)
    cleaning.start()
    await asyncio.wait_for(finished.wait(), 5)
    await cleaning.close()
    assert outcomes == []
