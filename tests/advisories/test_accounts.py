"""F. Accounts: the inputs of registration and login, and the information they reveal."""

import ast
import shutil
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import bcrypt
import pytest

import gateway as package
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.raw import Answer
from tests.support.wording import request

INVALID = (401, "invalid_credentials")


def login(gateway: Gateway, email: str, password: str) -> Answer:
    return gateway.post("/auth/login", {"email": email, "password": password})


def register(gateway: Gateway, email: Any, password: Any = PASSWORD, **more: Any) -> Answer:
    return gateway.post("/auth/register", {"email": email, "password": password} | more)


def fields_of(answer: Answer) -> set[str]:
    """The fields named by a 422."""
    assert answer.refused() == (422, "invalid_fields"), (answer.status, answer.body)
    return {error["field"] for error in answer.json()["errors"]}


def fresh(name: str = "f") -> str:
    return f"{name}{time.time_ns()}@example.com"


# ---- CVE-2025-22228, CVE-2025-68402: bcrypt reads 72 bytes


@pytest.mark.parametrize("password", ["a" * 73, "a" * 72 + "X", "ñ" * 40, "ñ" * 36 + "a", "🐎" * 19, "a" * 5000])
def test_CVE_2025_22228_a_password_beyond_72_bytes_is_refused_not_cut(gateway: Gateway, password: str) -> None:
    answer = register(gateway, fresh(), password)
    assert fields_of(answer) == {"password"}
    assert "72 bytes" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("password", ["a" * 72, "ñ" * 36, "🐎" * 18])
def test_CVE_2025_22228_and_every_byte_up_to_72_counts(gateway: Gateway, password: str) -> None:
    email = fresh()
    assert register(gateway, email, password).status == 201
    assert login(gateway, email, password).status == 200
    for wrong in (password[:-1], password[:-1] + "X", password + "X", password + "Y"):
        assert login(gateway, email, wrong).refused() == INVALID


def test_passwords_are_compared_in_one_normal_form(gateway: Gateway) -> None:
    email = fresh()
    assert register(gateway, email, "pa\u0308sswo\u0308rd").status == 201
    assert login(gateway, email, "p\u00e4ssw\u00f6rd").status == 200
    assert register(gateway, fresh(), "a\u0308" * 36).status == 201  # 108 bytes as sent, 72 after NFC


@pytest.mark.parametrize("password", ["long enough\0", "\0" * 10, "abcdefgh\0ijkl"])
def test_a_password_with_a_nul_is_refused(gateway: Gateway, password: str) -> None:
    assert fields_of(register(gateway, fresh(), password)) == {"password"}
    assert login(gateway, "user@example.com", PASSWORD + "\0").refused()[0] in (401, 422)


@pytest.mark.parametrize("password", ["", "1234567", None, 12345678, ["long enough"], {"a": "b"}, True, "\ud800" * 8])
def test_a_password_that_is_none_is_refused(gateway: Gateway, password: Any) -> None:
    assert fields_of(register(gateway, fresh(), password)) == {"password"}


# ---- GHSA-6f65-4fv2-wwch: user enumeration


def test_GHSA_6f65_4fv2_wwch_unknown_and_known_users_get_the_same_bytes(gateway: Gateway) -> None:
    def bare(answer: Answer) -> tuple[Any, ...]:
        body = answer.json()
        assert body.pop("request_id")
        fields = sorted(
            (name.lower(), value) for name, value in answer.fields if name.lower() not in (b"date", b"x-request-id")
        )
        return answer.status, answer.head.reason, fields, body, len(answer.body)

    seen = [
        bare(login(gateway, email, "wrong password"))
        for email in (
            "user@example.com",
            "nobody@example.com",
            "admin@example.com",
            "disabled@example.com",
            "x@y.example",
        )
    ]
    for one in seen[1:]:
        assert one == seen[0]
    assert seen[0][0] == 401
    assert seen[0][3]["detail"] == "Invalid email or password"
    assert (b"www-authenticate", b"Bearer") in [(n, v[:6]) for n, v in seen[0][2]]


def test_GHSA_6f65_4fv2_wwch_and_take_the_same_time(gateways: Gateways, tmp_path: Path) -> None:
    """A coarse comparison with an expensive hash: without one, the response for an unknown user would be ten times as
    fast. bench/accounts measures the difference. A busy machine can spoil a comparison, but hardly ten in a row. One
    server is enough: both call the same code between a request and its response."""
    configuration = changed(gateways.configuration(tmp_path), accounts={"password": {"bcrypt_rounds": 9}})
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        known = gateway.newcomer().email
        seen = []
        for _ in range(10):
            there, absent = _login_times(gateway, known, "nobody@example.com")
            assert min(there, absent) > 0.01, "too fast for a comparison of hashes"
            seen.append(abs(there - absent) / max(there, absent))
            if seen[-1] <= 0.25:
                return
        raise AssertionError(f"known and unknown users differ by {seen}")
    finally:
        gateway.stop()


STORED = {
    "as configured": bcrypt.gensalt(7),
    "before the rounds were raised": bcrypt.gensalt(4),
    "imported": bcrypt.gensalt(6, prefix=b"2a"),
    "before the rounds were lowered": bcrypt.gensalt(8),
    "disabled": bcrypt.gensalt(5),
}


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="/proc/self/schedstat is missing")
def test_GHSA_6f65_4fv2_wwch_and_cost_the_same_for_any_cost_of_the_stored_hash(
    gateways: Gateways, tmp_path: Path
) -> None:
    """CPU time, interleaved: other processes hardly change the ratio. Without the extra work it is 10. One server is
    enough, as above."""
    configuration = changed(gateways.configuration(tmp_path), accounts={"password": {"bcrypt_rounds": 7}})
    shutil.copy(gateways.seed(), tmp_path / "gateway.db")
    hashes = {kind.replace(" ", "-"): bcrypt.hashpw(b"secret", salt).decode() for kind, salt in STORED.items()}
    hashes["unusable"] = "!"
    columns = "id, email, canonical, password_hash, is_active, version, created_at"
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as connection, connection:
        for kind, stored in hashes.items():
            email = f"{kind}@example.net"
            values = (kind, email, email, stored, kind != "disabled")
            connection.execute(f"INSERT INTO users ({columns}) VALUES (?, ?, ?, ?, ?, 1, 0)", values)
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        assert login(gateway, "first@example.net", "wrong").refused() == INVALID  # imports the validator of addresses
        spent = dict.fromkeys((*hashes, "unknown"), 0.0)
        for number in range(4):
            for kind in spent if number % 2 else reversed(spent):
                before = gateway.cpu_seconds()
                assert login(gateway, f"{kind}@example.net", f"wrong {number}").refused() == INVALID
                spent[kind] += gateway.cpu_seconds() - before
        assert max(spent.values()) < 2 * min(spent.values()), spent
        assert login(gateway, "imported@example.net", "secret").status == 200
    finally:
        gateway.stop()


def _login_times(gateway: Gateway, *emails: str) -> list[float]:
    """The median seconds of a refused login for each address, with interleaved attempts."""
    times: dict[str, list[float]] = {email: [] for email in emails}
    for number in range(6):
        for email in emails if number % 2 else reversed(emails):
            started = time.perf_counter()
            assert login(gateway, email, f"wrong password {number}").status in (401, 429)
            times[email].append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times.values()]


def test_a_disabled_account_is_reported_only_with_its_password(gateway: Gateway) -> None:
    assert login(gateway, "disabled@example.com", "wrong password").refused() == INVALID
    answer = login(gateway, "disabled@example.com", PASSWORD)
    assert answer.refused() == (403, "account_disabled")
    assert answer.json()["detail"] == "Account is disabled"


def test_a_disabled_accounts_good_token_is_of_no_use(gateway: Gateway, user: Account) -> None:
    """The token was issued while the account was active; activity comes from the record."""
    account = gateway.newcomer()
    gateway.command("users", "disable", account.email)
    assert gateway.get("/api/x", account.line).refused() in ((401, "user_inactive"), (200, None))
    assert login(gateway, account.email, PASSWORD).refused() == (403, "account_disabled")


# ---- CVE-2026-47203, CVE-2026-40574: addresses


@pytest.mark.parametrize("variant", ["{0}", " {0}", "{0} ", "\t{0}\n", "{1}", "{2}"])
def test_CVE_2026_47203_spellings_of_one_address_are_one_account(gateway: Gateway, variant: str) -> None:
    address = fresh("Bob")
    assert register(gateway, address).status == 201
    other = variant.format(address, address.upper(), address.lower())
    answer = register(gateway, other)
    assert answer.refused() == (400, "email_taken")
    assert answer.json()["detail"] == "Email already registered"
    assert login(gateway, other, PASSWORD).status == 200


def test_CVE_2026_47203_composed_and_decomposed_letters_are_one_address(gateway: Gateway) -> None:
    """Both are refused, or both are the same address."""
    stem = str(time.time_ns())
    first = register(gateway, f"zo\u00eb{stem}@example.com")
    second = register(gateway, f"zoe\u0308{stem}@example.com")
    assert (first.status, second.status) in ((422, 422), (201, 400)), (first, second)


ODD_ADDRESSES: list[Any] = [
    "attacker@evil.com@company.com",
    '"quoted"@example.com',
    '"a@b"@example.com',
    "a@example\u3002com",
    "a@example\uff0ecom",
    "a@example.com.",
    "a@.example.com",
    "a@example..com",
    ".a@example.com",
    "a.@example.com",
    "a..b@example.com",
    "a@",
    "@example.com",
    "a",
    "",
    "a b@example.com",
    "a@exam ple.com",
    "a@example.com, b@example.com",
    "a@example.com;b@example.com",
    "A <a@example.com>",
    "<a@example.com>",
    "a@example.com\r\nX: y",
    "a\n@example.com",
    "a\0@example.com",
    "a@example.com\0",
    "a(comment)@example.com",
    "a@[127.0.0.1]",
    "mailto:a@example.com",
    "a\u202e@example.com",
    "a@-example.com",
    "a" * 65 + "@example.com",
    "a@" + "b" * 250 + ".com",
    None,
    7,
    ["a@example.com"],
    {"a": "b"},
]


@pytest.mark.parametrize("address", ODD_ADDRESSES)
def test_CVE_2026_40574_only_plain_single_addresses_are_accepted(gateway: Gateway, address: Any) -> None:
    assert fields_of(register(gateway, address)) == {"email"}


# ---- mass assignment, and invalid bodies


@pytest.mark.parametrize(
    "more",
    [
        {"roles": ["admin"]},
        {"is_superuser": True},
        {"is_active": True},
        {"id": "1"},
        {"role": "admin"},
        {"created_at": 0},
        {"x": 1},
    ],
)
def test_mass_assignment_is_refused_and_never_obeyed(gateway: Gateway, more: dict[str, Any]) -> None:
    email = fresh()
    assert fields_of(register(gateway, email, **more)) == set(more)
    assert login(gateway, email, PASSWORD).refused() == INVALID
    account = gateway.register(email)
    me = gateway.get("/auth/me", account.line).json()
    more_fields = {"email_verified", "has_password", "second_factors"}
    assert set(me) == {"id", "email", "is_active", "roles", "created_at"} | more_fields
    assert (me["email"], me["is_active"], me["roles"]) == (email, True, ["user"])


def test_every_wrong_field_is_named_at_once(gateway: Gateway) -> None:
    assert fields_of(register(gateway, "x", "y", roles=[])) == {"email", "password", "roles"}
    assert fields_of(gateway.post("/auth/register", {})) == {"email", "password"}


@pytest.mark.parametrize("endpoint", ["/auth/register", "/auth/login"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"x"', b"7", b"\xff\xfe{}", b"[" * 20000, b"{}{}", b'{"email":"a@b.example",',
     b'{"email": "a@example.com", "password": "' + b"x" * 70000 + b'"}'],
)  # fmt: skip
def test_a_malformed_body_is_refused_with_a_clear_message(gateway: Gateway, endpoint: str, body: bytes) -> None:
    answer = gateway.post(endpoint, body)
    assert answer.refused() in (
        (400, "bad_request"), (422, "invalid_fields"), (413, "body_too_large"), (415, "unsupported_media_type"),
    ), answer  # fmt: skip


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", None])
def test_a_body_of_another_media_type_is_refused(gateway: Gateway, kind: str | None) -> None:
    """Pages of other sites can send these without a preflight, so they must not sign in."""
    body = b'{"email": "user@example.com", "password": "correct horse battery"}'
    fields = [f"Content-Type: {kind}"] if kind else []
    for endpoint in ("/auth/register", "/auth/login"):
        answer = gateway.ask(request(endpoint, method="POST", fields=fields, body=body))
        assert answer.refused()[0] in (400, 415, 422), answer


def test_a_form_signs_in_by_username_and_password(gateway: Gateway) -> None:
    fields = ["Content-Type: application/x-www-form-urlencoded"]
    body = b"grant_type=password&username=user%40example.com&password=correct+horse+battery"
    answer = gateway.ask(request("/auth/login", method="POST", fields=fields, body=body))
    assert answer.status == 200, answer
    wrong = body.replace(b"horse", b"cow")
    assert gateway.ask(request("/auth/login", method="POST", fields=fields, body=wrong)).refused() == INVALID


# ---- password changes require the current password


def test_a_password_is_changed_only_with_the_current_one(gateway: Gateway) -> None:
    account = gateway.newcomer()
    wrong = {"current_password": "not this one", "new_password": "another good password"}
    assert gateway.post("/auth/password", wrong, account.line).status in (400, 401, 403)
    assert gateway.post("/auth/password", wrong).refused() == (401, "token_missing")
    good = wrong | {"current_password": account.password}
    for bad in ("short", "x" * 73, "nul\0nul\0nul"):
        assert fields_of(gateway.post("/auth/password", good | {"new_password": bad}, account.line)) == {"new_password"}
    assert gateway.login(account.email).id == account.id
    assert gateway.post("/auth/password", good, account.line).status == 204
    assert login(gateway, account.email, account.password).refused() == INVALID
    assert gateway.login(account.email, "another good password").id == account.id


# ---- CVE-2024-21495: predictable randomness


def test_CVE_2024_21495_nothing_is_drawn_from_a_predictable_source() -> None:
    root = Path(package.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)) if "random" in text else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "random" not in names, f"{path} imports random: use secrets"


def test_CVE_2024_21495_refresh_tokens_are_long_and_never_the_same(gateway: Gateway) -> None:
    seen = {login(gateway, "user@example.com", PASSWORD).json()["refresh_token"] for _ in range(5)}
    assert len(seen) == 5
    assert all(len(one) >= 22 for one in seen)  # 128 bits in base64url
