"""Invalid YAML, and YAML features beyond the configuration format, are problems with positions, never exceptions."""

import logging
import random
import string
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings.loader import ParsedSettings, read_content
from gateway.settings.model import SettingsKind
from tests.settings.reading import draft_of, problems_of, settings_of
from tests.support.scale import examples

SYNTAX: list[tuple[str, str]] = [
    (
        "server:\n\tport: 1\n",
        "2:1: (file): is not valid YAML: found character that cannot start any token "
        "(indent with spaces, not with tabs)",
    ),
    (
        "server:\n  host: a: b\n",
        "2:10: (file): is not valid YAML: mapping values are not allowed in this context "
        "(quote a value that holds ': ', or check the indentation)",
    ),
    (
        "server:\n  host: @a\n",
        "2:9: (file): is not valid YAML: found character that cannot start any token "
        "(a value that begins with one of @ ` % needs quotes)",
    ),
    (
        "server: {host: 'a}\n",
        "2:1: (file): is not valid YAML: found unexpected end of stream "
        "(a quote or a bracket is opened and not closed)",
    ),
    (
        "server: {port: ${PORT}}\n",
        "1:17: (file): is not valid YAML: did not find expected ',' or '}' "
        '(inside [ ] and { } write "${NAME}" in quotes)',
    ),
    (
        "server: {a: b\nroutes: []\n",
        "2:7: (file): is not valid YAML: did not find expected ',' or '}' "
        "(close the bracket, and quote values that hold one of , [ ] { })",
    ),
    (
        "server:\n    port: 1\n  host: a\n",
        "3:3: (file): is not valid YAML: did not find expected key (indent keys of one mapping alike)",
    ),
    (
        "server: *nowhere\n",
        "1:9: (file): the alias *nowhere has no anchor &nowhere before it",
    ),
    (
        "server: &s {}\nstorage: *t\n",
        "2:10: (file): the alias *t has no anchor &t before it (known: s)",
    ),
    (
        "roles: &r {a: *r}\n",
        "1:15: (file): the alias *r is inside its own anchor",
    ),
    (
        "server: {}\n---\nserver: {}\n",
        "2:1: (file): a second document begins, found '---' (one document per file)",
    ),
    (
        "server: {host: !secret a}\n",
        "1:16: (file): a tag has no meaning here, found !secret (leave it out)",
    ),
    (
        "server: {port: !!int '1'}\n",
        "1:16: (file): a tag has no meaning here, found !!int (leave it out)",
    ),
    (
        "server: !!python/object:os.system {}\n",
        "1:9: (file): a tag has no meaning here, found !!python/object:os.system (leave it out)",
    ),
    (
        "server: {host: a\x07b}\n",
        "1:17: (file): has a control character, found U+0007 (remove it)",
    ),
    (
        "server:\r\n  host: a\x00b\r\n",
        "2:10: (file): has a control character, found U+0000 (remove it)",
    ),
    (
        "[" * 41 + "]" * 41,
        "1:41: (file): is nested more than 40 levels deep",
    ),
]
EMPTY = ["", "\n\n", "# nothing yet\n", "---\n", "---\n...\n", "null\n", "~\n"]


@pytest.mark.parametrize(("text", "line"), SYNTAX)
def test_invalid_yaml_is_explained(text: str, line: str) -> None:
    found = [str(problem).removeprefix("f:") for problem in read_content(text.encode(), "f", {}).problems]

    assert found[:1] == [line]


@pytest.mark.parametrize("text", EMPTY)
def test_an_empty_file_is_reported_with_the_required_keys(text: str) -> None:
    (problem,) = draft_of(text).problems

    assert (problem.line, problem.column) == (1, 1)
    assert problem.message.startswith("is empty; it needs upstreams and routes (for example {upstreams: ")


def test_the_example_for_an_empty_file_is_valid() -> None:
    (problem,) = draft_of("").problems

    assert settings_of(problem.message.partition("(for example ")[2].removesuffix(")")).routes


NOT_UTF8: list[tuple[bytes, str]] = [
    (b"server:\n  host: caf\xe9\n", "2:12: (file): is not UTF-8 text, found the byte 0xe9 (save it as UTF-8)"),
    ("server: {}".encode("utf-16"), "1:1: (file): is not UTF-8 text, found the byte 0xff (save it as UTF-8)"),
    (b"\xef\xbb\xbf\n\xc3\xa9\xff", "2:2: (file): is not UTF-8 text, found the byte 0xff (save it as UTF-8)"),
]


@pytest.mark.parametrize(("content", "line"), NOT_UTF8)
def test_invalid_utf_8_is_explained_at_its_position(content: bytes, line: str) -> None:
    assert [str(problem) for problem in read_content(content, "f", {}).problems] == [f"f:{line}"]


def test_a_byte_order_mark_does_no_harm() -> None:
    assert read_content(b"\xef\xbb\xbfserver: {port: 1}\n", "f", {}).problems == ()


def test_columns_count_characters() -> None:
    assert problems_of("{roles: {ü: [], é: [7]}}")[0].startswith("1:21: ")


def test_fifty_thousand_open_brackets_are_one_problem() -> None:
    # yaml.compose would end the process with a segmentation fault.
    for text in ("[" * 50_000, "- " * 50_000, "{a: " * 50_000, "? " * 50_000):
        (problem,) = draft_of(text).problems
        assert problem.message == "is nested more than 40 levels deep"


def test_a_billion_laughs_are_one_problem_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for this, last in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]")
    started = time.process_time()

    (problem,) = draft_of("\n".join(lines)).problems

    assert problem.message == "the aliases repeat more than 100000 values (write fewer of them)"
    assert time.process_time() - started < 1


def test_an_alias_stands_for_its_anchor() -> None:
    settings = settings_of("""
        upstreams: {web: 'http://h'}
        routes:
          - path: /a
            roles: &staff [editor, admin]
            upstream: &web web
          - path: /b
            roles: *staff
            upstream: *web
    """)

    assert settings.routes[0].roles == settings.routes[1].roles
    assert settings.routes[1].upstream == "web"


def test_a_mapping_may_be_an_anchor_s() -> None:
    settings = settings_of("upstreams:\n  a: &web {targets: ['http://h'], retries: 0}\n  b: *web\n")

    assert [upstream.retries for upstream in settings.upstreams.values()] == [0, 0]
    assert [upstream.name for upstream in settings.upstreams.values()] == ["a", "b"]


def test_the_default_tag_of_a_string_is_accepted() -> None:
    assert settings_of("tokens: {issuer: !!str 12, audience: ! 13}").tokens.issuer == "12"


def test_a_file_is_read_without_libyaml_too_and_that_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    with caplog.at_level(logging.WARNING):
        settings = settings_of("server: {port: 81, host: 'no'}")
        problems = problems_of("server: {port: 1\n")

    assert (settings.server.port, settings.server.host) == (81, "no")
    assert problems[0].startswith("2:1: (file): is not valid YAML: ")
    assert "PyYAML was built without libyaml" in caplog.text


def is_sound(draft: ParsedSettings) -> bool:
    """Whether a draft has either settings or problems."""
    return (draft.settings is not None) == (not draft.problems) and all(
        problem.line >= 1 and problem.column >= 1 and problem.key and "\n" not in str(problem)
        for problem in (*draft.problems, *draft.warnings)
    )


@examples(300)
@given(st.text() | st.text(alphabet="{}[]:,&*!|>'\"%@`-?#\n\t $aA0~.<"))
def test_no_text_raises(text: str) -> None:
    assert is_sound(read_content(text.encode("utf-8", "surrogatepass"), "f", {}))


@settings(deadline=None)
@given(st.binary())
def test_no_bytes_raise(content: bytes) -> None:
    assert is_sound(read_content(content, "f", {}))


KEYS = st.sampled_from([*SettingsKind().keys, *SettingsKind().keys["server"].kind.keys, "web", "path", "keys", "kid"])  # type: ignore[attr-defined]
SCALARS = st.text(max_size=12) | st.sampled_from(
    ["10s", "1KiB", "true", "/a", "web", "http://h", "${A}", "${A:-1}", "ES256", "10.0.0.0/8", "0", "-1", ".inf", "GET"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS | SCALARS, below, max_size=5),
    max_leaves=15,
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=5))
def test_no_tree_raises(tree: dict[str, object]) -> None:
    assert is_sound(read_content(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"), "f", {}))


def test_a_good_file_with_any_one_character_changed_never_raises() -> None:
    good = (
        "server: {port: 8000, drain: 30s}\nroles: {a: [b], b: []}\nupstreams:\n  web: http://127.0.0.1:9000\n"
        "routes:\n  - path: /x/{id}/**\n    methods: [GET]\n    roles: {all: [a, b]}\n    owner: id\n"
        "    upstream: web\n"
        "tokens:\n  keys: [{kid: k, algorithm: HS256, secret: '${S:-0123456789abcdef0123456789abcdef}'}]\n"
    )
    assert read_content(good.encode(), "f", {}).problems == ()
    chosen = random.Random(7)
    for place in range(len(good)):
        changed = good[:place] + chosen.choice(string.printable) + good[place + 1 :]
        assert is_sound(read_content(changed.encode(), "f", {}))
