"""The language that a client prefers."""

import pytest

from gateway.accounts.texts.catalogue import preferred_language


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("de-AT,fr;q=0.9", "de"),
        ("fr;q=0.8, de;q=0.9", "de"),
        ("fr, de", "fr"),
        ("nl, fr;q=0.1", "fr"),
        ("nl", "en"),
        ("*", "en"),
        ("de;q=0, fr;q=0.1", "fr"),
        ("pt-BR", "pt-BR"),
        ("pt-br", "pt-BR"),
        ("pt", "en"),
        ("zh-Hant-TW, de", "de"),
        ("de;q=nan, fr", "fr"),
        ("de;q=1e9, fr", "fr"),
        ("de;level=1, fr", "fr"),
        (", ;;, =, de", "de"),
        ("x" * 100_000 + ",de", "en"),
        ("xx," * 100_000 + "de", "en"),
    ],
)
def test_the_field_accept_language_chooses(header: str, expected: str) -> None:
    assert preferred_language(("en", "de", "fr", "pt-BR"), header) == expected
