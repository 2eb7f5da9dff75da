"""Every kind of mistake, with the exact messages.

problems/*.txt contain blocks: a file, then all expected messages. `> ` begins a problem, `? ` a warning, both without
the file name.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.settings.reading import draft_of

FOLDER = Path(__file__).parent / "problems"
PASSWORD = "hunter2"
ENVIRONMENT = {
    "SHORT_SECRET": PASSWORD,
    "LONG_SECRET": PASSWORD * 5,
    "PEM": f"-----BEGIN PRIVATE KEY-----\n{PASSWORD}\n-----END PRIVATE KEY-----",
    "PORT": "http",
    "EMPTY": "",
    "E1": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
}


class Block(NamedTuple):
    text: str
    problems: list[str]
    warnings: list[str]


def blocks(name: str) -> list[Block]:
    found = []
    for block in (FOLDER / name).read_text(encoding="utf-8").strip("\n").split("\n\n"):
        lines = block.split("\n")
        text = "\n".join(line for line in lines if line[:2] not in ("> ", "? "))
        found.append(Block(f"{text}\n", messages(lines, "> "), messages(lines, "? ")))
    return found


def messages(lines: list[str], sign: str) -> list[str]:
    return [line.removeprefix(sign) for line in lines if line.startswith(sign)]


BLOCKS = [
    pytest.param(block, id=f"{path.stem}: {block.text.strip()}")
    for path in sorted(FOLDER.glob("*.txt"))
    for block in blocks(path.name)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_mistake_is_explained_at_its_place(block: Block) -> None:
    draft = draft_of(block.text, ENVIRONMENT)

    assert [str(problem).removeprefix("gateway.yaml:") for problem in draft.problems] == block.problems
    assert [str(warning).removeprefix("gateway.yaml:") for warning in draft.warnings] == block.warnings
    assert (draft.settings is None) == bool(block.problems)


@pytest.mark.parametrize("block", BLOCKS)
def test_no_message_holds_a_password(block: Block) -> None:
    draft = draft_of(block.text, ENVIRONMENT)

    assert PASSWORD not in repr(draft)
    assert not any(PASSWORD in str(problem) for problem in (*draft.problems, *draft.warnings))


def test_all_mistakes_of_a_file_are_reported_at_once_in_the_order_of_the_file() -> None:
    everything = (
        "server: {port: x}\nroles: {user: [guest]}\nupstreams: {web: 7}\n"
        "routes:\n- {path: a, upstream: web}\n- {path: /a, upstream: wbe, rolls: [a]}\n"
    )

    keys = [problem.key for problem in draft_of(everything).problems]

    assert keys == [
        "server.port",
        "roles.user[0]",
        "upstreams.web",
        "routes[0].path",
        "routes[1].upstream",
        "routes[1].rolls",
    ]


def test_an_upstream_that_is_wrong_is_not_reported_as_missing_as_well() -> None:
    draft = draft_of("upstreams: {web: 7}\nroutes:\n- {path: /a, upstream: web}\n")

    assert [problem.key for problem in draft.problems] == ["upstreams.web"]


def test_routes_are_not_blamed_for_upstreams_that_cannot_be_read_at_all() -> None:
    draft = draft_of("upstreams: 7\nroutes:\n- {path: /a, upstream: web}\n")

    assert [problem.key for problem in draft.problems] == ["upstreams"]


def test_roles_are_not_blamed_where_their_declaration_cannot_be_read() -> None:
    draft = draft_of("roles: 7\naccounts: {default_roles: [user]}\n")

    assert [problem.key for problem in draft.problems] == ["roles"]


def test_a_thousand_misspelt_names_are_reported_quickly_and_the_first_of_them_with_advice() -> None:
    names = "".join(f"  upstream_{number}: 'http://h'\n" for number in range(1000))
    keys = "".join(f"  prot_{number}: 1\n" for number in range(1000))

    problems = draft_of(f"upstreams:\n{names}server:\n{keys}").problems

    assert len(problems) == 1000
    assert "did you mean port?" in problems[0].message
    assert "known: body_timeout, " in problems[-1].message


def test_a_long_list_of_known_names_is_cut() -> None:
    names = "".join(f"  u{number:02}: 'http://h'\n" for number in range(30))

    (problem,) = draft_of(f"upstreams:\n{names}routes:\n- {{path: /a, upstream: x}}\n").problems

    assert problem.message.endswith("u18, u19 and 10 more)")
