"""The check of the prose, and the prose itself."""

from pathlib import Path

import pytest

from tests.repository.prose import PLACES, check, findings, texts_of_module, texts_of_page

MODULE = '''"""{docstring}"""

# {comment}
VALUE = "What is in a string is code."
'''


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Returns what is left.", "a clause instead of a noun"),
        ("Nothing that nobody reads.", "a person instead of a component"),
        ("Sent to whoever asks.", "an indefinite pronoun"),
        ("Read the file anew.", "an old-fashioned adverb"),
        ("Stops. There is no second attempt.", "a sentence without a subject"),
    ],
)
def test_a_fault_is_found_in_docstrings_comments_and_pages(text: str, fault: str) -> None:
    in_docstring = MODULE.format(docstring=text, comment="A comment.")
    in_comment = MODULE.format(docstring="A docstring.", comment=text)
    assert [found.fault for found in findings("m", texts_of_module(in_docstring))] == [fault]
    assert [(found.line, found.fault) for found in findings("m", texts_of_module(in_comment))] == [(3, fault)]
    assert [(found.line, found.fault) for found in findings("p", texts_of_page(f"# Title\n\n{text}\n"))] == [(3, fault)]


@pytest.mark.parametrize(
    "text",
    [
        "Returns the rest.",
        "The client decides what to send.",
        "Which headers does it send? What does it keep?",
        "```\nWhat is in a fence is output.\n```",
        "The option `whoever` is a name.",
    ],
)
def test_plain_text_has_no_fault(text: str) -> None:
    assert list(findings("p", texts_of_page(text))) == []


def test_consecutive_comments_are_one_text() -> None:
    (text,) = texts_of_module("# One sentence that goes on\n# in the next line.\nx = 1\n")
    assert text == (1, "One sentence that goes on in the next line.")


def test_a_fault_in_a_comment_of_the_repository_is_found(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    for page in filter(lambda place: place.endswith(".md"), PLACES):
        (tmp_path / page).touch()
    for number, comment in enumerate(("Sent once\n# more.", "What\n# is left.", "A second one.\n# There it ends.")):
        (tmp_path / "gateway" / f"m{number}.py").write_text(f"x = 1\n# {comment}\n")
    assert {found.path for found in check(tmp_path)} == {"gateway/m0.py", "gateway/m1.py", "gateway/m2.py"}


def test_the_prose_of_the_repository_has_no_fault() -> None:
    assert [str(found) for found in check()] == []
