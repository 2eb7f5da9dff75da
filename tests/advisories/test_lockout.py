"""F. Accounts: password guesses are limited, without locking out other clients."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Face, Gateway
from tests.support.raw import Answer

LOCKED = (429, "locked_out")
INVALID = (401, "invalid_credentials")
FULL_WIDTH = str.maketrans({"b": "\uff42", "o": "\uff4f"})


@pytest.fixture
def guarded(gateways: Gateways, face: Face) -> Gateway:
    """The default lockout behind a proxy that forwards client addresses."""
    return gateways.gateway(
        "guarded",
        face,
        server={"trusted_proxies": ["127.0.0.0/8"]},
        accounts={"lockout": {"failures": 5, "window": "15m", "ban": "15m", "per_address_failures": 20}},
    )


def login(gateway: Gateway, email: str, password: str = "wrong password", *, at: str) -> Answer:
    return gateway.post("/auth/login", {"email": email, "password": password}, f"X-Forwarded-For: {at}")


_ADDRESSES = iter(f"198.51.{number // 200}.{number % 200 + 1}" for number in range(50_000))


@pytest.fixture
def here() -> str:
    """An address without failures so far."""
    return next(_ADDRESSES)


def fresh(name: str) -> str:
    return f"{name}{time.time_ns()}@example.com"


def test_lockout_dos_a_victim_is_not_locked_out_from_elsewhere(guarded: Gateway, here: str) -> None:
    victim, elsewhere = guarded.newcomer().email, next(_ADDRESSES)
    for _ in range(5):
        assert login(guarded, victim, at=here).refused() == INVALID
    answer = login(guarded, victim, PASSWORD, at=here)
    assert answer.refused() == LOCKED, "also with the right password"
    assert 1 <= int(answer.value("retry-after") or 0) <= 900
    assert login(guarded, victim, PASSWORD, at=elsewhere).status == 200
    assert login(guarded, victim, at=here).refused() == LOCKED


def test_lockout_dos_one_password_tried_on_many_accounts_is_counted_by_address(guarded: Gateway, here: str) -> None:
    account = guarded.newcomer().email
    for number in range(20):
        assert login(guarded, f"user{number}@example.com", "Summer2026!", at=here).refused() == INVALID
        if number % 4 == 0:
            assert login(guarded, account, PASSWORD, at=here).status == 200, "which clears no more than its own count"
    assert login(guarded, "another@example.com", at=here).refused() == LOCKED
    assert login(guarded, account, PASSWORD, at=here).refused() == LOCKED
    assert login(guarded, account, PASSWORD, at=next(_ADDRESSES)).status == 200


@pytest.mark.parametrize("known", [True, False])
def test_CVE_2026_47203_spellings_of_one_address_are_one_counter(guarded: Gateway, here: str, known: bool) -> None:
    address = fresh("bob")
    if known:
        guarded.register(address)
    spellings = [address.title(), f"{address} ", address.upper(), address.translate(FULL_WIDTH), f"\t{address}"]
    for spelling in spellings:
        assert login(guarded, spelling, at=here).refused() == INVALID, spelling
    for spelling in (address, *spellings):
        assert login(guarded, spelling, at=here).refused() == LOCKED, spelling
    assert login(guarded, f"x{address}", at=here).refused() == INVALID


def test_GHSA_6f65_4fv2_wwch_unknown_accounts_are_locked_by_the_same_bytes(guarded: Gateway) -> None:
    def bare(answer: Answer) -> tuple[object, ...]:
        body = answer.json()
        del body["request_id"]
        fields = sorted(
            (name.lower(), value)
            for name, value in answer.fields
            if name.lower() not in (b"date", b"x-request-id", b"retry-after")
        )
        return answer.status, answer.head.reason, fields, body

    known, unknown = guarded.newcomer().email, fresh("nobody")
    seen = []
    for email in (known, unknown):
        at = next(_ADDRESSES)
        seen.append([bare(login(guarded, email, at=at)) for _ in range(7)])
    assert seen[0] == seen[1]
    assert [answer[0] for answer in seen[0]] == [401] * 5 + [429] * 2


@pytest.mark.parametrize(
    ("hosts", "other"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:2:ffff::3"], "2001:db8:1:3::1"),
        (["::ffff:203.0.113.1", "203.0.113.1"], "203.0.113.2"),
    ],
)
def test_all_addresses_of_an_ipv6_network_count_as_one_client(guarded: Gateway, hosts: list[str], other: str) -> None:
    email = fresh("v6")
    for number in range(5):
        assert login(guarded, email, at=hosts[number % len(hosts)]).refused() == INVALID
    for host in hosts:
        assert login(guarded, email, at=host).refused() == LOCKED
    assert login(guarded, email, at=other).refused() == INVALID


def test_an_address_that_no_trusted_proxy_vouches_for_is_not_counted_by(guarded: Gateway, here: str) -> None:
    """Entries left of the address that the proxy saw are the client's own claims."""
    email = fresh("spoof")
    for number in range(5):
        assert login(guarded, email, at=f"203.0.113.{number}, {here}").refused() == INVALID
    assert login(guarded, email, at=f"203.0.113.77, {here}").refused() == LOCKED


def test_a_success_clears_the_count_of_its_account_here(guarded: Gateway, here: str) -> None:
    email = guarded.newcomer().email
    for _ in range(3):
        for _ in range(4):
            assert login(guarded, email, at=here).refused() == INVALID
        assert login(guarded, email, PASSWORD, at=here).status == 200


def test_the_current_password_of_a_change_is_counted_as_well(guarded: Gateway, here: str) -> None:
    """A stolen token must not help to find the password."""
    account = guarded.newcomer()
    change = {"current_password": "a guess", "new_password": "another good password"}
    at = f"X-Forwarded-For: {here}"
    for _ in range(5):
        assert guarded.post("/auth/password", change, account.line, at).refused() == INVALID
    good = change | {"current_password": PASSWORD}
    assert guarded.post("/auth/password", good, account.line, at).refused() == LOCKED
    assert login(guarded, account.email, PASSWORD, at=here).refused() == LOCKED
    assert guarded.get("/api/x", account.line).status == 200, "a lockout ends no session"


def test_of_many_guesses_at_once_only_those_that_run_at_once_go_beyond_the_count(guarded: Gateway, here: str) -> None:
    email = guarded.newcomer().email
    with ThreadPoolExecutor(30) as threads:
        answers = [each.refused() for each in threads.map(lambda _: login(guarded, email, at=here), range(60))]
    assert set(answers) <= {INVALID, LOCKED}
    assert 5 <= answers.count(INVALID) <= 5 + 8
    assert login(guarded, email, at=here).refused() == LOCKED


def test_an_invalid_address_or_body_is_not_counted(guarded: Gateway, here: str) -> None:
    for _ in range(25):
        assert login(guarded, "not an address", at=here).refused() == (422, "invalid_fields")
    assert login(guarded, fresh("after"), at=here).refused() == INVALID
