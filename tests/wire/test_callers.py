"""Which addresses count as one client."""

import pytest

from gateway.wire.addresses import Callers
from tests.support.memory import strings_in

SAME = [
    ("192.0.2.1", "192.0.2.1"),
    ("192.0.2.1", "::ffff:192.0.2.1"),
    ("192.0.2.1", "::ffff:c000:201"),
    ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
    ("2001:db8:1:2::1", "2001:0DB8:0001:0002::9"),
    ("fe80::1", "fe80::2%eth0"),
    ("", "not-an-address"),
]
DIFFERENT = [
    ("192.0.2.1", "192.0.2.2"),
    ("2001:db8:1:2::1", "2001:db8:1:3::1"),
    ("2001:db8:1:2::1", "2001:db8:0:2::1"),
    ("0.0.0.0", "::"),
    ("192.0.2.1", "::192.0.2.1"),
    ("192.0.2.1", ""),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_caller(one: str, other: str) -> None:
    callers = Callers()
    assert callers.by_address(one) == callers.by_address(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_callers(one: str, other: str) -> None:
    callers = Callers()
    assert callers.by_address(one) != callers.by_address(other)


def test_no_user_is_taken_for_an_address() -> None:
    """Ids are letters, digits and hyphens; those of issuers begin with the issuer's name and contain a bar."""
    callers = Callers()
    assert {callers.by_address(address)[0] for address in ("", "10.0.0.1", "::1", "x")} == {"@"}


def test_cached_values_are_bounded_and_stay_right() -> None:
    callers = Callers()
    held = strings_in(callers)
    for number in range(20_000):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert callers.by_address(address) == f"@{address}"
    assert strings_in(callers) <= held + 2 * 4096  # addresses and their keys
