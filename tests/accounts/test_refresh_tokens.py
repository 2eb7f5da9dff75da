"""The format of refresh tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.refresh_token import PREFIX, RefreshToken


def test_a_token_is_read_back_from_its_text() -> None:
    token = RefreshToken.new()
    read = RefreshToken.parse(token.text)
    assert read is not None and read.text == token.text
    assert (read.digest, read.family_digest) == (token.digest, token.family_digest)


def test_every_token_is_another_one() -> None:
    tokens = [RefreshToken.new() for _ in range(100)]
    assert len({token.text for token in tokens}) == len({token.family_digest for token in tokens}) == 100


def test_a_successor_is_of_the_same_family_and_depends_on_token_and_seed() -> None:
    token, other, seed = RefreshToken.new(), RefreshToken.new(), b"s" * 32
    successor = token.successor(seed)
    assert successor.text == token.successor(seed).text != token.text
    assert successor.family_digest == token.family_digest
    assert len({successor.text, token.successor(b"t" * 32).text, other.successor(seed).text}) == 3


def test_no_secret_is_in_its_repr() -> None:
    token = RefreshToken.new()
    assert token.text[4:20] not in repr(token) and "****" in repr(token)


TEXT = RefreshToken(bytes(range(16)), bytes(range(16, 48))).text


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        "x" + TEXT,
        TEXT[:-1],
        TEXT + "A",
        TEXT.replace("gwr_", "gwk_"),
        TEXT[:-1] + "=",
        TEXT[:-1] + "é",
        TEXT[:-1] + "\n",
    ],
)
def test_a_text_that_cannot_be_a_token_is_none(text: str) -> None:
    assert RefreshToken.parse(text) is None


@given(st.text(max_size=80))
def test_any_text_is_a_token_or_none(text: str) -> None:
    for candidate in (text, PREFIX + text, (PREFIX + text).ljust(len(TEXT), "A")):
        token = RefreshToken.parse(candidate)
        assert token is None or token.text == candidate
