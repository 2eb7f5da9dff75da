"""Parse YAML text into a tree of nodes with their lines and columns.

libyaml produces the events, and this module builds the tree, because `yaml.compose` recurses in C: fifty thousand
opening brackets cause a segmentation fault. The cost is the same. Using only events also avoids PyYAML's YAML 1.1
resolvers.

Rules: one document; at most DEEPEST levels; an alias is the node of its anchor, but all aliases together must not
expand to more than MOST_REPEATED nodes (the "billion laughs" file has 3 * 10^9), and none can contain itself; tags
other than `!!str` are problems, because no key requires a type of its own.

`plain_value` reads unquoted scalars by a subset of the core schema of YAML 1.2.2 (section 10.3.2). YAML 1.1 converts
`no` and `on` to booleans, `12:30` to 750 and `010` to 8. Here they stay strings, and `010` is ten. Numbers are decimal.
`0o17` and `0x1F`, numbers in YAML 1.2, stay strings too, because they are never meant as numbers here; a string where a
number is required is reported instead of guessed at.

Comments silence warnings: `# gateway: allow NAME, NAME`, at the end of the line, or alone above it. YAML events contain
no comments, so they are found in the text: a `#` after white space or at the start of a line, outside of scalars. In
quotes or a block of text, it is data.
"""

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import yaml
from yaml.reader import Reader

DEEPEST: Final = 40
MOST_REPEATED: Final = 100_000
# Characters that YAML 1.2 does not allow (production 1). Compiling a pattern of this size takes milliseconds.
NOT_PRINTABLE: Final = Reader.NON_PRINTABLE

_log = logging.getLogger("gateway.settings.nodes")
_STRING_TAG: Final = "tag:yaml.org,2002:str"
_USUAL_TAGS: Final = frozenset((None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"))


class ScalarNode:
    """A word, a quoted text or a block of text. `plain`: unquoted, so it can be a number or null."""

    __slots__ = ("column", "line", "plain", "text")

    def __init__(self, text: str, plain: bool, line: int, column: int) -> None:
        self.text = text
        self.plain = plain
        self.line = line
        self.column = column


class _Collection:
    __slots__ = ("column", "items", "line", "weight")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Node] = []
        self.weight = 1
        self.line = line
        self.column = column


class ListNode(_Collection):
    """A list with its items in order."""

    __slots__ = ()


class MappingNode(_Collection):
    """A mapping with its entries in order, including repeated keys: key, value, key, value…"""

    __slots__ = ()

    def entries(self) -> Iterator[tuple["Node", "Node"]]:
        """Each key with its value."""
        return zip(self.items[::2], self.items[1::2], strict=True)


Report: TypeAlias = Callable[[int, int, str, str], None]  # line, column, key, message
Node: TypeAlias = ScalarNode | ListNode | MappingNode


class NotYaml(Exception):
    """The text has no tree. Carries the problem that ended the parsing."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)
class _Tree:
    """The tree under construction: the open collections and the anchors so far."""

    report: Report
    root: Node | None = None
    open: list[ListNode | MappingNode] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    repeated: int = 0

    def add(self, node: Node, event: Any) -> None:
        """Append a node to the innermost open collection, or make it the root."""
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if self.open:
            self.open[-1].items.append(node)
        else:
            self.root = node

    def scalar(self, event: Any) -> None:
        if event.tag is not None and event.tag != _STRING_TAG:
            self.check_tag(event)
        mark, plain = event.start_mark, not event.style and event.tag is None
        self.add(ScalarNode(event.value, plain, mark.line + 1, mark.column + 1), event)
        if self.open:
            self.open[-1].weight += 1

    def begin(self, node: ListNode | MappingNode, event: Any) -> None:
        if len(self.open) >= DEEPEST:
            raise NotYaml(node.line, node.column, f"is nested more than {DEEPEST} levels deep")
        self.check_tag(event)
        self.add(node, event)
        self.open.append(node)

    def end(self) -> None:
        done = self.open.pop()
        if self.open:
            self.open[-1].weight += done.weight

    def alias(self, event: Any) -> None:
        """Append the node of an anchor again, within the limits."""
        mark, name = event.start_mark, event.anchor
        node = self.anchors.get(name)
        if node is None:
            known = f" (known: {', '.join(sorted(self.anchors))})" if self.anchors else ""
            raise NotYaml(mark.line + 1, mark.column + 1, f"the alias *{name} has no anchor &{name} before it{known}")
        if any(node is collection for collection in self.open):
            raise NotYaml(mark.line + 1, mark.column + 1, f"the alias *{name} is inside its own anchor")
        weight = 1 if isinstance(node, ScalarNode) else node.weight
        self.repeated += weight
        if self.repeated > MOST_REPEATED:
            message = f"the aliases repeat more than {MOST_REPEATED} values (write fewer of them)"
            raise NotYaml(mark.line + 1, mark.column + 1, message)
        # The anchor precedes the alias in the same document, so a collection is open around both.
        self.open[-1].items.append(node)
        self.open[-1].weight += weight

    def check_tag(self, event: Any) -> None:
        if event.tag not in _USUAL_TAGS:
            mark, tag = event.start_mark, event.tag.replace("tag:yaml.org,2002:", "!!")
            message = f"a tag has no meaning here, found {tag} (leave it out)"
            self.report(mark.line + 1, mark.column + 1, "", message)


def compose(text: str, report: Report) -> Node | None:
    """The tree of a text, or None for a text without content. Reports tags; raises NotYaml for other errors."""
    tree = _Tree(report)
    try:
        for event in yaml.parse(text, Loader=event_source()):
            _take(event, tree)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text) from None
    return tree.root


def event_source() -> Any:
    """libyaml's parser if available, as in PyYAML's wheels, otherwise PyYAML's own, with a warning."""
    if yaml.__with_libyaml__:
        return yaml.CSafeLoader
    _log.warning("PyYAML was built without libyaml: reading a large configuration takes ten times as long")
    return yaml.SafeLoader


def _take(event: Any, tree: _Tree) -> None:
    kind = type(event)
    if kind is yaml.ScalarEvent:
        tree.scalar(event)
    elif kind is yaml.MappingStartEvent:
        tree.begin(MappingNode(event.start_mark.line + 1, event.start_mark.column + 1), event)
    elif kind is yaml.SequenceStartEvent:
        tree.begin(ListNode(event.start_mark.line + 1, event.start_mark.column + 1), event)
    elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
        tree.end()
    elif kind is yaml.AliasEvent:
        tree.alias(event)
    elif kind is yaml.DocumentStartEvent and tree.root is not None:
        mark = event.start_mark
        raise NotYaml(mark.line + 1, mark.column + 1, "a second document begins, found '---' (one document per file)")


# libyaml's messages with advice. The first match counts.
_ADVICE: Final = (
    ("cannot start any token", "a value that begins with one of @ ` % needs quotes"),
    ("mapping values are not allowed", "quote a value that holds ': ', or check the indentation"),
    ("unexpected end of stream", "a quote or a bracket is opened and not closed"),
    ("expected ',' or", "close the bracket, and quote values that hold one of , [ ] { }"),
    ("expected <block end>", "indent keys of one mapping alike"),
    ("expected key", "indent keys of one mapping alike"),
    ("expected '-' indicator", "indent the keys of a list item alike, as far as the text behind its '- '"),
    ("could not find expected ':'", "write 'key: value'"),
)


_FIRST_COLON: Final = re.compile(r" *(?:- +)*[^ :]+:\Z")  # the colon of the first key on a line
_WORD_WITH_BRACES: Final = re.compile(r"[^\s,\[\]{}'\"]+(?:\{[^\s,{}]*\}[^\s,\[\]{}]*)+")


def _explained(error: yaml.MarkedYAMLError, text: str) -> NotYaml:
    """libyaml's message with its place, and advice on common causes."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    lines = text.splitlines()
    place = lines[line] if line < len(lines) else ""
    sentence = error.problem or error.context or "cannot be read"
    advice = next((advice for word, advice in _ADVICE if word in sentence), None)
    if "mapping values are not allowed" in sentence and _FIRST_COLON.match(place[: column + 1]):
        advice = "indent keys of one mapping alike; this one is indented further than the key before it"
    if "\t" in place[: column + 1]:
        advice = "indent with spaces, not with tabs"
    elif "${" in place[: column + 1] and "expected ',' or" in sentence:
        advice = 'inside [ ] and { } write "${NAME}" in quotes'
    elif (place[column : column + 1] == "{" and "expected ',' or" in sentence) or (
        "{*" in place and "alphabetic" in sentence  # YAML reads the asterisk as an alias
    ):
        word = _WORD_WITH_BRACES.search(place)
        advice = f'inside [ ] and {{ }} write "{word[0]}" in quotes' if word is not None else advice
    message = f"is not valid YAML: {sentence}" + (f" ({advice})" if advice else "")
    return NotYaml(line + 1, column + 1, message)


Plain: TypeAlias = str | int | float | bool | None

_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_FIRST_OF_NUMBERS: Final = frozenset("+-.0123456789")
# Longer numbers are mistakes, and int() refuses thousands of digits.
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,300}")
_FRACTION: Final = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,9})?")


def plain_value(text: str) -> Plain:
    """The value of an unquoted scalar: null, a boolean, a whole number, a fraction, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _FIRST_OF_NUMBERS:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text


_ALLOW: Final = re.compile(r"(?:(?<=[ \t])|^)#[ \t]*gateway:[ \t]*allow[ \t]+([^#\r\n]*)", re.MULTILINE)
_NAMES: Final = re.compile(r"[^\s,]+")
_NOTHING_ELSE: Final = re.compile(r"[ \t]*(?:#.*)?")


class Allowed(NamedTuple):
    """One name in a comment: its place, and the line to which it applies. Both count from 1."""

    name: str
    line: int
    column: int
    about: int


def allowed(text: str) -> tuple[Allowed, ...]:
    """The names in the comments of a text. The text must be valid YAML."""
    found = list(_ALLOW.finditer(text))
    if not found:
        return ()  # common case: no comments, so the text is not parsed again
    inside = _Scalars(text)
    return tuple(each for comment in found if comment.start() not in inside for each in _of(comment, text))


def lines_of(names: tuple[Allowed, ...]) -> Mapping[int, frozenset[str]]:
    """The allowed names by line."""
    lines: dict[int, set[str]] = {}
    for each in names:
        lines.setdefault(each.about, set()).add(each.name)
    return {line: frozenset(names) for line, names in lines.items()}


def _of(comment: re.Match[str], text: str) -> Iterator[Allowed]:
    begin = text.rfind("\n", 0, comment.start()) + 1
    line = text.count("\n", 0, comment.start()) + 1
    about = line if text[begin : comment.start()].strip() else _next_line(text, comment.end(), line)
    for name in _NAMES.finditer(comment[1]):
        yield Allowed(name[0], line, comment.start(1) + name.start() - begin + 1, about)


def _next_line(text: str, end: int, line: int) -> int:
    """The next line that is neither empty nor a comment."""
    for following in text[end:].split("\n")[1:]:
        line += 1
        if not _NOTHING_ELSE.fullmatch(following.rstrip("\r")):
            break
    return line


class _Scalars:
    """The ranges of scalars in a text."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for event in yaml.parse(text, Loader=event_source()):
            if isinstance(event, yaml.ScalarEvent):
                start, end = event.start_mark, event.end_mark
                assert start is not None, "a text that is read has marks"
                assert end is not None, "a text that is read has marks"
                self._starts.append(start.index)
                self._ends.append(end.index)

    def __contains__(self, index: int) -> bool:
        number = bisect_right(self._starts, index) - 1
        return number >= 0 and index < self._ends[number]
