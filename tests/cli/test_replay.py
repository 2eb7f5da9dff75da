"""`gateway replay`: recorded requests under another policy."""

import gzip
import io
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gateway.analysis.replay import Replay
from gateway.policy.loader import load_configuration
from tests.cli.running import Outcome, one_plain_line, run_here
from tests.support.memory import strings_in

CONFIGURATION = """\
roles: {admin: [editor], editor: [], user: []}
upstreams: {web: http://127.0.0.1:9000}
routes:
  - {path: /pages/**, auth: none, upstream: web, name: pages}
  - {path: "/users/{id}", roles: [admin], owner: id, upstream: web, name: users}
  - {path: /drafts/**, roles: [editor], upstream: web, name: drafts}
  - {path: /live, websocket: true, upstream: web, name: live}
  - {path: /app, upstream: web, name: app, cors: {origins: [https://a.example]}}
  - {path: /only, methods: [GET], upstream: web, name: only}
"""
USUAL: dict[str, Any] = {
    "time": "2026-11-22T16:05:16.767Z",
    "request_id": "r1",
    "client": "192.0.2.1",
    "host": "api.example.com",
    "method": "GET",
    "path": "/pages/1",
    "route": "pages",
    "status": 200,
    "code": "",
    "user": "",
    "roles": [],
    "duration_ms": 1.5,
    "received": 0,
    "sent": 5,
}
FORBIDDEN = {"path": "/drafts/1", "route": "drafts", "status": 403, "code": "forbidden"}
EDITOR = {"user": "u7", "roles": ["editor"]}
NOT_SIGNED_IN = {"status": 401, "code": "token_missing"}


def line(**differing: Any) -> str:
    return json.dumps({**USUAL, **differing}) + "\n"


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in USUAL.items() if name not in names}) + "\n"


def replay(folder: Path, log: str, *options: str, text: str = CONFIGURATION) -> Outcome:
    (folder / "new.yaml").write_text(text)
    (folder / "access.log").write_text(log)
    return run_here("replay", "access.log", "--config", "new.yaml", *options, folder=folder)


def document(folder: Path, log: str, text: str = CONFIGURATION) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(replay(folder, log, "--json", text=text).out)
    return found


SAME = {
    "a public page": line(),
    "an owner": line(path="/users/u7", route="users", user="u7"),
    "a user with the role": line(path="/drafts/1", route="drafts", **EDITOR),
    "a user with a role that implies it": line(path="/drafts/1", route="drafts", user="u1", roles=["admin"]),
    "a user without it": line(**FORBIDDEN, user="u2", roles=["user"]),
    "an anonymous caller": line(path="/drafts/1", route="drafts", **NOT_SIGNED_IN),
    "an expired token": line(path="/drafts/1", route="drafts", status=401, code="token_expired", **EDITOR),
    "a session that has ended": line(path="/drafts/1", route="drafts", status=401, code="token_revoked", **EDITOR),
    "a failing upstream": line(path="/drafts/1", route="drafts", status=502, code="upstream_unreachable", **EDITOR),
    "a caller who was too quick": line(path="/drafts/1", route="drafts", status=429, code="rate_limited", **EDITOR),
    "a handshake": line(path="/live", route="live", status=101, **EDITOR),
    "no handshake": line(status=403, code="websocket_not_allowed"),
    "a preflight": line(path="/app", method="OPTIONS", route="app", status=204),
    "nothing there": line(path="/nowhere", route="", status=404, code="no_route"),
    "another method": line(path="/only", method="PUT", route="", status=405, code="method_not_allowed"),
    "a bad path": line(path="/a/%2e%2e/b", route="", status=400, code="bad_path"),
    "without a host": line(host=""),
    "the gateway's own": line(path="/auth/login", method="POST", route="accounts.login", code="invalid_credentials"),
    "metrics for an anonymous caller": line(
        path="/_gateway/metrics", route="operations.metrics", status=403, code="forbidden"
    ),
}


@pytest.mark.parametrize("recorded", SAME.values(), ids=SAME)
def test_recorded_decisions_of_the_same_policy_would_not_change(tmp_path: Path, recorded: str) -> None:
    assert replay(tmp_path, recorded) == (0, "0 of 1 requests would change\n", "")


CHANGED = {
    "let in": (line(**FORBIDDEN, **EDITOR), "forbidden -> allowed"),
    "shut out": (line(path="/drafts/1", route="pages"), "allowed -> unauthenticated"),
    "without the role": (line(path="/drafts/1", route="drafts", user="u2", roles=["user"]), "allowed -> forbidden"),
    "gone": (line(path="/gone", route="gone"), "allowed -> no_route"),
    "another method": (line(path="/only", method="PUT", route="only", **EDITOR), "allowed -> method_not_allowed"),
    "no more handshakes": (line(status=101), "allowed -> websocket_not_allowed"),
    "a path that is refused": (line(path="/pages/%2F"), "allowed -> bad_path"),
    "let in without a token": (line(**NOT_SIGNED_IN), "unauthenticated -> allowed"),
    "another route": (line(route="other"), "'other' -> 'pages': allowed"),
}


@pytest.mark.parametrize(("recorded", "expected"), CHANGED.values(), ids=CHANGED)
def test_changed_decisions_are_reported(tmp_path: Path, recorded: str, expected: str) -> None:
    outcome = replay(tmp_path, recorded)
    group, example, summary = outcome.out.splitlines()
    assert outcome.code == 1
    assert expected in group
    assert example.endswith("request r1")
    assert summary == "1 of 1 requests would change"


def test_requests_to_which_the_same_happens_are_one_group(tmp_path: Path) -> None:
    lines = [line(path=f"/gone/{number}", route="gone", request_id=f"r{number}") for number in range(5)]
    lines += [line(**FORBIDDEN, **EDITOR)] * 2
    assert replay(tmp_path, "".join(lines)).out.splitlines() == [
        "GET     route 'drafts': forbidden -> allowed, 2 requests",
        "        api.example.com/drafts/1 by u7 (roles: editor), request r1",
        "        api.example.com/drafts/1 by u7 (roles: editor), request r1",
        "GET     route 'gone' -> (none): allowed -> no_route, 5 requests",
        "        api.example.com/gone/0 by an anonymous caller, request r0",
        "        api.example.com/gone/1 by an anonymous caller, request r1",
        "        api.example.com/gone/2 by an anonymous caller, request r2",
        "7 of 7 requests would change",
    ]


UNREADABLE = {
    "text": ("16:05 GET /pages/1 200\n", "it is not JSON"),
    "half a line": (line()[:50] + "\n", "it is not JSON"),
    "another document": ("[1, 2]\n", "it is not a line of the access log"),
    "a number": ("7\n", "it is not a line of the access log"),
    "an older version's": (
        without("host", "roles"),
        "it has no ",
    ),
    "no path": (without("path"), "it has no path"),
    "a path that is a number": (line(path=7), "it is not a line of the access log"),
    "roles that are none": (line(roles=[["a"]]), "it is not a line of the access log"),
    "a path that is cut off": (
        line(path="/" + "a" * 1023, route="", status=404, code="no_route"),
        "its path is cut off",
    ),
    "bytes": ("\udcff\n", "it is not JSON"),
}


@pytest.mark.parametrize(("recorded", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_line_that_cannot_be_read_is_counted_and_never_fatal(tmp_path: Path, recorded: str, why: str) -> None:
    (tmp_path / "new.yaml").write_text(CONFIGURATION)
    (tmp_path / "access.log").write_bytes((line() + recorded + line()).encode("utf-8", "surrogateescape"))
    outcome = run_here("replay", "access.log", "--config", "new.yaml", folder=tmp_path)
    report, summary = outcome.out.splitlines()
    assert report.startswith(f"line 2 was not replayed: {why}")
    assert (outcome.code, summary) == (0, "0 of 2 requests would change; 1 lines could not be read")


def test_undecided_requests_and_other_lines_are_counted_apart(tmp_path: Path) -> None:
    log = line(status=503, code="storage_unavailable", route="drafts") + '{"decision":"refused"}\n\n' + line()
    found = document(tmp_path, log)
    counts = {name: found[name] for name in ("lines", "replayed", "changed", "undecided", "other_lines", "unreadable")}
    assert counts == {
        "lines": 4,
        "replayed": 1,
        "changed": 0,
        "undecided": 1,
        "other_lines": 2,
        "unreadable": 0,
    }


def test_a_program_reads_groups_with_examples(tmp_path: Path) -> None:
    (change,) = document(tmp_path, line(**FORBIDDEN, **EDITOR))["changes"]
    assert change == {
        "method": "GET",
        "old_route": "drafts",
        "new_route": "drafts",
        "old": "forbidden",
        "new": "allowed",
        "count": 1,
        "examples": [
            {"request_id": "r1", "host": "api.example.com", "path": "/drafts/1", "user": "u7", "roles": ["editor"]}
        ],
    }


def test_a_log_may_be_compressed_or_come_from_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(CONFIGURATION)
    log = (line() + line(path="/gone", route="gone")).encode()
    (tmp_path / "access.log.gz").write_bytes(gzip.compress(log))
    compressed = run_here("replay", "access.log.gz", "--config", "new.yaml", folder=tmp_path)
    with mock.patch("gateway.cli.replay.sys.stdin", io.TextIOWrapper(io.BytesIO(log))):
        (tmp_path / "access.log").write_bytes(log)
        plain = run_here("replay", "access.log", "--config", "new.yaml", folder=tmp_path)
    assert (compressed.code, compressed.out) == (1, plain.out)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("missing.log", None, "No such file or directory"),
        ("broken.log.gz", b"no gzip at all", "Not a gzipped file (b'no')"),
        ("cut.log.gz", gzip.compress(line().encode() * 99)[:-12], "Compressed file ended before"),
    ],
)
def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    (tmp_path / "new.yaml").write_text(CONFIGURATION)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = run_here("replay", name, "--config", "new.yaml", folder=tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"gateway: cannot read the access log {name}: {why}")


def test_text_of_clients_reaches_no_terminal_unescaped(tmp_path: Path) -> None:
    outcome = replay(tmp_path, line(path="/gone\x1b[31m", route="gone", request_id="\x07"))
    assert outcome.out.replace("\n", "").isprintable()


def test_the_number_of_groups_is_bounded_for_any_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.analysis.replay.MOST_GROUPS", 5)
    monkeypatch.setattr("gateway.analysis.replay.MOST_REMEMBERED", 7)
    (tmp_path / "new.yaml").write_text(CONFIGURATION)
    replayed = Replay(load_configuration(tmp_path / "new.yaml", {}))
    for number in range(50):
        replayed.line(line(path="/gone", route=f"gone{number}", method=f"M{number}").encode())
    held = strings_in(replayed)
    for number in range(50, 100):
        replayed.line(line(path="/gone", route=f"gone{number}", method=f"M{number}").encode())
    assert sum(change.count for change in replayed.report.changes.values()) == 100
    assert len(replayed.report.changes) <= 6
    assert strings_in(replayed) <= held + 7 * len(json.loads(line()))


# ---- files that are not access logs

NGINX = '192.0.2.1 - - [10/Oct/2026:13:55:36 +0000] "GET /pages/1 HTTP/1.1" 200 612 "-" "curl/8"'
CADDY = '{"level":"info","ts":1.5,"logger":"http.log.access","request":{"method":"GET","uri":"/"},"status":200}'
TRAEFIK = '{"ClientAddr":"192.0.2.1:1","DownstreamStatus":200,"RequestMethod":"GET","RequestPath":"/"}'
FOREIGN = {
    "nginx": (NGINX, "it is in the common log format"),
    "Caddy": (CADDY, "it is a line of Caddy's access log"),
    "Traefik": (TRAEFIK, "it is a line of Traefik's access log"),
    "Docker": (json.dumps({"log": line(), "stream": "stdout"}), "Docker has wrapped it"),
    "another program": ('{"message": "started", "host": "web-1", "path": "/"}', "it is not a line of the access log"),
    "text": ("listening on http://127.0.0.1:8000", "it is not JSON"),
    "docker compose": ("gateway-1  | " + line(), "text precedes the record; 'docker compose logs --no-log-prefix'"),
    "Kubernetes": ("2026-11-30T04:15:23Z stdout F " + line(), "text precedes the record"),
    "journald": ("Nov 30 04:15:23 host gateway[12]: " + line(), "text precedes the record"),
    "a byte order mark": ("\ufeff" + line(), "it begins with a byte order mark (U+FEFF)"),
    "endless brackets": ("[" * 100_000, "it is nested too deeply"),
    "NULs": ("\x00\x00\x00", "it is binary"),
}


@pytest.mark.parametrize(("text", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_a_log_of_another_program_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    for options in ([], ["--json"]):
        outcome = replay(tmp_path, f"\n{text}\n" * 5, *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert f"has no line of the gateway's JSON access log (line 2: {reason}" in one_plain_line(outcome.err)


def test_a_compressed_log_with_another_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(CONFIGURATION)
    (tmp_path / "access.log").write_bytes(gzip.compress(line().encode() * 100))
    outcome = run_here("replay", "access.log", "--config", "new.yaml", folder=tmp_path)
    assert outcome.code == 2
    assert "it is binary (a compressed log ends in .gz)" in one_plain_line(outcome.err)


@pytest.mark.parametrize(
    ("log", "reason"),
    [("", "is empty"), ("\n\n", "has no requests"), ('{"decision": "allowed"}\n', "has no requests")],
)
def test_a_log_without_requests_is_refused(tmp_path: Path, log: str, reason: str) -> None:
    outcome = replay(tmp_path, log)
    assert outcome.code == 2
    assert f"the access log access.log {reason}" in one_plain_line(outcome.err)


def test_foreign_lines_among_requests_are_counted(tmp_path: Path) -> None:
    outcome = replay(tmp_path, line() + NGINX + "\n")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "line 2 was not replayed: it is in the common log format, as nginx, Apache and Traefik write it",
        "0 of 1 requests would change; 1 lines could not be read",
    ]


SESSIONS = """\
server: {public_url: "https://api.example.com"}
sessions: {}
upstreams: {web: http://127.0.0.1:9000}
routes:
  - {path: /orders, upstream: web, name: orders, fresh: 10m, credentials: [session, token]}
  - {path: /pages, upstream: web, name: pages}
"""
ORDER = {"path": "/orders", "route": "orders", "user": "u7"}


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"credential": "token", "acr": "aal1", "age": 600}, None),
        ({"credential": "token", "acr": "aal1", "age": 601}, "reauthentication_required"),
        ({"credential": "session", "acr": "aal1", "age": 5, "method": "POST"}, None),
        ({"credential": "api_key", "acr": ""}, "credential_not_allowed"),
        ({}, None),
    ],
)
def test_a_line_contains_the_credential_and_the_age_of_its_sign_in(
    tmp_path: Path, members: dict[str, Any], code: str | None
) -> None:
    outcome = replay(tmp_path, line(**ORDER, **members), "--json", text=SESSIONS)

    changes = json.loads(outcome.out)["changes"]
    assert [each["new"] for each in changes] == ([] if code is None else [code]), outcome.out


@pytest.mark.parametrize("code", ["cross_site", "credential_not_allowed", "reauthentication_required"])
def test_a_refusal_of_a_credential_is_not_decided_again(tmp_path: Path, code: str) -> None:
    outcome = replay(tmp_path, line(**ORDER, status=403, code=code), "--json", text=SESSIONS)

    assert json.loads(outcome.out)["undecided"] == 1
