"""Check comments, docstrings and pages against the style: `python -m tests.repository.prose`.

The check finds constructions that plain technical English does without. It prints each one with its place and ends with
status 1 if it finds any.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "gateway",
    "tests",
    "bench",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "RELEASING.md",
)
# The start of a sentence: of a text, behind a full stop, or behind an empty line.
_START = r"(?:\A|(?<=[.!?:] )|(?<=\n\n))\W*"

FAULTS = {
    "a clause instead of a noun": re.compile(
        r"\bwhat (?:is|was|are|were|has|had|a|an|the|it|they|comes|goes|must|can|becomes)\b", re.IGNORECASE
    ),
    "a person instead of a component": re.compile(r"\b(?:no|some|any|every)body\b", re.IGNORECASE),
    "an indefinite pronoun": re.compile(r"\b(?:whoever|whatever|whom|whomever)\b", re.IGNORECASE),
    "an old-fashioned adverb": re.compile(
        r"\b(?:anew|beforehand|for ever|by and by|meanwhile|once more)\b", re.IGNORECASE
    ),
    "a sentence without a subject": re.compile(_START + r"(?:What|Who|Whoever|Nobody|There)\b(?![^.!]*\?)"),
}


class Text(NamedTuple):
    """A comment, a docstring or a paragraph, and the line where it begins."""

    line: int
    content: str


class Finding(NamedTuple):
    path: str
    line: int
    fault: str
    excerpt: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.fault}: {self.excerpt}"


# A word of each fault. Most modules have none of them, which is faster to find than their comments and docstrings.
_SUSPECT = re.compile(
    r"\b(?:what|who|whoever|whatever|whom|whomever|there|(?:no|some|any|every)body|anew|beforehand|for ever|by and by"
    r"|meanwhile|once more)\b",
    re.IGNORECASE,
).search


def texts_of_module(source: str) -> Iterator[Text]:
    """The docstrings and comments of a module. Consecutive comment lines are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield Text(node.body[0].lineno, docstring)
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield Text(first, " ".join(block))
                block = []
            first = first if block else token.start[0]
            last = token.start[0]
            block.append(token.string.lstrip("# "))
    if block:
        yield Text(first, " ".join(block))


def texts_of_page(source: str) -> Iterator[Text]:
    """The paragraphs of a Markdown page outside fenced blocks and inline code."""
    block: list[str] = []
    first, is_fenced = 1, False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        if line.strip() and not is_fenced and not line.lstrip().startswith("```"):
            first = first if block else number
            block.append(re.sub(r"`[^`]*`", "`…`", line))
        elif block:
            yield Text(first, "\n".join(block))
            block = []


def findings(path: str, texts: Iterable[Text]) -> Iterator[Finding]:
    for text in texts:
        for fault, pattern in FAULTS.items():
            for match in pattern.finditer(text.content):
                line = text.line + text.content.count("\n", 0, match.start())
                excerpt = text.content[max(0, match.start() - 30) : match.end() + 40].replace("\n", " ")
                yield Finding(path, line, fault, excerpt)


def check(root: Path = ROOT) -> list[Finding]:
    """The findings in all files of the repository."""
    found: list[Finding] = []
    for place in PLACES:
        files = sorted((root / place).rglob("*")) if (root / place).is_dir() else [root / place]
        for file in files:
            if file.suffix == ".py":
                source = file.read_text()
                if _SUSPECT(re.sub(r"[\s#]+", " ", source)):
                    found += findings(str(file.relative_to(root)), texts_of_module(source))
            elif file.suffix == ".md":
                found += findings(str(file.relative_to(root)), texts_of_page(file.read_text()))
    return found


if __name__ == "__main__":
    found = check()
    for finding in found:
        print(finding)
    sys.exit(bool(found))
