"""`gateway explain`: output for people and for programs, and the choice of the caller."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Outcome, run, run_here

FILE = """\
upstreams:
  web: http://127.0.0.1:9000
  orders: {targets: [http://127.0.0.1:9001, http://127.0.0.1:9002]}
accounts: {password: {bcrypt_rounds: 4}}
roles: {admin: [editor], editor: [user], user: []}
routes:
  - path: /articles/**
    methods: [POST]
    roles: [editor]
    upstream: web
    name: write
  - {path: "/articles/{id}", auth: optional, upstream: web}
  - path: /users/{user_id}/orders/**
    owner: user_id
    upstream: orders
    rewrite: /of/{user_id}/{**}
  - {path: /live, auth: none, websocket: true, upstream: web, cors: {origins: [https://app.example]}}
  - {path: /only, auth: none, host: api.example, upstream: web}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "g.yaml").write_text(FILE)
    return tmp_path


def explain(folder: Path, *words: str) -> Outcome:
    return run_here("explain", "--config", "g.yaml", *words, folder=folder)


def document(folder: Path, *words: str) -> dict[str, Any]:
    answer = json.loads(explain(folder, "--json", *words).out)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("GET /articles/7 --anonymous", 0),
        ("POST /articles/7/x", 1),
        ("POST /articles --role admin", 0),
        ("POST /articles --role user --role editor", 0),
        ("GET /users/u1/orders/7 --user u1 --role user", 0),
        ("GET /users/u1/orders/7 --user u2 --role user", 1),
        ("GET /nowhere", 1),
        ("GET /articles/%2e%2e/x", 1),
        ("GET https://api.example/only", 0),
        ("GET https://api.example/live", 1),
        ("GET ws://localhost/live", 0),
        ("GET /live --websocket --origin https://evil.example", 1),
        ("PUT /live --origin https://app.example --preflight", 0),
        ("GET *", 1),
        ("GET articles", 2),
        ("get /articles", 2),
        ("CONNECT /articles", 2),
        ("GET /articles --anonymous --role user", 2),
        ("PUT /live --preflight", 2),
        ("PUT /live --websocket", 2),
    ],
)
def test_the_exit_code_is_the_answer(folder: Path, words: str, code: int) -> None:
    assert explain(folder, *words.split()).code == code


def test_a_person_reads_the_whole_way_to_the_decision(folder: Path) -> None:
    assert explain(folder, "POST", "/articles/7", "--role", "admin").out.splitlines() == [
        "request     POST /articles/7",
        "caller      a signed-in user",
        "roles       admin, editor (by admin), user (by admin > editor)",
        "path        /articles/7",
        "considered  won  /articles/{id}  g.yaml:12:5",
        "            lost write  g.yaml:7:5",
        "                 segment 2: {id} goes before /**",
        "route       /articles/{id}  g.yaml:12:5",
        "capture     id = 7",
        "asks        nothing, but the identity of a signed-in user is passed on",
        "upstream    web: POST /articles/7",
        "            at http://127.0.0.1:9000",
        "            X-User-Roles: admin,editor,user",
        "decision    allowed: the route is open to everyone, and the upstream receives the user's identity",
    ]


def test_a_refusal_is_shown_with_code_and_reason(folder: Path) -> None:
    *_, asks, decision = explain(folder, "POST", "/articles").out.splitlines()
    assert asks == "asks        the role editor"
    assert decision == "decision    refused 403 forbidden: needs one of the roles editor; the caller has no role"


def test_a_refused_path_is_shown_with_its_reason_and_without_control_characters(folder: Path) -> None:
    out = explain(folder, "GET", "/a\x1b[31m\u202eb").out
    assert "request     GET /a\\x1b[31m\\xe2\\x80\\xaeb" in out
    assert "refused 400 bad_path: a control character" in out
    assert "\x1b" not in out


def test_a_role_that_the_file_does_not_declare_is_marked(folder: Path) -> None:
    assert "roles       edtior (not declared)" in explain(folder, "GET", "/articles/7", "--role", "edtior").out


def test_a_program_reads_the_same(folder: Path) -> None:
    assert document(folder, "GET", "https://h.example/users/u1/orders/%37?x=1", "--user", "u1", "--role", "admin") == {
        "request": {
            "method": "GET",
            "host": "h.example",
            "target": "/users/u1/orders/%37?x=1",
            "origin": None,
            "websocket": False,
            "preflight": False,
            "fetch_site": None,
        },
        "path": "/users/u1/orders/7",
        "caller": {
            "anonymous": False,
            "id": "u1",
            "email": None,
            "state": "active",
            "roles": [
                {"role": "admin", "by": []},
                {"role": "editor", "by": ["admin"]},
                {"role": "user", "by": ["admin", "editor"]},
            ],
        },
        "credential": {"kind": "token", "counts": True},
        "proof": None,
        "acr": "aal1",
        "age": 0.0,
        "email_verified": True,
        "candidates": [
            {"route": "/users/{user_id}/orders/**", "file": "g.yaml", "line": 13, "won": True, "reason": None}
        ],
        "route": {
            "name": "/users/{user_id}/orders/**",
            "path": "/users/{user_id}/orders/**",
            "host": None,
            "methods": None,
            "own": False,
            "file": "g.yaml",
            "line": 13,
            "column": 5,
            "authentication": "required",
            "any": None,
            "all": None,
            "owner": "user_id",
            "credentials": None,
            "fresh": None,
            "verified": False,
            "same_origin": False,
        },
        "captures": {"user_id": "u1"},
        "limit": None,
        "page_may_read": None,
        "decision": {
            "allowed": True,
            "status": None,
            "code": None,
            "reason": "the caller is the user whose id is in the capture 'user_id'",
        },
        "navigation": None,
        "upstream": {
            "name": "orders",
            "targets": ["http://127.0.0.1:9001", "http://127.0.0.1:9002"],
            "target": "/of/u1/7?x=1",
            "identity": {"X-User-Id": "u1", "X-User-Roles": "admin,editor,user"},
        },
        "shadow": None,
    }


def test_limits_that_only_a_running_gateway_counts_are_listed(folder: Path) -> None:
    limited = (
        FILE + "  - {path: /limited, auth: none, upstream: web, rate_limit: {requests: 5, per: 60s, by: address}}\n"
    )
    (folder / "g.yaml").write_text(limited)
    assert (
        "limit       5 requests per 1m, by address; a running gateway counts them"
        in explain(folder, "GET", "/limited").out
    )
    assert document(folder, "GET", "/limited")["limit"] == {"requests": 5, "per": "1m", "by": "address"}


@pytest.mark.parametrize(
    ("words", "readable"),
    [
        ("GET /live", None),
        ("GET /live --origin https://app.example", True),
        ("GET /live --origin https://APP.example", True),
        ("GET /live --origin https://evil.example", False),
        ("GET /articles/7 --origin https://app.example", False),
        ("GET /nowhere --origin https://app.example", None),
        ("GET ws://h/live --origin https://app.example", None),
    ],
)
def test_whether_a_page_may_read_the_response_is_shown(folder: Path, words: str, readable: bool | None) -> None:
    assert document(folder, *words.split())["page_may_read"] is readable
    lines = [line for line in explain(folder, *words.split()).out.splitlines() if line.startswith("page ")]
    expected = {True: ["page        may read the answer"], None: []}
    assert lines == expected.get(readable, ["page        browsers keep the answer from it: cors does not list it"])


def test_nothing_is_known_of_a_refused_path(folder: Path) -> None:
    answer = document(folder, "GET", "//x", "--anonymous")
    assert (answer["path"], answer["route"], answer["candidates"], answer["upstream"]) == (None, None, [], None)
    assert answer["decision"] == {"allowed": False, "status": 400, "code": "bad_path", "reason": "an empty segment"}
    assert answer["caller"]["anonymous"] is True


# ---- real accounts


@pytest.fixture
def accounts(folder: Path) -> Path:
    made = run_here(
        "users", "create", "ann@example.com", "--role", "editor", "--config", "g.yaml", "--password-stdin",
        folder=folder, stdin="correct horse battery\n",
    )  # fmt: skip
    assert made.code == 0, made.err
    return folder


def test_a_real_account_is_read_by_its_address_or_its_id(accounts: Path) -> None:
    by_address = document(accounts, "POST", "/articles", "--user", "Ann@Example.com")
    caller = by_address["caller"]
    assert (caller["email"], caller["state"]) == ("ann@example.com", "active")
    assert [held["role"] for held in caller["roles"]] == ["editor", "user"]
    assert by_address["decision"]["allowed"] is True
    assert document(accounts, "POST", "/articles", "--user", caller["id"]) == by_address
    mine = document(accounts, "GET", f"/users/{caller['id']}/orders/1", "--user", "ann@example.com")
    assert mine["decision"]["allowed"] is True


def test_a_disabled_account_cannot_sign_in_but_passes_public_routes(accounts: Path) -> None:
    assert run_here("users", "disable", "ann@example.com", "--config", "g.yaml", folder=accounts).code == 0
    refused = document(accounts, "POST", "/articles", "--user", "ann@example.com")
    assert (refused["caller"]["state"], refused["decision"]["code"]) == ("disabled", "user_inactive")
    assert document(accounts, "GET", "/articles/7", "--user", "ann@example.com")["upstream"]["identity"] == {}


@pytest.mark.parametrize("who", ["nobody@example.com", "no-such-id", "@"])
def test_a_missing_account_is_reported_clearly(accounts: Path, who: str) -> None:
    outcome = explain(accounts, "POST", "/articles", "--user", who)
    assert outcome.code == 1
    assert f"caller      {who}: unknown account, treated as deleted" in outcome.out
    assert "refused 401 user_inactive" in outcome.out


def test_a_subject_of_another_issuer_is_hypothetical(folder: Path) -> None:
    outcome = explain(folder, "GET", "/users/idp%7Csub/orders/7", "--user", "idp|sub")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(
        "gateway: idp|sub is of another issuer and has no account here; give its roles with --role"
    )
    assert explain(folder, "GET", "/users/idp%7Csub/orders/7", "--user", "idp|sub", "--role", "user").code == 0


def test_no_database_is_made_where_there_is_none(folder: Path) -> None:
    outcome = explain(folder, "POST", "/articles", "--user", "ann@example.com")
    assert outcome.code == 2
    assert outcome.err.startswith(f"gateway: the database file {folder / 'gateway.db'} does not exist")
    assert sorted(path.name for path in folder.iterdir()) == ["g.yaml"]


def test_neither_keys_nor_a_database_are_needed(folder: Path) -> None:
    assert run("explain", "--config", "g.yaml", "GET", "/live", "--anonymous", folder=folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["g.yaml"]


def test_the_decision_of_a_shadow_rule_is_shown(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "upstreams: {web: http://127.0.0.1:9000}\nroutes:\n  - {path: /a/**, auth: none, upstream: web}\n"
        "  - {path: /a/b, roles: [admin], upstream: web, shadow: true, name: tried}\n"
    )
    outcome = run_here("explain", "--config", "g.yaml", "GET", "/a/b", "--anonymous", folder=tmp_path)
    assert outcome.code == 0
    assert "rule tried would refuse it: 401 token_missing" in outcome.out.splitlines()[-1]
    shadow = json.loads(run_here("explain", "--config", "g.yaml", "GET", "/a/b", "--json", folder=tmp_path).out)[
        "shadow"
    ]
    assert (shadow["route"]["name"], shadow["allowed"], shadow["code"]) == ("tried", False, "forbidden")
