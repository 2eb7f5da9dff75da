"""The text of API keys: new keys are recognised, and every changed character is detected."""

import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.api_keys import key_digest, new_key
from gateway.identity.refresh_token import RefreshToken

LETTERS = string.ascii_letters + string.digits
# A key whose first two letters differ.
KEY = next(key for key in iter(new_key, "") if key[4] != key[5] and key.lower() != key.upper())


def test_a_key_has_a_form_that_can_be_looked_for_and_enough_that_cannot_be_guessed() -> None:
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    for key in keys:
        assert re.fullmatch(r"gwk_[0-9A-Za-z]{38}", key)
        digest = key_digest(key.encode())
        assert digest is not None and len(digest) == 32
    assert {letter for key in keys for letter in key[4:36]} == set(LETTERS)
    assert len({key[4:36] for key in keys}) == 500


def test_the_digest_is_of_the_whole_key() -> None:
    assert len({key_digest(new_key().encode()) for _ in range(100)}) == 100


NO_KEYS = {
    "nothing": "",
    "the prefix": "gwk_",
    "cut off": KEY[:-1],
    "without checksum": KEY[:-6],
    "too long": KEY + "A",
    "a line break at the end": KEY + "\n",
    "a space before": " " + KEY,
    "the first letter lost": KEY[1:],
    "upper case": KEY.upper(),
    "lower case": KEY.lower(),
    "the other case": KEY.swapcase(),
    "another prefix in upper case": "GWK_" + KEY[4:],
    "the prefix of refresh tokens": "gwr_" + KEY[4:],
    "a hyphen in the prefix": "gwk-" + KEY[4:],
    "outside ASCII": KEY[:20] + "é" + KEY[21:],
    "an underscore in it": KEY[:20] + "_" + KEY[21:],
    "NUL in it": KEY[:20] + "\0" + KEY[21:],
    "two letters exchanged": KEY[:4] + KEY[5] + KEY[4] + KEY[6:],
    "made up": "gwk_" + "A" * 38,
    "a refresh token": RefreshToken.new().text,
    "a part of a refresh token": "gwk_" + RefreshToken.new().text[4:42],
    "very long": "gwk_" + KEY[4:] * 200,
}


@pytest.mark.parametrize("what", NO_KEYS)
def test_a_text_that_only_resembles_a_key_is_none(what: str) -> None:
    assert NO_KEYS[what] != KEY
    assert key_digest(NO_KEYS[what].encode()) is None


@given(at=st.integers(4, 41), letter=st.sampled_from(LETTERS))
def test_no_single_slip_makes_another_key(at: int, letter: str) -> None:
    slipped = KEY[:at] + letter + KEY[at + 1 :]
    assert (key_digest(slipped.encode()) is None) is (slipped != KEY)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_key_or_none(presented: bytes) -> None:
    assert key_digest(presented) is None


def test_keys_do_not_come_from_a_generator_that_can_be_seeded() -> None:
    random.seed(7)
    first = new_key()
    random.seed(7)
    assert new_key() != first
