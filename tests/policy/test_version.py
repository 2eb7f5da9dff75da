"""The policy version: equal for equal policies, different for different ones."""

import re
from pathlib import Path

import pytest

from gateway.policy.loader import load_configuration
from gateway.policy.version import policy_version

BASE = """\
roles: {admin: [editor, user], editor: [], user: []}
upstreams: {web: http://127.0.0.1:9000, api: "${API:-http://127.0.0.1:9001}"}
routes:
  - {path: /a, roles: [editor, user], methods: [GET], upstream: web}
  - {path: /b/**, auth: none, upstream: api}
"""
SAME = {
    "comments and space": BASE.replace("routes:", "# what is served\n\nroutes:   # here"),
    "the order of routes": "".join(sorted(BASE.splitlines(keepends=True)[3:], reverse=True)).join(
        ["".join(BASE.splitlines(keepends=True)[:3]), ""]
    ),
    "the order of keys": BASE.replace("path: /a, roles: [editor, user]", "roles: [user, editor], path: /a"),
    "the order of roles": BASE.replace("[editor, user], editor: []", "[user, editor], editor: []"),
    "another notation": BASE.replace("{path: /b/**, auth: none,", '{"path": "/b/**", "auth": "none",'),
    "a default that is written": BASE.replace("auth: none,", "auth: none, websocket: false,"),
    "a key of its own": BASE + "tokens: {access_ttl: 5m}\n",
    "another port": BASE + "server: {port: 9999}\n",
    "another database": BASE + "storage: {database: 'sqlite:///other.db'}\n",
}
OTHER = {
    "a path": BASE.replace("/a", "/aa"),
    "a role": BASE.replace("[editor, user], methods", "[editor], methods"),
    "what a role implies": BASE.replace("editor: []", "editor: [user]"),
    "a method": BASE.replace("[GET]", "[GET, POST]"),
    "who may": BASE.replace("none", "optional"),
    "an upstream": BASE.replace("upstream: api", "upstream: web"),
    "a target": BASE.replace("9000", "9009"),
    "a shadow rule": BASE.replace("auth: none,", "auth: none, shadow: true,"),
    "a limit": BASE.replace("auth: none,", "auth: none, max_body: 1MiB,"),
    "paths": BASE + "server: {paths: relaxed}\n",
    "own endpoints": BASE + "accounts: {prefix: /account}\n",
    "administrators": BASE + "accounts: {admin_role: editor}\n",
    "sessions": BASE + "server: {public_url: 'https://a.example.com'}\nsessions: {}\n",
    "fresh": BASE.replace("[editor, user], methods", "[editor, user], fresh: 5m, methods"),
}


def version(folder: Path, text: str, **environment: str) -> str:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return policy_version(load_configuration(path, environment).settings)


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_changes_without_effect_keep_the_version(tmp_path: Path, text: str) -> None:
    assert text != BASE
    assert version(tmp_path, text) == version(tmp_path, BASE)


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_changes_of_the_policy_change_the_version(tmp_path: Path, text: str) -> None:
    assert version(tmp_path, text) != version(tmp_path, BASE)


def test_the_environment_takes_precedence(tmp_path: Path) -> None:
    assert version(tmp_path, BASE, API="http://127.0.0.1:9002") != version(tmp_path, BASE)
    assert version(tmp_path, BASE, API="http://127.0.0.1:9001") == version(tmp_path, BASE)


def test_a_version_is_twelve_hexadecimal_digits_that_stay_the_same(tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{12}", version(tmp_path, BASE))
    assert version(tmp_path, BASE) == "e74492221e2a"
