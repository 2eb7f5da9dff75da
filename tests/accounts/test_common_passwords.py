"""Which passwords are too common to be accepted."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.commands import Login, NewAccount, PasswordChange, PasswordOnly, Registration
from gateway.accounts.inputs import accept
from gateway.accounts.passwords import chosen_password, is_common
from gateway.errors import Refusal
from tests.accounts.harness import make_settings

COMMON = [
    *(
        "password",
        "Password",
        "PASSWORD1",
        "password123",
        "P@ssw0rd",
        "pa$$w0rd!",
        "Passwort2024",
        "contraseña",
        "hasło123",
    ),
    *("contrasen\u0303a", "ПАРОЛЬ123", "12345678", "123456789", "1234567890", "11111111", "87654321", "qwertyuiop"),
    *(
        "QWERTY123",
        "1q2w3e4r",
        "1qaz2wsx",
        "qwertz123",
        "iloveyou",
        "ILoveYou2",
        "sunshine1",
        "Summer2026!",
        "Winter2025",
    ),
    *(
        "football",
        "jennifer",
        "michael1987",
        "liverpool1",
        "abcdefgh",
        "aaaaaaaa",
        "letmein!",
        "welcome@123",
        "admin1234",
    ),
    *("administrator", "changeme", "trustno1", "superman1", "pokemon123", "starwars", "correcthorsebatterystaple"),
]
UNCOMMON = [
    *(
        "correct horse battery",
        "another good password",
        "correct horse",
        "long enough",
        "a new password",
        "xkcd 936 is fun",
    ),
    *(
        "tuwZ8-hrQe",
        "ñandú en la pampa",
        "a" * 72,
        "passwordless future",
        "my password is long",
        "summer of sixty-nine",
    ),
]


@pytest.mark.parametrize("text", COMMON)
def test_the_commonest_are_known_in_every_case_and_spelling(text: str) -> None:
    for spelling in (text, text.upper(), text.lower(), text.swapcase()):
        assert is_common(chosen_password(spelling, min_length=0)), spelling


@pytest.mark.parametrize("text", UNCOMMON)
def test_others_are_not(text: str) -> None:
    assert not is_common(chosen_password(text, min_length=0))


@given(st.text(string.ascii_lowercase, min_size=20, max_size=30))
def test_a_long_word_of_ones_own_is_not_common(text: str) -> None:
    assert not is_common(chosen_password("zq" + text + "vj", min_length=0))


BODIES = [
    (Registration, "password", {"email": "ann@example.com", "password": "Password1"}),
    (PasswordChange, "new_password", {"current_password": "Password1", "new_password": "Password1"}),
    (NewAccount, "password", {"email": "ann@example.com", "password": "Password1", "roles": ["user"]}),
    (PasswordOnly, "password", {"password": "Password1"}),
]


@pytest.mark.parametrize(("body", "field", "values"), BODIES, ids=lambda value: getattr(value, "__name__", ""))
def test_they_are_refused_wherever_a_password_is_chosen(body: type, field: str, values: dict[str, object]) -> None:
    with pytest.raises(Refusal) as refusal:
        accept(body, values, make_settings())
    (problem,) = refusal.value.fields
    assert (refusal.value.status, problem.field) == (422, field)
    assert "most common passwords" in problem.message


def test_without_a_choice_a_common_password_is_only_wrong_or_right() -> None:
    """Existing common passwords stay valid."""
    assert (
        accept(Login, {"email": "ann@example.com", "password": "Password1"}, make_settings()).password == b"Password1"
    )
