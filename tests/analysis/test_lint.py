"""Warnings about a policy as a whole: each with configurations that cause it, and similar ones that do not."""

from pathlib import Path
from textwrap import dedent

import pytest

from gateway.analysis.lint import lint
from gateway.policy.loader import load_configuration
from gateway.settings.checks import WARNINGS
from gateway.settings.loader import read_settings

TOP = """\
upstreams: # gateway: allow unused-upstream
  # gateway: allow unused-upstream
  web: http://127.0.0.1:9000
  far: http://10.0.0.1:9000 # gateway: allow unused-upstream
accounts: {registration: closed}
"""
OWN_ROLES = "roles: {admin: [editor], editor: [], user: []}\n"

# The name of the warning, text that causes it (the line is marked by <<<), and text that does not.
CASES = {
    "weaker-method: no verified address": (
        """
        routes:
          - {path: /site/**, methods: [GET], verified: true, upstream: web}
          - {path: /site/**, methods: [POST], upstream: web} # <<<
        """,
        """
        routes:
          - {path: /site/**, methods: [GET], upstream: web}
          - {path: /site/**, methods: [POST], verified: true, fresh: 5m, upstream: web}
        """,
    ),
    "weaker-method: more kinds of credentials": (
        """
        routes:
          - {path: "/site/{a}", methods: [GET], credentials: [token], upstream: web}
          - {path: "/site/{b}", methods: [DELETE], credentials: [token, api_key], fresh: 5m, upstream: web} # <<<
        """,
        """
        routes:
          - {path: "/site/{a}", methods: [GET], credentials: [token, api_key], upstream: web}
          - {path: "/site/{b}", methods: [DELETE], credentials: [token], upstream: web}
          - {path: /other, methods: [POST], upstream: web}
        """,
    ),
    "fresh-on-read": (
        """
        routes:
          - {path: /site/**, fresh: 5m, upstream: web} # <<<
        """,
        """
        routes:
          - {path: /site/**, methods: [GET], upstream: web}
          - {path: /site/**, methods: [POST], fresh: 5m, upstream: web}
        """,
    ),
    "open-beside-restricted: another case": (
        """
        routes:
          - {path: /site/**, auth: none, upstream: web} # <<<
          - {path: /site/admin/**, roles: [admin], upstream: web}
        """,
        """
        routes:
          - {path: /site/**, auth: none, upstream: far}
          - {path: /site/admin/**, roles: [admin], upstream: web}
        """,
    ),
    "open-beside-restricted: dots at the end": (
        """
        routes:
          - {path: "/site/{page}", auth: none, upstream: web} # <<<
          - {path: /site/7, upstream: web}
        """,
        """
        routes:
          - {path: "/site/{page}", upstream: web}
          - {path: /site/7, upstream: web}
        """,
    ),
    "open-beside-restricted: a capture before it": (
        """
        routes:
          - {path: "/a/**", auth: none, upstream: web} # <<<
          - {path: "/a/{x}/b", roles: [admin], upstream: web}
        """,
        """
        routes:
          - {path: "/a/**", upstream: web}
          - {path: "/a/{x}/b", roles: [admin], upstream: web}
        """,
    ),
    "undeclared-role": (
        """
        routes:
          - {path: /site/**, roles: [edtior], upstream: web} # <<<
        """,
        """
        roles: {editor: []}
        routes:
          - {path: /site/**, roles: [editor], upstream: web}
        accounts: {registration: closed, admin_role: editor, default_roles: [editor]}
        """,
    ),
    "unused-role": (
        """
        roles:
          admin: [editor]
          editor: []
          auditor: [] # <<<
          user: []
        routes:
          - {path: /site/**, roles: [editor], upstream: web}
        """,
        """
        roles:
          admin: [auditor]
          auditor: []
          chief: [admin]
          user: []
        routes:
          - {path: /site/**, roles: [auditor], upstream: web}
        """,
    ),
    "unreachable-route": (
        """
        routes:
          - {path: /a/**, methods: [DELETE], upstream: web} # <<<
          - {path: /a, methods: [GET], upstream: web}
          - {path: "/a/{x}/**", methods: [GET], upstream: web}
        """,
        """
        routes:
          - {path: /a/**, methods: [DELETE], upstream: web}
          - {path: /a, methods: [GET], upstream: web}
          - {path: "/a/{x}/{y}/**", methods: [GET], upstream: web}
        """,
    ),
    "owner-not-an-id": (
        """
        routes:
          - {path: "/pages/{title}", owner: title, upstream: web} # <<<
        """,
        """
        routes:
          - {path: "/pages/{userId}", owner: userId, upstream: web}
          - {path: "/books/{owner_id}", owner: owner_id, upstream: web}
        """,
    ),
    "websocket-on-public-route": (
        """
        routes:
          - {path: /live, auth: optional, websocket: true, upstream: web} # <<<
        """,
        """
        routes:
          - {path: /live, methods: [GET], auth: optional, websocket: true, upstream: web, cors: {origins: [https://a.example]}}
          - {path: /own, websocket: true, upstream: web}
        """,
    ),
    "credentials-in-clear": (
        """
        routes:
          - {path: /a, upstream: far, forward_credentials: true} # <<<
        """,
        """
        routes:
          - {path: /a, upstream: web, forward_credentials: true}
          - {path: /b, upstream: far}
        """,
    ),
    "limit-by-proxy-address": (
        """
        server: {public_url: https://api.example.com}
        routes:
          - {path: /a, upstream: web, rate_limit: {requests: 5, per: 1m, by: address}} # <<<
        """,
        """
        server: {public_url: https://api.example.com, trusted_proxies: [10.0.0.0/8]}
        routes:
          - {path: /a, upstream: web, rate_limit: {requests: 5, per: 1m, by: address}}
        """,
    ),
    "session-outlives-key": (
        """
        storage: {database: "sqlite:///:memory:"}
        tokens: {refresh_ttl: 30d} # <<<
        routes: []
        """,
        """
        tokens: {refresh_ttl: 30d}
        routes: []
        """,
    ),
    "open-registration": (
        """
        routes:
          - {path: /a, auth: none, upstream: web}
          - {path: /b, roles: [staff, user], upstream: web} # <<<
          - {path: /c, upstream: web}
        roles: {admin: [], staff: [admin], user: []} # gateway: allow unused-role
        accounts: {password: {min_length: 15}}
        """,
        """
        routes:
          - {path: /a, auth: optional, upstream: web}
          - {path: /b, roles: [admin], upstream: web}
          - {path: "/c/{user_id}", owner: user_id, upstream: web}
          - {path: /d, roles: {all: [admin, user]}, upstream: web}
        accounts: {password: {min_length: 15}}
        """,
    ),
    "open-registration: written": (
        """
        routes:
          - {path: /a, upstream: web}
        accounts:
          registration: open # <<<
        """,
        """
        routes:
          - {path: /a, upstream: web}
        accounts:
          registration: closed
        """,
    ),
    "own-paths-hide: everything": (
        """
        routes:
          - {path: /**, auth: none, upstream: web} # <<<
        """,
        """
        routes:
          - {path: /, auth: none, upstream: web}
          - {path: /authors/**, auth: none, upstream: web}
        """,
    ),
    "own-paths-hide: a login of the upstream": (
        """
        accounts: {registration: closed, prefix: /id}
        routes:
          - {path: /id/**, auth: none, upstream: web} # <<<
        """,
        """
        accounts: {registration: closed, prefix: /id}
        routes:
          - {path: /auth/**, auth: none, upstream: web}
        """,
    ),
    "foreign-pattern: Flask": (
        """
        routes:
          - {path: "/a/<int:id>/b", upstream: web} # <<<
        """,
        """
        routes:
          - {path: "/a/{id}/b", upstream: web}
        """,
    ),
    "foreign-pattern: Express": (
        """
        routes:
          - {path: "/a/:id", upstream: web} # <<<
        """,
        """
        routes:
          - {path: "/a/b:purge", upstream: web}
          - {path: "/v1/12:30", upstream: web}
        """,
    ),
    "empty-roles": (
        """
        routes: []
        # <<<
        roles:
        #  admin: [editor]
        """,
        """
        routes: []
        """,
    ),
    "host-hides-routes": (
        """
        routes:
          - {path: /a, upstream: web}
          - {path: /a, host: a.example, upstream: web} # <<<
          - {path: /a, host: b.example, upstream: web}
        """,
        """
        routes:
          - {path: /a, host: a.example, upstream: web}
          - {path: /a, host: b.example, upstream: web}
        """,
    ),
    "target-is-gateway: an address of this machine": (
        """
        server: {port: 9000}
        routes: [{path: /a, upstream: here}]
        upstreams:
          here: {targets: [http://127.0.0.1:9001, "http://[::1]:9000"]} # <<<
        """,
        """
        server: {port: 9000}
        routes: [{path: /a, upstream: here}]
        upstreams:
          here: {targets: [http://127.0.0.1:9001, http://10.0.0.1:9000]}
        """,
    ),
    "target-is-gateway: the address of the listener": (
        """
        server: {host: 10.0.0.1, port: 9000, hosts: [a.example]}
        routes: [{path: /a, upstream: here}]
        upstreams:
          here: http://10.0.0.1:9000 # <<<
        """,
        """
        server: {host: 10.0.0.1, port: 9000, hosts: [a.example]}
        routes: [{path: /a, upstream: here}, {path: /b, upstream: socket}]
        upstreams:
          here: http://localhost:9000
          socket: unix:/run/app.sock
        """,
    ),
    "any-host: every address": (
        """
        server:
          host: 0.0.0.0 # <<<
        routes: [{path: /a, upstream: web}]
        """,
        """
        server: {host: 0.0.0.0, hosts: ["*.example.com"]}
        routes: [{path: /a, upstream: web}]
        """,
    ),
    "any-host: a name": (
        """
        server: {host: app.internal, hosts: []} # <<<
        routes: [{path: /a, upstream: web}]
        """,
        """
        server: {host: localhost}
        routes: [{path: /a, upstream: web}]
        """,
    ),
    "unreachable-route: a host that is not served": (
        """
        server: {hosts: [a.example, "*.b.example"]}
        routes:
          - {path: /a, host: b.example, upstream: web} # <<<
        """,
        """
        server: {hosts: [a.example, "*.b.example"]}
        routes:
          - {path: /a, host: a.example, upstream: web}
          - {path: /a, host: x.y.b.example, upstream: web}
        """,
    ),
    "cors-without-content-type": (
        """
        routes:
          - {path: /a, upstream: web, cors: {origins: [https://a.example], headers: [X-Trace]}} # <<<
        """,
        """
        routes:
          - {path: /a, upstream: web, methods: [GET], cors: {origins: [https://a.example]}}
          - {path: /b, upstream: web, cors: {origins: [https://a.example], headers: [content-type]}}
          - {path: /c, upstream: web, cors: {origins: [https://a.example], headers: ["*"]}}
          - {path: /d, upstream: web, cors: {origins: [https://a.example], methods: [GET]}}
        """,
    ),
}


def warned(folder: Path, text: str) -> list[tuple[str, int]]:
    """The name and the line of each warning about the policy."""
    path = folder / "gateway.yaml"
    path.write_text(text)
    return [(warning.code, warning.line) for warning in lint(load_configuration(path, {}))]


def marked(text: str) -> int:
    """The marked line, or the line below a mark on its own line."""
    number, line = next((number, line) for number, line in enumerate(text.splitlines(), 1) if "# <<<" in line)
    return number + (line.strip() == "# <<<")


def complete(case: str) -> str:
    """A case with upstreams, and with closed registration, unless it sets these itself."""
    top = TOP.replace("accounts: {registration: closed}\n", "") if "accounts:" in case else TOP
    return (top[top.index("accounts:") :] if "upstreams:" in case else top) + dedent(case)


@pytest.mark.parametrize("case", CASES)
def test_each_warning_is_reported_at_its_line(tmp_path: Path, case: str) -> None:
    text = complete(CASES[case][0])
    assert warned(tmp_path, text) == [(case.partition(":")[0], marked(text))]


@pytest.mark.parametrize("case", CASES)
def test_similar_configurations_without_the_defect_get_no_warning(tmp_path: Path, case: str) -> None:
    assert warned(tmp_path, complete(CASES[case][1])) == []


@pytest.mark.parametrize("case", CASES)
def test_a_comment_beside_the_line_silences_it(tmp_path: Path, case: str) -> None:
    name = case.partition(":")[0]
    text = complete(CASES[case][0])
    assert warned(tmp_path, text.replace("# <<<", f"# gateway: allow {name}")) == []
    assert warned(tmp_path, text.replace("# <<<", "# gateway: allow unused-upstream")) != []


def test_an_unused_upstream_is_reported(tmp_path: Path) -> None:
    text = "upstreams:\n  web: http://127.0.0.1:9000\n  old: http://127.0.0.1:9001\n"
    text += "routes: [{path: /a, auth: none, upstream: web}]\n"
    assert warned(tmp_path, text) == [("unused-upstream", 3)]


@pytest.mark.parametrize("shadow", ["true", "false"])
def test_a_shadow_rule_shadows_nothing_and_is_unreachable(tmp_path: Path, shadow: str) -> None:
    text = TOP + "routes:\n  - {path: /a/**, auth: none, upstream: web}\n"
    text += f"  - {{path: /a/admin, upstream: web, shadow: {shadow}}}\n"
    assert bool(warned(tmp_path, text)) == (shadow == "false")


def test_every_warning_of_the_policy_is_tried_here() -> None:
    names = [*WARNINGS]
    of_policy = set(names[names.index("open-beside-restricted") :]) - {"unused-upstream"}
    assert {case.partition(":")[0] for case in CASES} == of_policy


@pytest.mark.parametrize(
    ("comment", "silenced"),
    [
        ("min_length: 4 # gateway: allow short-passwords", True),
        ("min_length: 4 #gateway:allow short-passwords", True),
        ("min_length: 4 # gateway: allow few-bcrypt-rounds, short-passwords", True),
        ("min_length: 4 # gateway: allow few-bcrypt-rounds", False),
        ("# gateway: allow short-passwords\n    min_length: 4", True),
        ("# gateway: allow short-passwords\n\n    # why: legacy\n    min_length: 4", True),
        ("min_length: 4\n    # gateway: allow short-passwords", False),
        ('min_length: !!str "4 # gateway: allow short-passwords"', False),
        ("min_length: 4# gateway: allow short-passwords", False),
    ],
)
def test_a_comment_counts_beside_its_line_or_above_it(tmp_path: Path, comment: str, silenced: bool) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"accounts:\n  password:\n    {comment}\n    bcrypt_rounds: 12\nroutes: []\n")
    draft = read_settings(path, {})
    left = {warning.code for warning in draft.warnings} | {"problem" for _ in draft.problems}
    assert left <= ({"short-passwords", "problem"} if not silenced else set())
    assert bool(left) == (not silenced)


@pytest.mark.parametrize(
    "text",
    [
        'tokens: {issuer: "ü # gateway: allow short-passwords", audience: x}',
        "tokens:\n  issuer: |\n    a # gateway: allow short-passwords\n  audience: x",
        "tokens:\n  issuer: 'a\n    # gateway: allow short-passwords'\n  audience: x",
    ],
    ids=["quotes", "a block", "several lines"],
)
def test_text_like_a_comment_inside_of_a_value_is_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway.yaml"
    password = "accounts: {password: {min_length: 4}}"
    path.write_text(f"{text}\n{password}\nroutes: []\n")
    assert [warning.code for warning in read_settings(path, {}).warnings] == ["short-passwords"]
    assert read_settings(path, {}).sketch.places.allowed == {}


def test_a_comment_that_names_no_warning_is_one(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("routes: [] # gateway: allow short-pasword\n")
    (warning,) = read_settings(path, {}).warnings
    assert (warning.line, warning.column, warning.code) == (1, 29, "unknown-allow")
    assert warning.message == "'short-pasword' is not a warning (did you mean short-passwords?)"


def test_an_upstream_is_named_once_for_open_routes_beside_restricted_ones(tmp_path: Path) -> None:
    routes = "".join(f"  - {{path: /site/{name}/**, roles: [admin], upstream: web}}\n" for name in ("a", "b", "c"))
    text = f"{TOP}routes:\n  - {{path: /site/**, auth: none, upstream: web}}\n{routes}"
    assert [name for name, _ in warned(tmp_path, text)] == ["open-beside-restricted"]


def test_the_example_of_a_warning_is_a_path_that_requests_can_have(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(complete(CASES["open-beside-restricted: a capture before it"][0]))
    (warning,) = lint(load_configuration(path, {}))
    assert "takes '/a/x/B' to the upstream of route" in warning.message
    assert "'# gateway: allow open-beside-restricted'" in warning.message
