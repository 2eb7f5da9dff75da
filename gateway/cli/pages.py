"""`gateway pages`: the pages for accounts as files, and their texts."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

import click

from gateway.accounts.mail.ports import WITH_LINK, OutgoingMail
from gateway.accounts.texts.catalogue import REFERENCE, Catalogue, is_language, shipped_text
from gateway.api.pages.colours import SCHEMES
from gateway.api.pages.examples import examples
from gateway.api.pages.rendering import Renderer, open_catalogue
from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import say
from gateway.errors import CannotStart
from gateway.settings.model import Settings

_RECIPIENT: Final = "ada@example.com"
_SAMPLE_LINK: Final = "gwl_this-is-a-sample-and-no-link"
_LINK_LIFE: Final = timedelta(days=1)
_SAMPLE_DATA: Final = {"old": "ada@old.example.com", "address": "192.0.2.7"}


@click.group("pages")
def command() -> None:
    """Preview the pages for accounts, and print their texts."""


@command.command("preview")
@config_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write.")
def preview(config: Path, out: Path) -> None:
    """Write every page and mail with sample data.

    Each is written in every language, and pages in both colour schemes. The file index.html in the folder lists them.
    """
    settings = loaded(config).settings
    if settings.accounts.pages is None:
        raise CannotStart(f"{config} has no pages (accounts: {{pages: {{}}}})")
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = list(_write(settings, out))
        (out / "index.html").write_text(_index(files), encoding="utf-8")
    except OSError as error:
        raise CannotStart(f"{error.filename}: {error.strerror}; choose another folder with --out") from None
    say(f"{len(files)} files: {out / 'index.html'}", colour="green")


@command.command("messages")
@click.argument("language")
def messages(language: str) -> None:
    """Print the texts of a language as YAML, to begin a translation.

    A language that is not shipped gets the English texts. Save them as LANGUAGE.yaml in accounts.pages.messages.
    """
    if not is_language(language):
        raise click.BadParameter(f"'{language}' is no language tag (for example nl or pt-BR)")
    click.echo(shipped_text(language), nl=False)


class _File(NamedTuple):
    """One page or mail. `kind` is the colour scheme of a page, or `mail`."""

    name: str
    language: str
    kind: str

    @property
    def path(self) -> str:
        return f"{self.name}.{self.language}.{self.kind}.html"


def _write(settings: Settings, out: Path) -> Iterator[_File]:
    pages = settings.accounts.pages
    assert pages is not None
    catalogue = open_catalogue(settings)
    renderer = Renderer.of(settings, catalogue)
    logo = None
    if pages.logo is not None:
        logo = f"logo{Path(pages.logo).suffix}"
        shutil.copyfile(pages.logo, out / logo)
    yield from _write_mails(settings, out, catalogue)
    for language in catalogue.languages:
        for scheme in SCHEMES:
            for example in examples(catalogue, language, logo=logo, ending=f"{scheme}.html"):
                file = _File(example.name, language, scheme)
                (out / file.path).write_text(renderer.render(example.page, scheme=scheme)[0], encoding="utf-8")
                yield file


def _write_mails(settings: Settings, out: Path, catalogue: Catalogue) -> Iterator[_File]:
    """Write the HTML of each mail, if mail is configured."""
    if settings.mail is None:
        return
    from gateway.accounts.mail.composing import Composer  # Imports the libraries of mails.

    composer, now = Composer(settings, catalogue), datetime.now(UTC)
    for language in catalogue.languages:
        for kind in catalogue.texts(REFERENCE)["mail"].keys() - {"common"}:
            link = _SAMPLE_LINK if kind in WITH_LINK else ""
            mail = OutgoingMail("sample", kind, _RECIPIENT, language, now, now + _LINK_LIFE, link, _SAMPLE_DATA)
            body = composer.compose(mail).message.get_body(("html",))
            assert body is not None, "mails have an HTML part"
            file = _File(f"mail-{kind}", language, "mail")
            (out / file.path).write_text(body.get_content(), encoding="utf-8")
            yield file


def _index(files: list[_File]) -> str:
    rows = "".join(f'<li><a href="{escape(file.path)}">{escape(file.path)}</a></li>' for file in sorted(files))
    title = "Pages for accounts"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    return f"{head}<h1>{title}</h1><ul>{rows}</ul></html>\n"
