"""Parsing request bodies: every input gives a value or a refusal."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.api.body import (
    FORM,
    JSON,
    MAX_BODY,
    MAX_FORM,
    form_fields,
    json_object,
    media_type,
    query_fields,
    read_body,
)
from gateway.errors import Refusal


def request(*chunks: bytes, headers: list[tuple[str, str]] | None = None, leaves: bool = False) -> Request:
    """A request as passed by a server, with its body in pieces."""

    async def messages() -> AsyncIterator[dict[str, Any]]:
        for chunk in chunks:
            yield {"type": "http.request", "body": chunk, "more_body": True}
        yield {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False}

    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers or []]
    coming = messages()
    return Request({"type": "http", "headers": lines}, receive=coming.__anext__)


def code_of(read: Any) -> str:
    with pytest.raises(Refusal) as raised:
        read()
    return raised.value.code


# ---- media types

GOOD_TYPES = [
    ("application/json", JSON),
    ("Application/JSON", JSON),
    ("application/json; charset=utf-8", JSON),
    ('application/json;charset="UTF-8"', JSON),
    ("application/x-www-form-urlencoded", FORM),
    ("application/x-www-form-urlencoded; charset=UTF-8", FORM),
]
BAD_TYPES = [
    *("", ";", "json", "text/plain", "application/jsonp", "application/problem+json"),
    *("application/json; charset=utf-16", "application/json, text/plain", "multipart/form-data; boundary=x"),
]


@pytest.mark.parametrize(("given", "expected"), GOOD_TYPES)
def test_a_media_type_is_recognised(given: str, expected: str) -> None:
    assert media_type(request(headers=[("Content-Type", given)]), JSON, FORM) == expected


@pytest.mark.parametrize("given", BAD_TYPES)
def test_any_other_media_type_is_refused(given: str) -> None:
    assert (
        code_of(lambda: media_type(request(headers=[("Content-Type", given)]), JSON, FORM)) == "unsupported_media_type"
    )


def test_a_form_is_refused_where_only_json_is_taken() -> None:
    with pytest.raises(Refusal) as raised:
        media_type(request(headers=[("Content-Type", FORM)]), JSON)
    assert raised.value.status == 415 and JSON in raised.value.detail


@pytest.mark.parametrize(
    "headers",
    [[], [("Content-Type", JSON), ("Content-Type", JSON)], [("Content-Type", JSON), ("Content-Encoding", "gzip")]],
)
def test_a_body_without_one_plain_type_is_refused(headers: list[tuple[str, str]]) -> None:
    assert code_of(lambda: media_type(request(headers=headers), JSON)) == "unsupported_media_type"


# ---- size


async def test_a_body_is_read_in_pieces() -> None:
    assert await read_body(request(b"ab", b"", b"cd")) == b"abcd"
    assert len(await read_body(request(b"x" * MAX_BODY))) == MAX_BODY


@pytest.mark.parametrize("announced", [str(MAX_BODY + 1), "9" * 5000])
async def test_a_body_that_is_announced_too_large_is_not_read(announced: str) -> None:
    with pytest.raises(Refusal, match="body_too_large"):
        await read_body(request(b"x", headers=[("Content-Length", announced)]))


async def test_a_body_that_turns_out_too_large_is_read_no_further() -> None:
    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    with pytest.raises(Refusal, match="body_too_large"):
        await read_body(Request({"type": "http", "headers": []}, receive=endless))


@pytest.mark.parametrize("announced", ["", "x", "-1", "²"])
async def test_an_odd_length_is_the_servers_matter(announced: str) -> None:
    assert await read_body(request(b"x", headers=[("Content-Length", announced)])) == b"x"


async def test_a_client_that_disconnects_during_the_body_is_no_failure() -> None:
    with pytest.raises(Refusal, match="bad_request"):
        await read_body(request(b"{", leaves=True))


# ---- JSON

BAD_JSON = [
    *(b"", b"{", b"null", b"[]", b'"x"', b"7", b"{}{}", b"{'a': 1}"),
    *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}'),
    *(b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 2}}', b'{"\\u0061": 1, "a": 2}'),
    *(b"\xff\xfe{}", b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16")),
    *(b'{"\\ud800": 1}', b'{"a": {"\\udfff": 1}}'),
    *(b"[" * 60_000, b'{"a":' * 12_000, b'{"a": ' + b"9" * 5_000 + b"}"),
]


@pytest.mark.parametrize("body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_only_json_objects_with_distinct_names_are_accepted(body: bytes) -> None:
    assert code_of(lambda: json_object(body)) == "bad_request"


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_bad_request(body: bytes) -> None:
    for read in (json_object, form_fields):
        try:
            assert isinstance(read(body), dict)
        except Refusal as refusal:
            assert refusal.code == "bad_request"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=10), children, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=10), JSON_VALUES, max_size=5))
def test_every_json_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    assert json_object(body) == value


TOO_MUCH_JSON = {
    "empty objects": b'{"a":[' + b",".join([b"{}"] * 21_000) + b"]}",
    "numbers": b'{"a":[' + b",".join([b"0"] * 32_000) + b"]}",
    "nested lists": b'{"a":[' + b",".join([b"[" * 900 + b"]" * 900] * 36) + b"]}",
    "fields": b"{" + b",".join(b'"%x":1' % number for number in range(7_000)) + b"}",
    "a number of 65,000 digits": b'{"a":' + b"9" * 65_000 + b"}",
    "fifteen numbers of 4,299 digits": b'{"a":[' + b",".join([b"9" * 4_299] * 15) + b"]}",
}


@pytest.mark.parametrize("body", TOO_MUCH_JSON.values(), ids=TOO_MUCH_JSON)
def test_a_body_that_is_dear_to_read_is_not_read(body: bytes) -> None:
    with pytest.raises(Refusal, match=r"it has too many values|it is not valid JSON") as raised:
        json_object(body)
    assert raised.value.code == "bad_request"


@pytest.mark.parametrize(("count", "is_read"), [(4_998, True), (4_999, False)])
def test_a_body_holds_at_most_five_thousand_values(count: int, is_read: bool) -> None:
    body = b'{"a":[' + b",".join([b"0"] * (count + 1)) + b"]}"
    if is_read:
        assert len(json_object(body)["a"]) == count + 1
    else:
        assert code_of(lambda: json_object(body)) == "bad_request"


# ---- forms


def test_a_form_is_read() -> None:
    assert form_fields(b"username=ann%40example.com&password=a+b%2Bc&empty=") == {
        "username": "ann@example.com",
        "password": "a b+c",
        "empty": "",
    }
    assert form_fields(b"") == {}


DEAR_FORMS = [b"a=" + b"%" * MAX_FORM, b"a=" + b"%25" * 5_000, "é%".encode() * 20_000, b"&" * (MAX_FORM + 1)]


@pytest.mark.parametrize("body", DEAR_FORMS, ids=range(len(DEAR_FORMS)))
def test_a_form_that_is_longer_than_any_that_is_asked_for_is_not_read(body: bytes) -> None:
    with pytest.raises(Refusal, match="body_too_large") as raised:
        form_fields(body)
    assert raised.value.status == 413 and "8192 bytes" in raised.value.detail
    assert len(form_fields(b"a=" + b"x" * (MAX_FORM - 2))["a"]) == MAX_FORM - 2


def test_a_query_is_read_up_to_sixteen_kibibytes() -> None:
    def asked(query: bytes) -> Request:
        return Request({"type": "http", "headers": [], "query_string": query})

    assert query_fields(asked(b"a=b&c=%C3%A9")) == {"a": "b", "c": "é"}
    assert len(query_fields(asked(b"a=" + b"x" * (16 * 1024 - 2)))["a"]) == 16 * 1024 - 2
    assert code_of(lambda: query_fields(asked(b"a=" + b"%" * 16 * 1024))) == "bad_request"


@pytest.mark.parametrize(
    "body",
    [b"username", b"a=1&a=2", b"a=%FF", b"a=\xff", b"&", b"a=1&&b=2", b"&".join(b"a%d=1" % n for n in range(40))],
)
def test_a_form_that_is_not_one_is_refused(body: bytes) -> None:
    assert code_of(lambda: form_fields(body)) == "bad_request"
