"""Which bearer credentials are accepted, and which are refused instead of guessed."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.wire.credential_fields import MAX_CREDENTIAL, bearer_credential

TOKEN68 = (string.ascii_letters + string.digits + "-._~+/").encode()
LONGEST = b"a" * MAX_CREDENTIAL


@pytest.mark.parametrize(
    ("value", "credential"),
    [
        (b"Bearer abc.DEF-_123", b"abc.DEF-_123"),
        (b"bearer abc", b"abc"),
        (b"BEARER abc", b"abc"),
        (b"bEaReR abc", b"abc"),
        (b"Bearer   abc", b"abc"),
        (b" Bearer abc\t", b"abc"),
        (b"Bearer abc==", b"abc=="),
        (b"Bearer ~a+b/c", b"~a+b/c"),
        (b"Bearer gwk_0123", b"gwk_0123"),
        (b"Bearer " + LONGEST, LONGEST),
        (b"bearer  " + LONGEST, LONGEST),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_bearer_credential_is_found_in_every_spelling_that_is_allowed(value: bytes, credential: bytes) -> None:
    assert bearer_credential(value) == credential


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"Basic dXNlcjpwYXNz",
        b"Bearerish abc",
        b"Bearer2 abc",
        b"Bear abc",
        b"Digest username=x",
        b"DPoP abc",
    ],
)
def test_no_field_or_another_scheme_is_no_bearer_credential(value: bytes | None) -> None:
    assert bearer_credential(value) is None


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"bearer",
        b"Bearer ",
        b"Bearer\tabc",
        b"Bearer=abc",
        b"Bearer, abc",
        b"Bearer abc def",
        b"Bearer abc, Bearer def",
        b"Bearer abc,def",
        b"Bearer a=b",
        b"Bearer =",
        b'Bearer "abc"',
        b"Bearer abc\x00",
        b"Bearer abc\x0b",
        b"Bearer abc\xff",
        b"Bearer \xc3\xa9",
        b"Bearer {}",
        b"Bearer a%20b",
        b"Bearer " + LONGEST + b"a",
        b"bearer " + LONGEST + b"a",
        b"Bearer      " + LONGEST + b"==",
        b"Bearer " + b"a" * 1_000_000,
    ],
    ids=lambda value: repr(value[:30]) + str(len(value)),
)
def test_a_malformed_or_oversized_bearer_is_refused(value: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        bearer_credential(value)
    assert (refused.value.code, refused.value.presented) == ("token_invalid", True)


@pytest.mark.parametrize("value", [b"Bearer abc", b"Basic abc", b"", None])
def test_two_authorization_fields_are_refused_for_any_values(value: bytes | None) -> None:
    with pytest.raises(Refusal) as refused:
        bearer_credential(value, 2)
    assert (refused.value.code, refused.value.presented) == ("token_invalid", True)


@given(
    st.text(TOKEN68.decode(), min_size=1, max_size=60),
    st.integers(0, 2),
    st.sampled_from(["Bearer", "bearer", "BEARER"]),
)
def test_every_token68_is_taken_as_it_is(text: str, padding: int, scheme: str) -> None:
    credential = (text + "=" * padding).encode()
    assert bearer_credential(scheme.encode() + b" " + credential) == credential


@given(st.binary(max_size=80), st.sampled_from([b"", b"Bearer ", b"bearer", b"Bearer  "]))
def test_any_bytes_give_a_clean_credential_or_none_or_a_refusal(rest: bytes, start: bytes) -> None:
    try:
        credential = bearer_credential(start + rest)
    except Refusal as refusal:
        assert refusal.code == "token_invalid"
    else:
        assert credential is None or not credential.translate(None, TOKEN68 + b"=")
