"""Cursors: each cursor returns its position, and other text is refused."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.accounts.emails import email_address
from gateway.accounts.store import AuditPlace
from gateway.api.cursors import MAX_LENGTH, audit_cursor, audit_place, user_cursor, user_place

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLACES = st.builds(
    AuditPlace,
    st.integers(0, 10**16).map(lambda microseconds: EPOCH + timedelta(microseconds=microseconds)),
    st.integers(0, 2**63 - 1),
)


@given(st.emails())
def test_the_cursor_of_any_address_leads_back_to_it(text: str) -> None:
    try:
        canonical = email_address(text).canonical
    except ValueError:
        assume(False)
    cursor = user_cursor(canonical)
    assert user_place(cursor) == canonical
    assert len(cursor) <= MAX_LENGTH and cursor.replace("-", "").replace("_", "").isalnum()


def test_the_longest_address_has_a_cursor() -> None:
    longest = email_address("ü" * 32 + "@" + ".".join(["x" * 59] * 3) + ".com").canonical
    assert user_place(user_cursor(longest)) == longest


@given(PLACES)
def test_the_cursor_of_any_record_leads_back_to_it(place: AuditPlace) -> None:
    assert audit_place(audit_cursor(place)) == place


@given(st.text() | st.text("ABCab019-_=", max_size=40), PLACES)
def test_every_other_text_is_no_cursor(text: str, place: AuditPlace) -> None:
    again: list[Callable[[], str]] = [
        lambda: user_cursor(user_place(text)),
        lambda: audit_cursor(audit_place(text)),
    ]
    for written_again in again:
        try:
            assert written_again() == text
        except ValueError as error:
            assert str(error) == "is not a cursor of this list"
    with pytest.raises(ValueError, match="is not a cursor"):
        user_place(audit_cursor(place))


NO_PLACES = ["", "x", "-1.1", "1.-1", "1", "1.", ".1", f"1.{2**63}", f"{10**18}.1", "1.1.1", " 1.1", "01.1", "²..1"]


@pytest.mark.parametrize("number", NO_PLACES)
def test_a_place_that_cannot_be_is_no_cursor(number: str) -> None:
    packed = audit_cursor(AuditPlace(EPOCH, 0))
    assert audit_place(packed) == AuditPlace(EPOCH, 0)
    with pytest.raises(ValueError, match="is not a cursor"):
        audit_place(urlsafe_b64encode(f"a{number}".encode()).rstrip(b"=").decode())
