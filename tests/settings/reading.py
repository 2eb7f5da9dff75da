"""Helpers for tests of the settings: read text as if it were a file gateway.yaml."""

from collections.abc import Mapping
from textwrap import dedent

from gateway.settings.loader import ParsedSettings, read_content
from gateway.settings.model import Settings

FILE = "gateway.yaml"


def draft_of(text: str, environment: Mapping[str, str] | None = None) -> ParsedSettings:
    return read_content(dedent(text).lstrip("\n").encode(), FILE, environment or {})


def problems_of(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """The problems as shown to users, without the file name."""
    return [str(problem).removeprefix(f"{FILE}:") for problem in draft_of(text, environment).problems]


def warnings_of(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """The warnings in the same form; fails if the file has problems."""
    draft = draft_of(text, environment)
    assert not draft.problems, "\n".join(map(str, draft.problems))
    return [str(warning).removeprefix(f"{FILE}:") for warning in draft.warnings]


def settings_of(text: str, environment: Mapping[str, str] | None = None) -> Settings:
    draft = draft_of(text, environment)
    assert draft.settings is not None, "\n".join(map(str, draft.problems))
    return draft.settings
