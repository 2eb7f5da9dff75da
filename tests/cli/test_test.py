"""`gateway test`: output for people, for programs and for CI."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli.running import ROOT, Outcome, run_here

FILE = """\
upstreams: {web: "http://127.0.0.1:9000"}
routes:
  - {path: "/articles/**", methods: [GET], auth: none, upstream: web, name: read}
  - {path: "/articles/**", methods: [PUT], roles: [editor], upstream: web, name: write}
"""
GOOD = "- {name: readers, as: anonymous, allow: [GET /articles/7], deny: [PUT /articles/7]}\n"
BAD = """\
- name: "writers <&>"
  as: {roles: [user]}
  allow:
    - PUT /articles/7
  deny:
    - GET /nowhere -> 404
"""


def gateway_test(folder: Path, *words: str, **files: str) -> Outcome:
    (folder / "g.yaml").write_text(FILE)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return run_here("test", "--config", "g.yaml", *words, folder=folder)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["good.yaml"], 0),
        (["good.yaml", "--min-coverage", "100"], 0),
        (["half.yaml", "--min-coverage", "50"], 0),
        (["half.yaml", "--min-coverage", "51"], 1),
        (["half.yaml", "good.yaml", "--min-coverage", "100"], 0),
        (["bad.yaml"], 1),
        (["good.yaml", "bad.yaml"], 1),
        (["bad.yaml", "--json"], 1),
        (["missing.yaml"], 2),
        (["broken.yaml"], 2),
        (["good.yaml", "broken.yaml"], 2),
        (["g.yaml"], 2),
        ([], 2),
    ],
)
def test_the_exit_code_is_the_answer(tmp_path: Path, words: list[str], code: int) -> None:
    half = "- {name: readers, as: anonymous, allow: [GET /articles/7]}\n"
    outcome = gateway_test(tmp_path, *words, good=GOOD, half=half, bad=BAD, broken="- {name: it}")
    assert outcome.code == code, outcome


def test_one_line_reports_that_all_tests_passed(tmp_path: Path) -> None:
    outcome = gateway_test(tmp_path, "good.yaml", good=GOOD)
    assert outcome.out == "1 test, 2 requests: all as expected; 2 of 2 routes touched (100.0%)\n"


def test_a_failure_comes_with_its_place_and_the_explanation(tmp_path: Path) -> None:
    lines = gateway_test(tmp_path, "bad.yaml", bad=BAD).out.splitlines()
    assert lines == [
        "FAILED bad.yaml:4:7: writers <&>: PUT /articles/7",
        "  expected    allowed",
        "  found       refused with 403 forbidden by the route write",
        "  request     PUT /articles/7",
        "  caller      a signed-in user",
        "  roles       user",
        "  path        /articles/7",
        "  considered  won  write  g.yaml:4:5",
        "              lost read  g.yaml:3:5",
        "                   serves GET, HEAD, not PUT",
        "  route       write  g.yaml:4:5",
        "  asks        the role editor",
        "  decision    refused 403 forbidden: needs one of the roles editor; the caller has the roles user",
        "",
        "no test touched 1 route:",
        "  read  g.yaml:3:5",
        "",
        "1 test, 2 requests: 1 not as expected; 1 of 2 routes touched (50.0%)",
    ]


def test_too_little_coverage_is_reported(tmp_path: Path) -> None:
    outcome = gateway_test(tmp_path, "bad.yaml", "--min-coverage", "99.5", bad=BAD)
    assert outcome.out.endswith("1 of 2 routes touched (50.0%, less than 99.5%)\n")


def test_folders_are_gone_through_in_order(tmp_path: Path) -> None:
    (tmp_path / "tests/deeper").mkdir(parents=True)
    for name in ("tests/b", "tests/a", "tests/deeper/c"):
        (tmp_path / f"{name}.yaml").write_text("- {name: it}")
    (tmp_path / "tests/notes.txt").write_text("no test")
    found = gateway_test(tmp_path, "tests", "tests/a.yaml").err.splitlines()
    assert [line.partition(":")[0] for line in found if line.startswith("tests") and ".as:" in line] == [
        "tests/a.yaml", "tests/b.yaml", "tests/deeper/c.yaml",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert gateway_test(tmp_path, "empty").err == "gateway: no .yaml file in the folder empty\n"


def test_a_bad_file_is_reported_with_all_problems_and_nothing_is_tested(tmp_path: Path) -> None:
    outcome = gateway_test(tmp_path, "broken.yaml", "good.yaml", good=GOOD, broken="- {name: it, deny: [GET]}")
    *problems, summary = outcome.err.splitlines()
    assert [line.split(": ")[0] for line in problems] == ["broken.yaml:1:3", "broken.yaml:1:21"]
    assert summary == "gateway: the tests have 2 problems; nothing was tested"
    assert outcome.out == ""


def test_a_program_reads_the_same(tmp_path: Path) -> None:
    answer: dict[str, Any] = json.loads(gateway_test(tmp_path, "bad.yaml", "--json", bad=BAD).out)
    (failure,) = answer.pop("failures")
    assert answer == {
        "fine": False,
        "tests": 1,
        "requests": 2,
        "coverage": {"routes": 2, "percent": 50.0, "untouched": [{"route": "read", "file": "g.yaml", "line": 3}]},
    }
    explanation = failure.pop("explanation")
    assert failure == {
        "file": "bad.yaml",
        "line": 4,
        "column": 7,
        "test": "writers <&>",
        "request": "PUT /articles/7",
        "expected": "allowed",
        "found": "refused with 403 forbidden by the route write",
    }
    assert explanation["decision"]["code"] == "forbidden"
    assert explanation["route"]["name"] == "write"


def test_ci_reads_a_junit_report(tmp_path: Path) -> None:
    gateway_test(tmp_path, "bad.yaml", "good.yaml", "--junit", "out/report.xml", bad=BAD, good=GOOD)
    root = ElementTree.parse(tmp_path / "out/report.xml").getroot()
    assert root.attrib == {"name": "gateway test", "tests": "4", "failures": "1", "errors": "0"}
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("bad.yaml", "2", "1"),
        ("good.yaml", "2", "0"),
    ]
    failed, passed = root[0]
    assert failed.attrib == {
        "classname": "writers <&>", "name": "allow PUT /articles/7", "file": "bad.yaml", "line": "4",
    }  # fmt: skip
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "expected allowed, found refused with 403 forbidden by the route write"
    assert "decision    refused 403 forbidden" in (failure.text or "")
    assert passed.find("failure") is None


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    outcome = gateway_test(tmp_path, "good.yaml", "--junit", ".", good=GOOD)
    assert (outcome.code, outcome.err) == (2, "gateway: cannot write the report .: Is a directory\n")


def test_the_example_is_tested_and_every_route_of_it() -> None:
    outcome = run_here(
        "test", "config/policy-tests.yaml", "--config", "config/gateway.yaml", "--min-coverage", "100", folder=ROOT
    )
    assert outcome.code == 0, outcome.out
