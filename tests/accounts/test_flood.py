"""A flood of logins: which clients wait, and what happens to abandoned requests."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from gateway.accounts.password_threads import PasswordThreads
from gateway.errors import Refusal
from tests.accounts.test_passwords import Work
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Face, Gateway
from tests.support.scale import WHOLE
from tests.support.small import small
from tests.support.wording import request


async def settled() -> None:
    """Run all ready tasks."""
    for _ in range(10):
        await asyncio.sleep(0.001)


def _note(order: list[str], caller: str) -> int:
    order.append(caller)
    return len(order)


async def test_callers_take_turns_for_the_threads() -> None:
    threads, first = PasswordThreads(1), Work()
    order: list[str] = []
    running = [asyncio.create_task(threads.run(first, caller="flood"))]
    await settled()
    for caller in ("flood",) * 5 + ("ann", "bob", "ann"):
        running.append(asyncio.create_task(threads.run(partial(_note, order, caller), caller=caller)))
        await settled()
    first.release.set()
    await asyncio.gather(*running)
    assert order == ["flood", "ann", "bob", "flood", "ann", "flood", "flood", "flood"]
    threads.close()


async def test_a_full_queue_refuses_the_client_with_most_jobs() -> None:
    threads, work = PasswordThreads(1, queue=4), Work()
    flood = [asyncio.create_task(threads.run(work, caller="flood")) for _ in range(5)]
    await settled()
    ann = asyncio.create_task(threads.run(int, caller="ann"))
    await settled()
    with pytest.raises(Refusal) as raised:
        await threads.run(int, caller="flood")
    assert (raised.value.code, raised.value.retry_after) == ("overloaded", 1)
    work.release.set()
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [None] * 4 + ["overloaded"]
    assert await ann == 0
    threads.close()


async def test_a_job_that_became_pointless_while_it_waited_is_skipped() -> None:
    threads, work, allowed = PasswordThreads(1), Work(), [True]

    def check() -> None:
        if not allowed[0]:
            raise Refusal("locked_out")

    running = [asyncio.create_task(threads.run(work, caller="a", check=check)) for _ in range(3)]
    await settled()
    allowed[0] = False
    work.release.set()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert work.done == 1
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [None, "locked_out", "locked_out"]
    assert await threads.run(int) == 0
    threads.close()


# ---- over sockets


@pytest.fixture
def slow(gateways: Gateways, face: Face, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with expensive passwords behind a proxy that forwards client addresses."""
    configuration = changed(
        gateways.configuration(tmp_path),
        server={"trusted_proxies": ["127.0.0.0/8"]},
        accounts={"password": {"bcrypt_rounds": 9}},
    )
    gateway = Gateway(face, configuration, tmp_path).start()
    yield gateway
    gateway.stop()


def login_bytes(email: str, at: str) -> bytes:
    body = json.dumps({"email": email, "password": "wrong password"}).encode()
    fields = ["Content-Type: application/json", f"X-Forwarded-For: {at}"]
    return request("/auth/login", method="POST", fields=fields, body=body)


def login_seconds(gateway: Gateway, email: str, at: str) -> float:
    begun = time.monotonic()
    body = {"email": email, "password": PASSWORD}
    assert gateway.post("/auth/login", body, f"X-Forwarded-For: {at}").status == 200
    return time.monotonic() - begun


def test_a_flooding_client_waits_for_its_own_jobs(slow: Gateway) -> None:
    email = slow.newcomer().email
    login_seconds(slow, email, "192.0.2.1")

    def flood(number: int) -> float:
        begun = time.monotonic()
        answer = slow.ask(login_bytes(f"nobody-{number}@example.com", "198.51.100.7"), timeout=60)
        assert answer.refused() in ((401, "invalid_credentials"), (503, "overloaded")), answer
        return time.monotonic() - begun

    with ThreadPoolExecutor(50) as threads:
        flooding = [threads.submit(flood, number) for number in range(50)]
        time.sleep(0.3)
        seen = [login_seconds(slow, email, f"192.0.2.{number}") for number in range(3)]
        longest = max(each.result() for each in flooding)
    assert sorted(seen)[1] < longest / 2, (seen, longest)


def test_jobs_of_disconnected_clients_are_skipped(slow: Gateway) -> None:
    email = slow.newcomer().email
    one = login_seconds(slow, email, "192.0.2.1")
    callers = [slow.caller() for _ in range(100)]
    for number, caller in enumerate(callers):
        caller.send(login_bytes(f"nobody-{number}@example.com", "192.0.2.1"))
    time.sleep(0.3)
    for caller in callers:
        caller.close()
    # Behind all of them in the same queue: on two cores they would take fifty times as long as this one. The queue is
    # full until the server has noticed the disconnects.
    begun, body = time.monotonic(), {"email": email, "password": PASSWORD}
    while slow.post("/auth/login", body, "X-Forwarded-For: 192.0.2.1").status == 503:
        time.sleep(0.05)
        assert time.monotonic() - begun < 10 * one + 1.0
    assert time.monotonic() - begun < 10 * one + 1.0


# ---- on a machine that has other work


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other work on the machine: processes that use all the CPU time that they get."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield
    for process in busy:
        process.kill()
        process.wait()


def test_a_flood_beside_other_work_is_never_a_failure_of_a_local_database(tmp_path: Path) -> None:
    configuration = small(tmp_path, {"web": "http://127.0.0.1:9"})
    gateway = Gateway("serve", configuration, tmp_path).start()
    accounts = [gateway.newcomer() for _ in range(8)]

    def flood(number: int) -> list[tuple[int, str | None]]:
        body = {"email": accounts[number % len(accounts)].email, "password": PASSWORD}
        fields = ["Content-Type: application/json"]
        login = request("/auth/login", method="POST", fields=fields, body=json.dumps(body).encode())
        outcomes = []
        while time.monotonic() < until:
            outcomes.append(gateway.ask(login, timeout=60).refused())
        return outcomes

    try:
        with busy_processes(3 if WHOLE else 1), ThreadPoolExecutor(64) as threads:
            until = time.monotonic() + (4.0 if WHOLE else 1.5)
            outcomes = Counter(chain.from_iterable(threads.map(flood, range(64))))
        assert outcomes.keys() <= {(200, None), (503, "overloaded")}, outcomes
        assert outcomes[200, None] >= 64, outcomes
        assert "the database is unavailable" not in gateway.log()
    finally:
        gateway.kill()
