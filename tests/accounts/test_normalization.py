"""Client text is normalised only if it is short enough."""

import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.accounts.commands import (
    EmailOnly,
    KeyRequest,
    Login,
    LoginForm,
    NewAccount,
    PasswordChange,
    Registration,
)
from gateway.accounts.inputs import Body, accept, composed
from gateway.api.queries import UserQuery
from gateway.errors import Refusal
from gateway.settings.model import Settings
from tests.support.waiting import cpu_within

# Marks of two combining classes in the wrong order: normalisation swaps each of them with all others.
MARKS = {
    "above and below": "\u0301" * 16_300 + "\u0327" * 16_300,
    "behind a letter": "a" + "\u0301" * 16_300 + "\u0323" * 16_300,
    "of four bytes": "a" + "\U0001d1aa" * 8_000 + "\U0001d16d" * 8_000,
    "in turn": "\u0345\u0301\u0323" * 10_000,
}
FIELDS: list[tuple[type[Body], str, dict[str, Any]]] = [
    (Login, "email", {"password": "x"}),
    (Login, "password", {"email": "ann@example.com"}),
    (LoginForm, "username", {"password": "x"}),
    (Registration, "email", {"password": "correct horse"}),
    (Registration, "password", {"email": "ann@example.com"}),
    (PasswordChange, "current_password", {"new_password": "correct horse"}),
    (PasswordChange, "new_password", {"current_password": "x"}),
    (NewAccount, "email", {"password": "correct horse"}),
    (EmailOnly, "email", {}),
    (KeyRequest, "name", {}),
    (UserQuery, "query", {}),
]


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize(("model", "field", "others"), FIELDS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_no_field_normalises_a_text_that_is_too_long(
    model: type[Body], field: str, others: dict[str, Any], marks: str
) -> None:
    for text in (marks, f"  {marks}@example.com", f"ann@{marks}.example"):
        with cpu_within(0.1):  # 1.5 s if the text is normalised
            try:
                accepted = accept(model, {**others, field: text}, Settings())
            except Refusal as refusal:
                assert [error.field for error in refusal.fields] == [field]
            else:
                assert getattr(accepted, field) is None, "a password that none can be"


@given(st.text(), st.integers(1, 100))
@example("e\u0301" * 36, 72)
@example("\u01d5" * 36, 72)
@example(unicodedata.normalize("NFD", "\u01d5" * 36), 72)
@example("\U0001d160" * 7, 84)
def test_a_text_that_is_short_enough_is_normalised(text: str, max_bytes: int) -> None:
    normalised = unicodedata.normalize("NFC", text)
    if len(normalised.encode("utf-8", "surrogatepass")) <= max_bytes:
        assert composed(text, max_bytes=max_bytes) == normalised
    else:
        assert len(composed(text, max_bytes=max_bytes).encode("utf-8", "surrogatepass")) > max_bytes


def test_no_character_of_unicode_is_decomposed_into_more_than_three_for_two_bytes() -> None:
    """The assumption of the length limit."""
    characters = (chr(number) for number in range(sys.maxunicode + 1) if not 0xD800 <= number <= 0xDFFF)
    longest = max(characters, key=lambda each: len(unicodedata.normalize("NFD", each)) / len(each.encode()))
    assert len(unicodedata.normalize("NFD", longest)) / len(longest.encode()) == 1.5


@pytest.mark.parametrize(("count", "is_accepted"), [(36, True), (37, False)])
def test_a_decomposed_password_counts_as_its_composed_form(count: int, is_accepted: bool) -> None:
    body = {"email": "ann@example.com", "password": "u\u0308\u0304" * count}
    try:
        accept(Registration, body, Settings())
    except Refusal as refusal:
        assert not is_accepted
        assert refusal.fields[0].message == "must be at most 72 bytes long in UTF-8, this is 185 bytes"
    else:
        assert is_accepted
