"""Operations that happen once for any number of concurrent requests, in two processes over one database."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from bench.stores.valkey import running as running_valkey
from tests.journeys.deployments import Replicated
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import FACES, PASSWORD, Gateway
from tests.support.raw import Answer

Pair = tuple[Gateway, ...]
OUT_OF_BREATH = 503  # A busy machine can refuse a request, but must not perform an operation twice.


@pytest.fixture(scope="module")
def over_sqlite(gateways: Gateways, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One of each server over one SQLite file and one Valkey."""
    folder: Path = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        storage = {"redis": stack.enter_context(running_valkey(folder)).url}
        configuration = changed(gateways.configuration(folder), storage=storage)
        pair = []
        for face in FACES:
            pair.append(Gateway(face, configuration, folder).start())
            stack.callback(pair[-1].stop)
        yield tuple(pair)


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Two processes that share everything."""
    if request.param == "sqlite":
        found: Pair = request.getfixturevalue("over_sqlite")
        return found
    replicas: Replicated = request.getfixturevalue("replicas")
    replicas.mend()
    return replicas.deployment.all


def at_once(pair: Pair, times: int, work: Callable[[Gateway], Answer]) -> list[Answer]:
    """Run the work this many times in parallel, alternating between the processes."""
    ready = Barrier(times)

    def one(number: int) -> Answer:
        ready.wait(30)
        return work(pair[number % len(pair)])

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(one, range(times)))


def test_fifty_registrations_of_one_address_make_one_account(pair: Pair) -> None:
    email = f"race-{time.time_ns()}@example.com"
    spellings = (email, email.upper(), f" {email}")

    def register(gateway: Gateway) -> Answer:
        return gateway.post("/auth/register", {"email": spellings[time.time_ns() % 3], "password": PASSWORD})

    answers = at_once(pair, 50, register)
    seen = Counter(answer.refused() for answer in answers if answer.status != OUT_OF_BREATH)
    assert seen[(201, None)] <= 1
    assert set(seen) <= {(201, None), (400, "email_taken")}, seen
    listed = pair[0].command("users", "list", "--query", email, "--json").stdout
    assert len(json.loads(listed)) == 1
    for gateway in pair:
        assert gateway.login(email).id == json.loads(listed)[0]["id"]


def test_twenty_refreshes_with_one_token_make_one_rotation(pair: Pair) -> None:
    """Parallel tabs of a browser: each gets the same successor, no session ends, and the chain continues."""
    email = f"race-{time.time_ns()}@example.com"
    token = pair[0].post("/auth/register", {"email": email, "password": PASSWORD}).json()["refresh_token"]
    for _ in range(2):
        body = {"refresh_token": token}
        answers = at_once(pair, 20, lambda gateway, body=body: gateway.post("/auth/refresh", body))  # type: ignore[misc]
        good = [answer for answer in answers if answer.status != OUT_OF_BREATH]
        assert {answer.status for answer in good} == {200}, answers
        successors = {answer.json()["refresh_token"] for answer in good}
        assert len(successors) == 1 and token not in successors
        token = successors.pop()


def test_a_password_changed_by_two_at_once_is_one_of_the_two(pair: Pair) -> None:
    account = pair[0].newcomer()
    passwords = iter(["the first new password", "the second new password"] * 10)
    changes = [{"current_password": PASSWORD, "new_password": next(passwords)} for _ in range(8)]
    numbers = iter(range(8))
    answers = at_once(pair, 8, lambda gateway: gateway.post("/auth/password", changes[next(numbers)], account.line))
    assert sum(answer.status == 204 for answer in answers) == 1
    logins = [
        pair[1].post("/auth/login", {"email": account.email, "password": password}).status
        for password in ("the first new password", "the second new password", PASSWORD)
    ]
    assert sorted(logins) == [200, 401, 401]
