"""Request bodies: any JSON object is accepted or refused field by field, never an exception."""

from dataclasses import MISSING, fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.commands import (
    AccountChange,
    KeyRequest,
    Login,
    LoginForm,
    NewAccount,
    PasswordChange,
    Refresh,
    Registration,
)
from gateway.accounts.inputs import Body, accept
from gateway.api.queries import AuditQuery, UserQuery
from gateway.errors import Refusal
from tests.accounts.harness import make_settings

BODIES: list[type[Body]] = [
    Registration,
    Login,
    LoginForm,
    PasswordChange,
    Refresh,
    NewAccount,
    AccountChange,
    KeyRequest,
]
MODELS: list[type[Body]] = [*BODIES, UserQuery, AuditQuery]


def names_of(model: type[Body]) -> list[str]:
    """The fields of a body."""
    names: list[str] = [*model.__slots__]
    return names


NAMES = sorted({name for model in MODELS for name in names_of(model)})
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.dictionaries(
    st.text(), st.integers()
)  # fmt: skip
TEXTS = st.text(st.characters())  # lone surrogates included
SETTINGS = make_settings()


@given(st.sampled_from(MODELS), st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUES | TEXTS))
def test_any_object_is_accepted_or_refused_with_a_sentence_for_each_field(
    model: type[Body], body: dict[str, Any]
) -> None:
    try:
        accepted = accept(model, body, SETTINGS)
    except Refusal as refusal:
        assert refusal.code == "invalid_fields" and refusal.fields
        assert {error.field for error in refusal.fields} <= {name[:64] for name in (*body, *model.__slots__)}
        assert all(error.message.startswith(("must ", "is ")) or "role" in error.message for error in refusal.fields)
    else:
        needed = {each.name for each in fields(model) if each.default is MISSING}  # type: ignore[arg-type]
        assert needed <= set(body) <= set(model.__slots__) and isinstance(accepted, model)


@given(st.sampled_from([UserQuery, AuditQuery]), st.data())
def test_any_query_is_accepted_or_refused_with_a_sentence_for_each_field(
    model: type[Body], data: st.DataObject
) -> None:
    """With arbitrary strings as values."""
    likely = st.sampled_from(
        ["", "true", "7", "0", "2026-01-31T08:15:60Z", "9999-12-31T23:59:59-12:00", "dWFAYg", "@x"]
    )
    query = data.draw(st.dictionaries(st.sampled_from(names_of(model)), likely | st.text(), min_size=1))
    try:
        assert accept(model, query, SETTINGS)
    except Refusal as refusal:
        assert {error.field for error in refusal.fields} <= set(query)


def test_accepted_commands_hide_their_secrets() -> None:
    body = accept(Registration, {"email": "ann@example.com", "password": "correct horse"}, SETTINGS)
    assert "horse" not in repr(body) and "ann@example.com" in repr(body)
