"""The texts of pages and mails, and the files that replace them."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from gateway.accounts.texts.catalogue import SHIPPED, Catalogue, Texts, fill, shipped_text, time_text
from gateway.errors import ConfigurationError

PLACEHOLDER = re.compile(r"\{[^}]*\}")


def leaves(texts: Texts, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in texts.items():
        found |= {prefix + name: value} if isinstance(value, str) else leaves(value, f"{prefix}{name}.")
    return found


def loaded(language: str, folder: Path | None = None) -> dict[str, str]:
    return leaves(Catalogue.load([language], folder).texts(language))


def problems(folder: Path, *languages: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Catalogue.load(languages, folder)
    return [
        f"{Path(problem.file).name}:{problem.line}: {problem.key}: {problem.message}"
        for problem in caught.value.problems
    ]


@pytest.mark.parametrize("language", SHIPPED)
class TestShippedLanguages:
    def test_have_the_same_keys_in_the_same_order(self, language: str) -> None:
        assert list(loaded(language)) == list(loaded("en"))

    def test_have_the_same_placeholders(self, language: str) -> None:
        english = loaded("en")
        for key, text in loaded(language).items():
            assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(english[key])), key

    def test_have_no_empty_text_no_markup_and_no_stray_space(self, language: str) -> None:
        for key, text in loaded(language).items():
            assert text and text == text.strip() and "  " not in text, key
            assert not set("<>&`") & set(text), key

    def test_have_twelve_months(self, language: str) -> None:
        assert len(set(loaded(language)["language.months"].split())) == 12

    def test_are_printed_as_a_file_that_can_be_loaded(self, language: str, tmp_path: Path) -> None:
        (tmp_path / f"{language}.yaml").write_text(shipped_text(language), encoding="utf-8")
        assert loaded(language, tmp_path) == loaded(language)


def test_only_technical_texts_are_equal_in_two_languages() -> None:
    """A text that was not translated is equal to the English one."""
    english = loaded("en")
    equal = {key for language in SHIPPED[1:] for key, text in loaded(language).items() if text == english[key]}
    assert equal <= {
        "language.direction",
        "language.date",
        "pages.common.title",
        "pages.common.error_title",
        "pages.account.browser_session",
        "pages.account.token_session",
        "pages.account.key_roles",
        "pages.key.name",
    }


class TestFolder:
    def test_replaces_single_texts(self, tmp_path: Path) -> None:
        (tmp_path / "de.yaml").write_text("pages:\n  sign_in:\n    title: Hereinspaziert\n", encoding="utf-8")
        texts = Catalogue.load(["en", "de"], tmp_path).texts("de")
        assert texts["pages"]["sign_in"]["title"] == "Hereinspaziert"
        assert texts["pages"]["sign_in"]["submit"] == "Anmelden"

    def test_adds_a_language(self, tmp_path: Path) -> None:
        translated = shipped_text("nl").replace("title: Sign in\n", "title: Aanmelden\n")
        (tmp_path / "nl.yaml").write_text(translated, encoding="utf-8")
        catalogue = Catalogue.load(["nl", "en"], tmp_path)
        assert catalogue.texts("nl")["pages"]["sign_in"]["title"] == "Aanmelden"
        assert catalogue.default == "nl"

    def test_of_an_own_language_needs_every_text(self, tmp_path: Path) -> None:
        kept = [line for line in shipped_text("nl").splitlines() if "forgot: Forgot" not in line]
        (tmp_path / "nl.yaml").write_text("\n".join(kept), encoding="utf-8")
        assert problems(tmp_path, "nl") == ["nl.yaml:1: pages.sign_in.forgot: is missing"]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("pages: {sign_in: {titel: x}}", "pages.sign_in.titel: is not a text of the gateway"),
            (
                "\npages: {sign_in: {title: '{secret}'}}",
                "pages.sign_in.title: {secret} is not a placeholder of this text (known: none)",
            ),
            (
                "mail: {verify: {body: '{email} {link}'}}",
                "mail.verify.body: {link} is not a placeholder of this text (known: {email})",
            ),
            ("pages: {sign_in: {title: [x]}}", "pages.sign_in.title: must be a text, or a mapping of texts"),
            ("pages: {sign_in: x}", "pages.sign_in: is not a text of the gateway"),
            ("pages: {sign_in: {title: a, title: b}}", "pages.sign_in.title: is repeated"),
            ("language: {months: a b c}", "language.months: must be the names of twelve months, separated by spaces"),
            ("just a text", ": must be a text, or a mapping of texts"),
            ("", ": must be a text, or a mapping of texts"),
            ("pages: {", ": is not YAML: expected the node content, but found '<stream end>'"),
            ("[" * 5_000, ": is not YAML that can be read"),
        ],
    )
    def test_with_a_wrong_text_is_an_error_with_its_line(self, tmp_path: Path, text: str, problem: str) -> None:
        (tmp_path / "en.yaml").write_text(text, encoding="utf-8")
        line = 2 if text.startswith("\n") else 1
        assert problems(tmp_path, "en") == [f"en.yaml:{line}: {problem}"]

    @pytest.mark.parametrize(
        ("content", "problem"), [(b"\xff", "is not UTF-8"), (b"#" * 300_000, "is larger than 262144 bytes")]
    )
    def test_with_an_unreadable_file_is_an_error(self, tmp_path: Path, content: bytes, problem: str) -> None:
        (tmp_path / "en.yaml").write_bytes(content)
        assert problems(tmp_path, "en") == [f"en.yaml:1: : {problem}"]

    def test_without_the_language_is_an_error(self, tmp_path: Path) -> None:
        [problem] = problems(tmp_path, "nl")
        assert problem.endswith("nl.yaml: No such file or directory")


def test_a_language_that_is_neither_shipped_nor_added_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"nl is not shipped \(known: en, de, fr, es\)"):
        Catalogue.load(["en", "nl"])


def test_an_unknown_language_gets_the_texts_of_the_default() -> None:
    catalogue = Catalogue.load(["fr", "en"])
    assert catalogue.texts("xx") is catalogue.texts(None) is catalogue.texts("fr")


def test_texts_cannot_be_changed() -> None:
    texts: Any = Catalogue.load(["en"]).texts("en")
    with pytest.raises(TypeError):
        texts["pages"]["sign_in"]["title"] = "x"


def test_a_value_with_braces_is_not_filled_again() -> None:
    assert fill("{a} and {b}", {"a": "{b}", "b": "{a}"}) == "{b} and {a}"


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "3 March 2026, 23:05 UTC"),
        ("de", "3. März 2026, 23:05 Uhr (UTC)"),
        ("fr", "3 mars 2026 à 23:05 (UTC)"),
        ("es", "3 de marzo de 2026, 23:05 (UTC)"),
    ],
)
def test_times_are_shown_with_their_zone(language: str, expected: str) -> None:
    moment = datetime(2026, 3, 3, 23, 5, tzinfo=UTC).astimezone(timezone(timedelta(hours=5)))
    assert time_text(Catalogue.load([language]).texts(language), moment) == expected
