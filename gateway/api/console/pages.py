"""The frame of the console's pages, and the elements that they share. Every text from requests, the configuration or
the database is escaped where it becomes HTML."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode

STYLE: Final = Path(__file__).with_name("style.css").read_text("ascii")
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # without a referrer the Origin of the console's own form would be null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

PATH: Final = "/_gateway/console"
VIEWS: Final = {"overview": "Overview", "routes": "Routes", "matrix": "Matrix", "explain": "Explain"}
ROWS: Final = 100  # of one page of a table


class Part(NamedTuple):
    """One page of a list. `number` counts from 1."""

    number: int
    pages: int
    total: int

    @staticmethod
    def of(number: int, total: int) -> "Part":
        """Return the page with this number, or the last page."""
        last = max(-(-total // ROWS), 1)
        return Part(min(number, last), last, total)

    @property
    def rows(self) -> slice:
        """The rows of the list on this page."""
        return slice((self.number - 1) * ROWS, self.number * ROWS)


class Column(NamedTuple):
    """A column of a table. `title` is HTML, `name` its plain text. The cells of a `number` are aligned at the end."""

    name: str
    number: bool = False
    title: str | None = None


def page_number(text: str) -> int:
    """Return the page number in a query; 1 for any other text."""
    return max(int(text), 1) if text.isascii() and text.isdecimal() and len(text) < 10 else 1


def link(view: str, **query: str) -> str:
    """The address of a view, escaped for an attribute. Empty values are left out."""
    return escape(f"{PATH}?{urlencode({'view': view, **{key: value for key, value in query.items() if value}})}")


def sign_in_page(message: str = "") -> str:
    """Build the form for visitors who are not signed in."""
    shown = f'<p class="alert" role="alert">{escape(message)}</p>' if message else ""
    return _document(
        "Sign in",
        f"""<header><div class="bar"><span class="brand">gateway</span></div></header>
<main><div class="card form"><h1>Sign in</h1>
<p class="soft">For administrators. The sign-in is for this console only, and lasts a few minutes.</p>{shown}
<form method="post" action="{PATH}"><input type="hidden" name="action" value="sign-in">
<label>E-mail address<input name="username" type="email" autocomplete="username" required autofocus></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<button class="primary">Sign in</button></form></div></main>""",
    )


def view_page(view: str, who: str, content: str, title: str | None = None) -> str:
    """Build a page for a signed-in administrator. `view` is the current entry of the navigation."""
    links = "".join(
        f'<a href="{link(name)}"{" aria-current=page" if name == view else ""}>{text}</a>'
        for name, text in VIEWS.items()
    )
    return _document(
        escape(title or VIEWS[view]),
        f"""<header><div class="bar"><span class="brand">gateway</span><nav aria-label="Console">{links}</nav>
<form method="post" action="{PATH}"><input type="hidden" name="action" value="sign-out">
<span class="soft">{escape(who)}</span><button>Sign out</button></form></div></header><main>{content}</main>""",
    )


def _document(title: str, body: str) -> str:
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · gateway</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body>{body}</body></html>"""


# ---- elements


def heading(title: str, aside: str = "") -> str:
    """Build the heading of a page. `title` is text, `aside` HTML beside it."""
    beside = f'<div class="soft small">{aside}</div>' if aside else ""
    return f'<div class="title"><h1>{escape(title)}</h1>{beside}</div>'


def card(title: str, content: str) -> str:
    """Build a section with a heading. `content` is HTML."""
    return f'<section class="card"><h2>{escape(title)}</h2>{content}</section>'


def alert(message: str) -> str:
    """Build a message about a problem."""
    return f'<p class="alert" role="alert">{escape(message)}</p>'


def tiles(facts: Mapping[str, str]) -> str:
    """Build a row of figures. The values are HTML."""
    terms = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="tiles">{terms}</dl>'


def facts(rows: Mapping[str, str]) -> str:
    """Build a list of names and values. The values are HTML."""
    return (
        f'<dl class="facts">{"".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows.items())}</dl>'
    )


def tag(text: str, kind: str = "") -> str:
    """Build a short text with a background. `kind` is good, bad, warn or empty."""
    return f'<span class="tag{" " + kind if kind else ""}">{escape(text)}</span>'


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], label: str) -> str:
    """Build a table, which is a list of cards in narrow windows. Cells are HTML; the first one heads its row."""
    head = "".join(f"<th{_kind(column)} scope=col>{column.title or escape(column.name)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cells(columns, row))}</tr>" for row in rows)
    return (
        f'<table class="cards"><caption class="hidden">{escape(label)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(columns: Sequence[Column], row: Sequence[str]) -> Iterable[str]:
    first, *others = row
    yield f"<th scope=row>{first}</th>"
    for column, cell in zip(columns[1:], others, strict=True):
        yield f'<td{_kind(column)} data-name="{escape(column.name)}"><div>{cell}</div></td>'


def _kind(column: Column) -> str:
    return ' class="n"' if column.number else ""


def turning(view: str, part: Part, **query: str) -> str:
    """Build the links to the other pages of a list; empty for a single page."""
    if part.pages == 1:
        return ""
    places = {"First": 1, "Previous": part.number - 1, "Next": part.number + 1, "Last": part.pages}
    links = "".join(
        f'<a href="{link(view, **query, page=str(number))}">{title}</a>'
        for title, number in places.items()
        if 1 <= number <= part.pages and number != part.number
    )
    shown = f"{part.rows.start + 1} to {min(part.rows.stop, part.total)} of {part.total}"
    return f'<nav class="pages" aria-label="Pages">{shown}{links}</nav>'


# ---- figures


def count(value: float) -> str:
    """A number of requests."""
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """A rate per second."""
    if value == 0:
        return "0"
    if value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """A duration with its unit; a dash without requests."""
    if seconds is None:
        return "–"
    milliseconds = seconds * 1000
    if milliseconds >= 1000:
        return f"{seconds:.1f} s"
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def percent(part: float, whole: float) -> str:
    """A share."""
    share = 100 * part / whole if whole else 0.0
    return "0 %" if share == 0 else "<0.1 %" if share < 0.1 else f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def clock(at: float) -> str:
    """The time of a day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
