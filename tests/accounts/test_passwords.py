"""Validating, hashing and checking passwords."""

import asyncio
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.password_threads import PasswordThreads
from gateway.accounts.passwords import MAX_BYTES, Password, PasswordPool, chosen_password, presented_password
from gateway.errors import Refusal
from tests.support.scale import examples
from tests.support.waiting import within

REFUSED = [
    ("a" * 73, "must be at most 72 bytes long in UTF-8, this is 73 bytes"),
    ("ñ" * 37, "must be at most 72 bytes long in UTF-8, this is 74 bytes"),
    ("🐎" * 19, "must be at most 72 bytes long in UTF-8, this is 76 bytes"),
    ("1234567", "must be at least 8 characters long"),
    ("", "must be at least 8 characters long"),
    ("🐎" * 7, "must be at least 8 characters long"),
    ("e\u0301" * 7, "must be at least 8 characters long"),
    ("long enough\0", "must not contain a NUL character"),
    ("long enough \ud800", "must be valid Unicode text"),
]


@pytest.mark.parametrize(("text", "sentence"), REFUSED)
def test_a_password_that_cannot_be_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        chosen_password(text, min_length=8)
    assert str(raised.value) == sentence


@pytest.mark.parametrize("text", ["12345678", "🐎" * 8, "a" * 72, "ñ" * 36, "e\u0301" * 36, " " * 8, "\n" * 8])
def test_a_password_counts_characters_from_below_and_bytes_from_above(text: str) -> None:
    assert len(chosen_password(text, min_length=8)) <= MAX_BYTES


@given(st.text())
def test_every_spelling_of_a_password_is_the_same_bytes(text: str) -> None:
    forms = {presented_password(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")} | {
        presented_password(text)
    }
    assert len(forms) == 1


@given(st.text(st.characters()), st.integers(0, 80))
def test_accepted_passwords_are_those_that_bcrypt_does_not_truncate(text: str, min_length: int) -> None:
    try:
        password = chosen_password(text, min_length=min_length)
    except ValueError:
        return
    assert len(password) <= MAX_BYTES and 0 not in password
    assert password.decode() == unicodedata.normalize("NFC", text)
    assert len(password.decode()) >= min_length


# ---- the pool


@pytest.fixture
def pool() -> Iterator[PasswordPool]:
    made = PasswordPool(rounds=4)
    yield made
    made.close()


@given(st.binary(max_size=MAX_BYTES).filter(lambda data: 0 not in data), st.binary(max_size=3))
@examples(40)
def test_a_password_matches_its_hash_and_no_other(data: bytes, more: bytes) -> None:
    other = Password((data + more.replace(b"\0", b""))[:MAX_BYTES])

    async def check() -> tuple[bool, bool]:
        pool = PasswordPool(rounds=4, threads=PasswordThreads(1))
        try:
            stored = await pool.hash(Password(data))
            return await pool.matches(Password(data), stored), await pool.matches(other, stored)
        finally:
            pool.close()

    assert asyncio.run(check()) == (True, other == data)


async def test_hashes_are_salted_and_of_the_cost_that_is_asked_for(pool: PasswordPool) -> None:
    one, two = await pool.hash(Password(b"secret")), await pool.hash(Password(b"secret"))
    assert one != two and one.startswith("$2b$04$")


async def test_no_password_matches_without_a_user_or_a_possible_password(pool: PasswordPool) -> None:
    stored = await pool.hash(Password(b""))
    assert not await pool.matches(None, stored)
    assert not await pool.matches(None, None)
    assert not await pool.matches(Password(b"secret"), None)
    assert await pool.matches(Password(b""), stored)


NO_HASHES = [
    *("", "!", "*", "secret", "$1$md5crypt$", "$2b$", "$2b$04$short", "$2b$04$" + "é" * 53, "$2b$04$" + "A" * 53),
    *("$2b$03$" + "." * 53, "$2b$32$" + "." * 53, "$2x$04$" + "." * 53, "$2b$04$" + "." * 53 + "\n"),
]


@pytest.mark.parametrize("stored", NO_HASHES)
async def test_a_stored_text_that_is_no_bcrypt_hash_matches_nothing(pool: PasswordPool, stored: str) -> None:
    assert not await pool.matches(Password(b"secret"), stored)


async def test_hashes_of_other_systems_are_understood(pool: PasswordPool) -> None:
    theirs = bcrypt.hashpw(b"secret", bcrypt.gensalt(4, prefix=b"2a")).decode()
    assert await pool.matches(Password(b"secret"), theirs)
    assert await pool.matches(Password(b"secret"), theirs.replace("$2a$", "$2y$"))


async def test_an_unknown_user_costs_the_same_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the work. The benchmark bench/accounts measures times on a quiet machine."""
    pool = PasswordPool(rounds=8, threads=PasswordThreads(1))
    stored = await pool.hash(Password(b"secret"))
    costs = []
    check = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        costs.append(hashed[:7])
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    for password, against in ((Password(b"x"), stored), (Password(b"x"), None), (None, stored), (None, None)):
        assert not await pool.matches(password, against)
    pool.close()
    assert costs == [b"$2b$08$"] * 4


def hash_of(rounds: int) -> str:
    return bcrypt.hashpw(b"secret", bcrypt.gensalt(rounds)).decode()


CHECKED = {
    "no account": None,
    "no hash of bcrypt": "!",
    "a hash cut off": hash_of(5)[:-1],
    "a hash of more rounds than are ever checked": hash_of(5).replace("$05$", "$17$"),
    **{f"{rounds} rounds": hash_of(rounds) for rounds in (4, 5, 6, 7, 8)},
}


@pytest.mark.parametrize("password", [Password(b"secret"), Password(b"wrong"), None], ids=["right", "wrong", "none"])
@pytest.mark.parametrize(
    ("expected", "stored", "work"),
    [
        *((4, name, 6) for name in CHECKED if name not in ("7 rounds", "8 rounds")),
        *((8, name, 8) for name in CHECKED),
        (4, "7 rounds", 7),
        (4, "8 rounds", 8),
    ],
)
async def test_every_check_costs_the_same_for_any_stored_hash(
    monkeypatch: pytest.MonkeyPatch, expected: int, stored: str, work: int, password: Password | None
) -> None:
    """For a pool with six rounds that expects hashes of more or fewer. Each call counts 2^rounds."""
    pool, calls = PasswordPool(rounds=6, threads=PasswordThreads(1)), []
    pool.expect(expected)
    check = bcrypt.checkpw

    def checkpw(given: bytes, hashed: bytes) -> bool:
        calls.append(2 ** int(hashed[4:6]))
        return check(given, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    is_right = await pool.matches(password, CHECKED[stored])
    pool.close()
    assert is_right is (password == b"secret" and stored.endswith("rounds"))
    assert sum(calls) == 2**work


async def test_a_costlier_hash_makes_later_checks_as_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store was unavailable at startup."""
    pool, calls = PasswordPool(rounds=4, threads=PasswordThreads(1)), []
    check = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        calls.append(hashed[:6])
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    for stored in (None, CHECKED["6 rounds"], None, CHECKED["4 rounds"]):
        await pool.matches(Password(b"wrong"), stored)
    pool.close()
    assert calls == [b"$2b$04", b"$2b$06", b"$2b$06", b"$2b$04", b"$2b$04", b"$2b$05"]


@pytest.mark.parametrize(("rounds", "outdated"), [(4, False), (5, True), (12, True)])
async def test_a_hash_of_another_cost_is_outdated(pool: PasswordPool, rounds: int, outdated: bool) -> None:
    assert PasswordPool(rounds=rounds).is_outdated(await pool.hash(Password(b"x"))) is outdated


def test_a_text_that_is_no_hash_is_outdated() -> None:
    assert PasswordPool(rounds=4).is_outdated("!")


class Work:
    """Work that runs until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.done = 0

    def __call__(self) -> int:
        assert self.release.wait(10)
        self.done += 1
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_full_queue_refuses_at_once_and_the_event_loop_goes_on() -> None:
    threads, work = PasswordThreads(2, queue=3), Work()
    waiting = [asyncio.create_task(threads.run(work)) for _ in range(5)]
    await asyncio.sleep(0.01)
    with within(5.0), pytest.raises(Refusal) as raised:
        await threads.run(int)
    assert (raised.value.code, raised.value.status) == ("overloaded", 503)
    work.release.set()
    await asyncio.gather(*waiting)
    assert await threads.run(int) == 0
    threads.close()


async def test_work_whose_caller_has_left_is_not_done_and_makes_room() -> None:
    threads, work = PasswordThreads(1, queue=2), Work()
    waiting = [asyncio.create_task(threads.run(work)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.gather(*waiting[1:], return_exceptions=True)
    hashing = asyncio.create_task(threads.run(int))
    await asyncio.sleep(0.01)
    work.release.set()
    assert await hashing == 0
    assert work.done == 1
    threads.close()


async def test_the_threads_stand_back_behind_the_event_loop() -> None:
    threads, work = PasswordThreads(1), Work()
    work.release.set()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert await threads.run(work) == before + 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    threads.close()


async def test_a_process_that_stands_back_already_still_hashes() -> None:
    """Priorities cannot be raised without privileges: the pool's priority is relative to the process."""
    code = (
        "import asyncio, os, encodings.idna, concurrent.futures.thread\n"
        "from gateway.accounts.password_threads import PasswordThreads\n"
        "from gateway.accounts.passwords import Password, PasswordPool\n"
        "os.nice(12); os.geteuid() or os.setuid(65534)\n"  # root can raise priorities, so run as another user
        "pool = PasswordPool(rounds=4, threads=PasswordThreads(1))\n"
        "print(asyncio.run(pool.hash(Password(b'x')))[:7])\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1, stderr=-1)
    output, errors = await process.communicate()
    assert output == b"$2b$04$\n", errors


async def test_elsewhere_than_on_linux_no_priority_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread ids are not process ids there, so the call could affect another process."""
    monkeypatch.setattr(sys, "platform", "darwin")
    threads, work = PasswordThreads(1), Work()
    work.release.set()
    assert await threads.run(work) == os.getpriority(os.PRIO_PROCESS, 0)
    threads.close()


async def test_closing_drops_waiting_jobs() -> None:
    threads, work = PasswordThreads(1), Work()
    waiting = [asyncio.create_task(threads.run(work)) for _ in range(3)]
    await asyncio.sleep(0.01)
    threads.close()
    work.release.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert work.done == 1 and sum(isinstance(outcome, BaseException) for outcome in outcomes) == 2
