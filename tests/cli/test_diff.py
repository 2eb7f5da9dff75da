"""`gateway diff`: output for people, for reviews, and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Outcome, run_here

TOP = """\
upstreams: {web: http://127.0.0.1:9000, api: http://127.0.0.1:9001}
roles: {admin: [editor], editor: [], lead: []}
routes:
"""
USERS = '  - {path: "/users/{id}", roles: [admin], owner: id, upstream: web}\n'
ME = "  - {path: /users/me, methods: [GET], upstream: web}\n"
PAGES = "  - {path: /pages/**, auth: none, upstream: web}\n"
SOCKETS = "  - {path: /live, upstream: web, websocket: false}\n"
KEPT = '  - {path: "/files/{name}", upstream: web, encoded_slash: reject}\n'
NARROW = 'server: {hosts: ["*.example.com", a.example.org]}\n'
WIDE = 'server: {hosts: ["*.com", b.a.example.com, a.example.org, "[::1]"]}\n'
HOST = "  - {path: /**, host: api.example.com, upstream: api}\n"


def diff(folder: Path, old: str, new: str, *options: str) -> Outcome:
    (folder / "old.yaml").write_text(TOP + old)
    (folder / "new.yaml").write_text(TOP + new)
    return run_here("diff", "old.yaml", "new.yaml", *options, folder=folder)


def entries(folder: Path, old: str, new: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(diff(folder, old, new, "--json").out)["differences"]
    return found


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (USERS + PAGES, PAGES + USERS, 0),
        (USERS, USERS + ME, 1),
        (USERS + PAGES, USERS, 0),
        (PAGES, PAGES.replace("web", "api"), 0),
        (SOCKETS, SOCKETS.replace("false", "true"), 1),
        (SOCKETS.replace("false", "true"), SOCKETS, 0),
        (KEPT, KEPT.replace("reject", "keep"), 1),
        (USERS, USERS.replace("[admin]", "[editor]"), 1),
        (USERS.replace("[admin]", "[editor]"), USERS, 0),
        (USERS, USERS + "server: {paths: relaxed}\n", 1),
        (USERS + "server: {paths: relaxed}\n", USERS, 0),
        (USERS, USERS + "accounts: {prefix: /account}\n", 1),
        (USERS + NARROW, USERS + WIDE, 1),
        (USERS + NARROW, USERS, 1),
        (USERS + WIDE, USERS + NARROW, 0),
        (USERS, USERS + NARROW, 0),
    ],
    ids=[
        *("another order", "a more specific route", "a route less", "another upstream", "sockets", "no sockets"),
        *("encoded slashes", "more roles", "fewer roles", "relaxed paths", "strict paths", "another prefix"),
        *("a host more", "every host", "a host less", "only some hosts"),
    ],
)
def test_the_exit_code_shows_whether_access_opens(tmp_path: Path, old: str, new: str, code: int) -> None:
    for options in ((), ("--json",), ("--format", "markdown"), ("--format", "json")):
        assert diff(tmp_path, old, new, *options).code == code


def test_a_file_that_cannot_be_used_is_no_answer(tmp_path: Path) -> None:
    outcome = diff(tmp_path, USERS, USERS.replace("web", "wbe"))
    assert outcome.code == 2
    assert "new.yaml:4:64: routes[0].upstream: 'wbe' is not defined" in outcome.err


def test_a_more_specific_route_takes_paths_over(tmp_path: Path) -> None:
    assert diff(tmp_path, USERS, USERS + ME).out.splitlines() == [
        "opens   GET /users/me",
        "        opens for any signed-in user",
        "        was   role admin, or the user {id}, by route '/users/{id}' in line 4",
        "        now   any signed-in user, by route 'GET /users/me' in line 5",
        "        such as  GET /users/me",
        "closes  all methods but GET /users/me",
        "        closes for role admin; the user {id}",
        "        was   role admin, or the user {id}, by route '/users/{id}' in line 4",
        "        now   no caller (405)",
        "        such as  POST /users/me",
        "opens 1, closes 1",
    ]


def test_a_review_comment_is_a_table(tmp_path: Path) -> None:
    assert diff(tmp_path, PAGES, PAGES.replace("web", "api"), "--format", "markdown").out == (
        "### Policy: moves 1\n\n"
        "| | requests | callers | was | now |\n"
        "|---|---|---|---|---|\n"
        "| **moves** | `all methods /pages/**` | upstream: web → api | everyone, by route '/pages/\\*\\*' in line 4 "
        "| everyone, by route '/pages/\\*\\*' in line 4 |\n"
    )


def test_the_json_lists_the_callers_that_gain_access(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, USERS, USERS.replace("[admin]", "{all: [editor, lead]}").replace("owner: id, ", ""))
    assert (entry["path"], entry["methods"], entry["host"]) == ("/users/{id}", None, None)
    assert entry["opens"] == [{"kind": "requests", "callers": [{"roles": ["editor", "lead"]}]}]
    assert entry["closes"] == [{"kind": "requests", "callers": [{"roles": ["admin"]}, {"owner_of_segment": 2}]}]
    assert entry["old"] == {
        "route": "/users/{id}",
        "line": 4,
        "code": None,
        "who": "role admin, or the user {id}",
    }
    assert entry["new"]["who"] == "roles editor and lead"


def test_changes_that_open_nothing_are_listed(tmp_path: Path) -> None:
    (entry,) = entries(
        tmp_path,
        PAGES,
        PAGES.replace("none,", "optional, strip_prefix: /pages, max_body: 1MiB, response_timeout: 5s,"),
    )
    assert (entry["opens"], entry["closes"], entry["moves"]) == ([], [], None)
    assert entry["changes"] == [
        {"key": "path sent on", "old": "unchanged", "new": "strip_prefix: /pages"},
        {"key": "auth", "old": "none", "new": "optional"},
        {"key": "forward_credentials", "old": "true", "new": "false"},
        {"key": "max_body", "old": "that of the server", "new": "1MiB"},
        {"key": "response_timeout", "old": "that of the upstream", "new": "5s"},
    ]


def test_naming_a_host_takes_its_requests_from_the_routes_without_one(tmp_path: Path) -> None:
    found = entries(tmp_path, PAGES, PAGES + HOST)
    pages = next(entry for entry in found if entry["closes"])
    assert (pages["host"], pages["path"]) == ("api.example.com", "/pages/**")
    rest = next(entry for entry in found if entry["opens"])
    assert (rest["host"], rest["path"], rest["old"]["who"]) == ("api.example.com", "/**", "no caller (404)")


def test_changes_outside_of_single_requests_are_listed(tmp_path: Path) -> None:
    moved = PAGES + "accounts: {default_roles: []}\n"
    outcome = diff(tmp_path, PAGES, moved)
    assert outcome.out.splitlines() == [
        "also different, but not compared: accounts.default_roles",
        "no difference for requests",
    ]
    report = json.loads(diff(tmp_path, PAGES, moved, "--json").out)
    assert (report["also"], report["opens"]) == (["accounts.default_roles"], False)


def test_an_upstream_that_leads_elsewhere_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(TOP + PAGES + USERS)
    (tmp_path / "new.yaml").write_text((TOP + PAGES + USERS).replace("9000", "9009"))
    outcome = run_here("diff", "old.yaml", "new.yaml", folder=tmp_path)
    assert outcome.out.splitlines() == [
        "moves   upstream web: http://127.0.0.1:9000 -> http://127.0.0.1:9009",
        "no difference for requests",
    ]


def test_hosts_that_open_and_close_are_named(tmp_path: Path) -> None:
    shown = diff(tmp_path, USERS + NARROW, USERS + WIDE).out
    assert "opens   server.hosts: *.com, [::1]\n" in shown
    assert "closes" not in shown
    found = json.loads(diff(tmp_path, USERS + WIDE, USERS, "--json").out)
    assert (found["opened_hosts"], found["closed_hosts"]) == (["every host"], [])
    assert json.loads(diff(tmp_path, USERS, USERS + NARROW, "--json").out)["closed_hosts"] == ["every host"]
