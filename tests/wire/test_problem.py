"""The body of a refusal is valid JSON for any texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import CODES, FieldError, Refusal
from gateway.wire.problem import problem_body

texts = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.binary(min_size=1, max_size=128).map(lambda some: bytes(33 + byte % 94 for byte in some))


@given(code=st.sampled_from(sorted(CODES)), detail=texts, request_id=ids, field=texts, message=texts)
def test_it_equals_the_output_of_an_encoder(
    code: str, detail: str, request_id: bytes, field: str, message: str
) -> None:
    refusal = Refusal(code, detail=detail, fields=[FieldError(field, message)])
    members = {
        "type": "about:blank",
        "title": refusal.title,
        "status": refusal.status,
        "detail": detail,
        "code": code,
        "request_id": request_id.decode(),
    }
    if refusal.status == 422:
        members["errors"] = [{"field": field, "message": message}]
    assert problem_body(refusal, request_id) == json.dumps(members, ensure_ascii=False).encode()


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b"])
def test_half_a_character_does_not_break_it(text: str) -> None:
    body = json.loads(problem_body(Refusal("bad_request", detail=text), b"r"))
    assert body["code"] == "bad_request"
