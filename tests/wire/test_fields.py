"""Which request fields are forwarded, dropped, or read by the gateway."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.fields import (
    FORWARDING_NAMES,
    HOP_BY_HOP,
    SPECIAL_NAMES,
    Action,
    FieldRules,
    RequestFields,
    fold,
    list_members,
)
from tests.support.memory import strings_in
from tests.support.waiting import cpu_within

IDENTITY = ("X-User-Id", "X-User-Email", "X-User-Roles")
# RFC 9110 5.6.2: the characters of a field name besides letters and digits.
TCHAR = "!#$%&'*+-.^_`|~"

token = st.text(f"abcXYZ019{TCHAR}", min_size=1, max_size=12).map(str.encode)
value = st.binary(max_size=20).map(lambda raw: raw.translate(None, b"\r\n\0"))


@pytest.mark.parametrize(
    "spelling",
    [
        b"X-User-Id",
        b"x-user-id",
        b"X_User_Id",
        b"X.User.Id",
        b"X-USER_id",
        b"x.user-ID",
        b"X-Request_Id",
        b"X_Forwarded_For",
        b"Content_Length",
        b"Transfer.Encoding",
        b"Proxy_Authorization",
        b"X!User!Id",
        b"X`User|Id",
        b"x~user.id",
        b"X-User*Roles",
        b"X$Request%Id",
        b"Max+Forwards",
        b"Sec#WebSocket^Key",
        b"X&HTTP'Method-Override",
        b"X-Forwarded'Port",
    ],
)
def test_a_name_that_an_upstream_could_take_for_one_of_ours_never_goes_on(spelling: bytes) -> None:
    assert FieldRules(IDENTITY).sort([(spelling, b"root")]).kept == []


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_but_letters_and_digits_folds_to_a_hyphen(byte: int) -> None:
    character = bytes([byte])
    expected = character.lower() if character.isalnum() else b"-"
    assert fold(character) == expected
    assert FieldRules(IDENTITY).action(b"X%bUser%bId" % (character, character)) == (
        Action.KEEP if character.isalnum() else Action.DROP
    )


@pytest.mark.parametrize("joint", TCHAR.replace("-", ""))
@pytest.mark.parametrize("name", sorted(SPECIAL_NAMES | FORWARDING_NAMES))
def test_no_other_spelling_of_a_name_with_a_meaning_goes_on(name: bytes, joint: str) -> None:
    spelling = name.replace(b"-", joint.encode())
    if spelling != name:
        assert FieldRules().action(spelling) == Action.DROP


@pytest.mark.parametrize("name", [b"X-User", b"X-User-Id2", b"X--User-Id", b"XUser-Id", b"User-Id", b"X-User-Ids"])
def test_a_name_that_only_resembles_one_of_ours_goes_on(name: bytes) -> None:
    assert FieldRules(IDENTITY).action(name) == Action.KEEP


def test_the_variable_that_cgi_programs_take_for_their_proxy_is_never_set() -> None:
    """httpoxy, CVE-2016-5385."""
    assert FieldRules().sort([(b"Proxy", b"http://evil.example"), (b"pROXY", b"x")]).kept == []


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_fields_end_here(name: bytes) -> None:
    assert FieldRules().sort([(name.title(), b"x")]).kept == []


def test_end_to_end_fields_keep_their_spelling_their_order_and_their_duplicates() -> None:
    fields = [(b"aCCept", b"a"), (b"Cookie", b"1"), (b"X-A", b"1"), (b"Cookie", b"2"), (b"x-a", b"2")]
    assert FieldRules(IDENTITY).sort(fields).kept == fields


def test_fields_reserved_for_trusted_proxies_are_set_apart_with_their_position() -> None:
    fields = [
        (b"A", b"1"),
        (b"X-Forwarded-Server", b"p"),
        (b"B", b"2"),
        (b"X-Real-IP", b"1.2.3.4"),
        (b"Forwarded", b"for=x"),
        (b"X-Real_IP", b"5.6.7.8"),
    ]
    sorted_ = FieldRules().sort(fields)
    assert sorted_.kept == [(b"A", b"1"), (b"B", b"2")]
    assert sorted_.forwarding == [(1, fields[1]), (2, fields[3]), (2, fields[4])]


@pytest.mark.parametrize(
    "name",
    [b"X-Original-URL", b"X-Original-Uri", b"X-Rewrite-URL", b"x-forwarded-uri", b"X-Client-IP", b"True-Client-IP",
     b"X-Cluster-Client-IP", b"CF-Connecting-IP", b"Fastly-Client-IP", b"X-Forwarded", b"X-HTTP-Method-Override"],
)  # fmt: skip
def test_a_header_that_names_another_path_does_not_go_on_by_itself(name: bytes) -> None:
    assert FieldRules().sort([(name, b"/public")]).kept == []


def test_two_request_ids_are_none() -> None:
    assert FieldRules().sort([(b"X-Request-Id", b"a"), (b"X-Request-Id", b"b")]).request_id == b""


def test_every_authorization_field_is_counted() -> None:
    sorted_ = FieldRules().sort([(b"Authorization", b"Bearer a"), (b"AUTHORIZATION", b"Bearer b")])
    assert (sorted_.authorizations, sorted_.kept) == (2, [])


@pytest.mark.parametrize(
    "name",
    [
        b"Host",
        b"Authorization",
        b"X-Forwarded-For",
        b"X-Forwarded-Prefix",
        b"X-Forwarded-Server",
        b"X-HTTP-Method",
        b"Max-Forwards",
        b"Connection",
        b"TE",
        b"X-Request-Id",
        b"X-A",
    ],
)
def test_a_field_that_is_repeated_costs_the_same_each_time(name: bytes) -> None:
    """`max_header_size` can be a mebibyte: 50,000 lines that each copy all earlier lines take many seconds."""
    with cpu_within(1.0):
        FieldRules(IDENTITY).sort([(name, b"x")] * 50_000)


def test_the_values_of_a_repeated_list_field_are_one_list() -> None:
    fields = [(b"X-Forwarded-For", b" 192.0.2.1"), (b"TE", b"trailers"), (b"x-forwarded-for", b"192.0.2.2 ")]
    sorted_ = FieldRules().sort(fields)
    assert (sorted_.forwarded_for, sorted_.te) == (b"192.0.2.1, 192.0.2.2", b"trailers")


@given(st.lists(st.tuples(token, value), max_size=20))
def test_no_kept_name_folds_to_a_reserved_one(fields: list[tuple[bytes, bytes]]) -> None:
    rules = FieldRules([*IDENTITY, "abc"])
    ours = {fold(name.encode()) for name in (*IDENTITY, "abc", "x-request-id", "x-forwarded-for")}
    kept = rules.sort(fields).kept
    assert not [name for name, _ in kept if fold(name) in ours]
    assert [name for name, _ in kept] == [name for name, _ in fields if rules.action(name) == Action.KEEP]
    assert all(value == value.rstrip(b" \t") for _, value in kept)


@given(st.lists(st.tuples(token, value), max_size=20), st.lists(value, max_size=20))
def test_the_lines_of_kept_fields_are_those_of_this_head(
    fields: list[tuple[bytes, bytes]], values: list[bytes]
) -> None:
    rules = FieldRules(IDENTITY)
    others = [(name, other) for (name, _), other in zip(fields, values + [b""] * len(fields), strict=False)]
    for head in (fields, others, fields[:-1]):
        found = rules.sort(head)
        assert found.shape.kept.lines(found.values) == b"".join(b"%b: %b\r\n" % field for field in found.kept)
        assert found.kept == [(name, value.strip()) for name, value in head if rules.action(name) == Action.KEEP]


@given(st.sets(st.text("abcdefgh-_", min_size=3, max_size=20), min_size=1, max_size=50))
def test_the_table_of_spellings_is_bounded_and_decides_the_same_when_it_was_emptied(names: set[str]) -> None:
    rules = FieldRules(IDENTITY)
    before = {name: rules.action(name.encode()) for name in names}
    held = strings_in(rules)
    for number in range(5000):
        rules.action(b"x-%d" % number)
    assert strings_in(rules) <= held + 4096
    assert {name: rules.action(name.encode()) for name in names} == before


def test_members_of_a_list_are_separated_for_any_spacing() -> None:
    assert list_members(b" Close ,\tX-A,, x-b") == (b"close", b"x-a", b"x-b")


def test_a_copy_of_the_fields_of_a_request_has_every_value() -> None:
    derived = {"copy", "kept", "credentials", "forwarding", "conditional"}
    # A compiled class also has descriptors for the attributes that its constructor sets.
    constructed = {"shape", "values"}
    values = {name for name in dir(RequestFields) if not name.startswith("_")} - derived - constructed
    fields = FieldRules(IDENTITY).sort([(b"Accept", b"*/*"), (b"Authorization", b"x"), (b"Forwarded", b"y")])
    for name in values:
        setattr(fields, name, VALUES.get(name, name.encode()))
    copied = fields.copy()
    assert {name: getattr(copied, name) for name in values} == {name: getattr(fields, name) for name in values}
    assert {name: getattr(copied, name) for name in derived - {"copy"}} == {
        name: getattr(fields, name) for name in derived - {"copy"}
    }


VALUES: dict[str, object] = {"hosts": 2, "session_cookies": 4, "authorizations": 3}
