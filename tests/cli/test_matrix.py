"""`gateway matrix`: the same table for terminals, reviews, spreadsheets and programs."""

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.running import Outcome, run_here

FILE = """\
upstreams: {web: "http://127.0.0.1:9000"}
roles: {admin: [editor], editor: [], "a|b": []}
routes:
  - {path: "/articles/**", methods: [GET], auth: none, upstream: web, name: read}
  - {path: "/articles/**", methods: [PUT, POST], roles: [editor], upstream: web}
  - {path: "/users/{id}", host: api.example, owner: id, roles: {all: [editor, "a|b"]}, upstream: web}
  - {path: "/shadow", shadow: true, upstream: web}
"""


def show(folder: Path, *words: str) -> Outcome:
    (folder / "g.yaml").write_text(FILE)
    outcome = run_here("matrix", "--config", "g.yaml", *words, folder=folder)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def test_a_person_sees_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        show(tmp_path).out
        == """\
route                   anonymous  signed in  admin  editor  a|b
GET /articles/**        yes        yes        yes    yes     yes
POST,PUT /articles/**   -          -          yes    yes     -
api.example/users/{id}  -          own        (1)    (1)     (2)

yes: allowed   -: refused
own: only the user whose id is in the path
(1): owner, or with a|b
(2): owner, or with editor
"""
    )


@pytest.mark.parametrize("columns", [30, 40, 52, 60, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table, _ = show(tmp_path, "--own").out.split("\nyes: allowed")
    assert max(map(len, table.splitlines())) <= max(columns, 24 + 2 + len("anonymous"))
    heads = [line.split("  ") for line in table.splitlines() if line.startswith("route ")]
    assert [name.strip() for head in heads for name in head[1:] if name.strip()] == [
        "anonymous", "signed in", "admin", "editor", "a|b",
    ]  # fmt: skip


def test_a_review_sees_markdown(tmp_path: Path) -> None:
    assert (
        show(tmp_path, "--format", "markdown").out
        == """\
| route | anonymous | signed in | admin | editor | a\\|b |
|---|---|---|---|---|---|
| `GET /articles/**` | yes | yes | yes | yes | yes |
| `POST,PUT /articles/**` | no | no | yes | yes | no |
| `api.example/users/{id}` | no | owner | owner, or with a\\|b | owner, or with a\\|b | owner, or with editor |
"""
    )


def test_a_spreadsheet_reads_csv(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(show(tmp_path, "--format", "csv").out)))
    assert rows[1] == {
        "route": "PUT,POST /articles/**",
        "methods": "POST PUT",
        "host": "",
        "path": "/articles/**",
        "file": "g.yaml",
        "line": "5",
        "anonymous": "no",
        "signed in": "no",
        "admin": "yes",
        "editor": "yes",
        "a|b": "no",
    }
    assert [row["route"] for row in rows] == ["read", "PUT,POST /articles/**", "api.example/users/{id}"]


def test_a_program_reads_json(tmp_path: Path) -> None:
    table = json.loads(show(tmp_path, "--format", "json").out)
    assert table["roles"] == ["admin", "editor", "a|b"]
    last = table["routes"][-1]
    assert (last["name"], last["line"], last["owner"], last["all"]) == (
        "api.example/users/{id}",
        6,
        "id",
        ["a|b", "editor"],
    )
    assert last["access"]["signed_in"] == {"access": "owner", "owner": True, "needs_all": [], "needs_any": []}
    assert last["access"]["roles"]["a|b"] == {
        "access": "together", "owner": True, "needs_all": ["editor"], "needs_any": [],
    }  # fmt: skip


def test_own_endpoints_are_shown_where_they_are_asked_for(tmp_path: Path) -> None:
    def names(*words: str) -> list[str]:
        return [route["name"] for route in json.loads(show(tmp_path, "--format", "json", *words).out)["routes"]]

    assert "accounts.me" not in names()
    assert "accounts.me" in names("--own")


def picture(folder: Path, *words: str) -> ElementTree.Element:
    (folder / "after.yaml").write_text(FILE.replace("roles: [editor], upstream", 'roles: ["a|b"], upstream'))
    return ElementTree.fromstring(show(folder, "--format", "svg", *words).out)


def texts(drawing: ElementTree.Element, style: str) -> list[str | None]:
    return [each.text for each in drawing.iter() if style in each.get("class", "").split()]


def test_a_picture_has_a_sign_and_words_in_each_cell(tmp_path: Path) -> None:
    drawing = picture(tmp_path)
    assert texts(drawing, "path") == ["GET /articles/**", "POST,PUT /articles/**", "api.example/users/{id}"]
    cells = texts(drawing, "t-yes") + texts(drawing, "t-no") + texts(drawing, "t-part")
    assert sorted(map(str, cells)) == sorted(
        ["✓ yes"] * 7 + ["– no"] * 4 + ["◐ own", "+ a|b, or own", "+ a|b, or own", "+ editor, or own"]
    )


def test_a_picture_of_a_change_marks_the_changed_cells(tmp_path: Path) -> None:
    drawing = picture(tmp_path, "--against", "after.yaml")
    assert len(texts(drawing, "mark")) == 3, "admins, editors, and a|b"
    assert texts(drawing, "old") == ["– no", "– no", "✓ yes"]
    assert texts(drawing, "bold") == ["✓ yes", "✓ yes", "– no"]


def test_a_comparison_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(FILE)
    outcome = run_here("matrix", "--config", "g.yaml", "--against", "g.yaml", folder=tmp_path)
    assert outcome.code == 2
    assert "gateway diff" in outcome.err


def test_names_in_a_picture_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(FILE.replace("a|b", "<b>&").replace("/shadow", "/x"))
    outcome = run_here("matrix", "--config", "g.yaml", "--format", "svg", folder=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "<b>&" in texts(ElementTree.fromstring(outcome.out), "mid")
