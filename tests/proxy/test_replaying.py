"""Replay the gateway's own log: under its own policy nothing changes, under another one the differences are found."""

import itertools
from pathlib import Path

from gateway.analysis.replay import Group, Replay, ReplayReport
from gateway.policy.loader import load_configuration
from tests.support.gateways import Gateways
from tests.support.processes import Account, Face, Gateway
from tests.support.waiting import eventually
from tests.support.wording import request

PATHS = ("/public/a", "/api/x?token=1", "/optional/x", "/editors/x", "/admin/x", "/nowhere", "/auth/me", "/a/%2e%2e/b")


def replayed(gateway: Gateway, policy: Path, count: int) -> ReplayReport:
    def lines() -> list[bytes]:
        written = (line for line in gateway.log().splitlines() if line.startswith("{"))
        return [line.encode() for line in written if "/_gateway/" not in line]

    eventually(lambda: len(lines()) >= count)
    replay = Replay(load_configuration(policy))
    for line in lines():
        replay.line(line)
    return replay.report


def test_logged_decisions_would_not_change_under_the_same_policy(
    gateways: Gateways, face: Face, user: Account, admin: Account
) -> None:
    gateway = gateways.gateway("replayed", face, observability={"access_log": "json"})
    callers = ((), (user.line,), (admin.line,), (b"Authorization: Bearer nonsense",))
    for path, fields, method in itertools.product(PATHS, callers, ("GET", "DELETE")):
        gateway.ask(request(path, method=method, fields=fields, host="Api.Example.COM"), method=method)
    report = replayed(gateway, gateway.config, len(PATHS) * len(callers) * 2)
    assert report.changes == {}
    assert report.lost == 0
    assert report.replayed >= len(PATHS) * len(callers) * 2


def test_differences_of_another_policy_are_found(gateways: Gateways, face: Face, user: Account, tmp_path: Path) -> None:
    gateway = gateways.gateway("replayed-otherwise", face, observability={"access_log": "json"})
    assert gateway.get("/public/a").status == 200
    assert gateway.get("/admin/x", user.line).status == 403
    text = "upstreams: {web: http://127.0.0.1:9000}\nroutes:\n  - {path: /admin/**, upstream: web, name: now-open}\n"
    (tmp_path / "new.yaml").write_text(text)
    report = replayed(gateway, tmp_path / "new.yaml", 2)
    changes = {(group.old, group.new): group for group in report.changes}
    assert ("allowed", "no_route") in changes
    forbidden = changes["forbidden", "allowed"]
    assert forbidden == Group("GET", forbidden.old_route, "now-open", "forbidden", "allowed")
