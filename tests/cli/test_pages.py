"""`gateway pages`."""

from pathlib import Path

import pytest

from gateway.accounts.texts.catalogue import SHIPPED, Catalogue, shipped_text
from tests.cli.running import Outcome, run_here

CONFIGURATION = """
server: {{public_url: "http://localhost:8000"}}
sessions: {{}}
accounts:
  pages: {pages}
upstreams: {{web: {{targets: ["http://127.0.0.1:9"]}}}}
routes: [{{path: /**, upstream: web}}]
"""


def pages(folder: Path, *arguments: str, settings: str = "{}") -> Outcome:
    (folder / "gateway.yaml").write_text(CONFIGURATION.format(pages=settings))
    return run_here("pages", *arguments, folder=folder)


def test_preview_writes_every_page_in_every_language_and_scheme(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    settings = "{languages: [en, de], name: Northwind, logo: logo.svg}"
    outcome = pages(tmp_path, "preview", "--config", "gateway.yaml", "--out", "out", settings=settings)
    assert outcome.code == 0, outcome
    written = {path.name for path in (tmp_path / "out").iterdir()}
    for name in ("sign-in", "account", "denied", "verify-first", "key-created"):
        for ending in ("en.light", "en.dark", "de.light", "de.dark"):
            assert f"{name}.{ending}.html" in written
    text = (tmp_path / "out" / "sign-in.de.dark.html").read_text()
    assert "Anmelden" in text and "color-scheme:dark" in text
    assert 'src="logo.svg"' in text and "logo.svg" in written
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(name in index for name in written - {"index.html", "logo.svg"})


def test_links_of_a_preview_lead_to_its_files(tmp_path: Path) -> None:
    settings = "{languages: [en, de]}"
    pages(tmp_path, "preview", "--config", "gateway.yaml", "--out", "out", settings=settings)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").glob("*.light.html"):
        links = [part.partition('"')[0] for part in path.read_text().split('href="')[1:]]
        assert {link for link in links if link and not link.startswith("data:")} <= written, path.name


def test_preview_writes_the_mails_where_mail_is_configured(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        CONFIGURATION.format(pages="{languages: [en, de], name: Northwind}")
        + "mail: {from: no-reply@example.com, folder: mail}\n"
    )
    outcome = run_here("pages", "preview", "--config", "gateway.yaml", "--out", "out", folder=tmp_path)
    assert outcome.code == 0, outcome
    mails = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.mail.html")}
    assert len(mails) == 2 * len(Catalogue.load(["en"]).texts("en")["mail"].keys() - {"common"})
    assert "Adresse bestätigen" in mails["mail-verify.de.mail.html"]
    assert "/account/reset?token=" in mails["mail-reset.en.mail.html"]
    assert not any("{" in text.partition("<body")[2] for text in mails.values())


def test_preview_needs_pages(tmp_path: Path) -> None:
    outcome = pages(tmp_path, "preview", "--config", "gateway.yaml", "--out", "out", settings="null")
    assert (outcome.code, outcome.err) == (2, "gateway: gateway.yaml has no pages (accounts: {pages: {}})\n")


@pytest.mark.parametrize("language", [*SHIPPED, "nl"])
def test_messages_prints_the_texts_to_translate(tmp_path: Path, language: str) -> None:
    outcome = pages(tmp_path, "messages", language)
    assert (outcome.code, outcome.out) == (0, shipped_text(language))


@pytest.mark.parametrize("language", ["../en", "english", "en_GB", ""])
def test_messages_refuses_anything_but_a_language(tmp_path: Path, language: str) -> None:
    outcome = pages(tmp_path, "messages", language)
    assert outcome.code == 2
    assert "is no language tag" in outcome.err


@pytest.mark.parametrize(
    ("file", "text", "settings", "problem"),
    [
        (
            "texts/nl.yaml",
            "pages:\n  sign_in:\n    titel: x\n",
            "{languages: [nl], messages: texts}",
            "texts/nl.yaml:3:1: pages.sign_in.titel: is not a text of the gateway",
        ),
        (
            "templates/forgot.html",
            "{% if %}",
            "{templates: templates}",
            "templates/forgot.html:1:1: forgot.html: does not compile: Expected an expression",
        ),
        ("texts/x", "", "{languages: [nl]}", "nl.yaml:1:1: : nl is not shipped (known: en, de, fr, es)"),
    ],
)
def test_check_finds_problems_of_texts_and_templates(
    tmp_path: Path, file: str, text: str, settings: str, problem: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(text)
    (tmp_path / "gateway.yaml").write_text(CONFIGURATION.format(pages=settings))
    outcome = run_here("check", "--config", "gateway.yaml", folder=tmp_path)
    assert outcome.code == 2
    assert problem in outcome.out
