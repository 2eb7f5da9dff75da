"""The pages of the console as HTML. All text from requests, the configuration or the database is escaped."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

from gateway.analysis.describe import callers_in_words
from gateway.analysis.explain import Explanation
from gateway.analysis.matrix import Cell, Matrix
from gateway.observability.metrics.summary import Summary
from gateway.policy.route import Route

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --good: #2a7d2a; --bad: #c0392b; --some: #b7791f }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 3rem }
header { display: flex; gap: 1.5rem; align-items: baseline; padding-bottom: .5rem;
  border-bottom: 1px solid var(--line) }
header b { font-size: 1.1rem } header form { margin-left: auto }
nav { display: flex; gap: 1rem } nav a { color: inherit }
nav a[aria-current] { font-weight: 600; text-decoration: none }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--dim); font-weight: 500 } td.n, th.n { text-align: right }
code, td:first-child { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem } dt { color: var(--dim) } dd { margin: 0; font-size: 1.25rem }
label { display: block; margin: .5rem 0 }
input, select { font: inherit; padding: .3rem .5rem; width: 24rem; max-width: 100% }
button { font: inherit; padding: .3rem .9rem; cursor: pointer }
.good { color: var(--good) } .bad { color: var(--bad) } .some { color: var(--some) } .dim { color: var(--dim) }
.scroll { overflow-x: auto }
"""

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
VIEWS: Final = {"now": "Now", "policy": "Policy", "explain": "Explain"}
_ROWS: Final = 100  # of one page of a table
_MOST_TARGETS: Final = 200
_STATES: Final = {"up": "good", "down": "bad", "ejected": "bad", "failing": "bad"}
_ACCESS: Final = {"yes": ("yes", "good"), "no": ("–", "dim"), "owner": ("own", "some"), "together": ("with", "some")}


class Part(NamedTuple):
    """One page of a list. `number` counts from 1."""

    number: int
    pages: int
    total: int

    @staticmethod
    def of(number: int, total: int) -> "Part":
        """Return the page with this number, or the last page."""
        last = max(-(-total // _ROWS), 1)
        return Part(min(number, last), last, total)

    @property
    def rows(self) -> slice:
        """The rows of the list on this page."""
        return slice((self.number - 1) * _ROWS, self.number * _ROWS)


def page_number(text: str) -> int:
    """Return the page number in a query; 1 for any other text."""
    return max(int(text), 1) if text.isascii() and text.isdecimal() and len(text) < 10 else 1


def sign_in_page(message: str = "") -> str:
    """Build the form for visitors who are not signed in."""
    alert = f'<p class="bad" role="alert">{escape(message)}</p>' if message else ""
    return _document(
        "Sign in",
        f"""<header><b>gateway</b></header><main><h1>Sign in</h1>{alert}
<form method="post" action="{PATH}"><input type="hidden" name="action" value="sign-in">
<label>E-mail address<br><input name="username" type="email" autocomplete="username" required autofocus></label>
<label>Password<br><input name="password" type="password" autocomplete="current-password" required></label>
<button>Sign in</button></form>
<p class="dim">For administrators. You are signed in for this page only, and only for a few minutes.</p></main>""",
    )


def view_page(view: str, who: str, content: str) -> str:
    """Build a page for a signed-in administrator."""
    links = "".join(
        f'<a href="{PATH}?view={name}"{" aria-current=page" if name == view else ""}>{title}</a>'
        for name, title in VIEWS.items()
    )
    refresh = '<meta http-equiv="refresh" content="10">' if view == "now" else ""
    return _document(
        VIEWS[view],
        f"""<header><b>gateway</b><nav>{links}</nav><form method="post" action="{PATH}">
<input type="hidden" name="action" value="sign-out"><span class="dim">{escape(who)}</span>
<button>Sign out</button></form></header><main>{content}</main>""",
        refresh,
    )


def _document(title: str, body: str, head: str = "") -> str:
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · gateway</title>{head}
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{STYLE}</style></head>
<body>{body}</body></html>"""


# ---- now


def now(summary: Summary, policy: str, part: Part) -> str:
    """Build the rates of a summary that contains the routes of `part`. `policy` is its version."""
    facts = {
        "requests/s": f"{summary.requests:.1f}",
        "connections": str(summary.connections),
        "workers": str(summary.workers),
        "cores": f"{summary.cpu:.2f}",
        "memory": f"{summary.memory / 2**20:.0f} MiB",
        "loop lag p99": _milliseconds(summary.lag),
        "version": summary.version,
        "policy": policy,
    }
    out = "".join(f'<p class="bad" role="alert">{escape(store)} is down</p>' for store in summary.out)
    terms = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"{out}<dl>{terms}</dl>{_routes(summary, part)}{_decisions(summary)}{_targets(summary)}"


def no_numbers() -> str:
    """Build the replacement for the rates where metrics are switched off."""
    return "<p>Metrics are switched off: <code>observability.metrics</code>.</p>"


def _routes(summary: Summary, part: Part) -> str:
    rows = [
        [
            escape(row.route or "(none)"),
            *(f"{rate:.1f}" for rate in (row.requests, row.errors, row.refused)),
            *map(_milliseconds, (row.median, row.slowest, row.upstream)),
        ]
        for row in summary.routes
    ]
    columns = ("route", "req/s", "5xx/s", "refused/s", "median", "p99", "upstream p99")
    return _table("Routes", columns, rows) + _turning("now", part)


def _decisions(summary: Summary) -> str:
    rows = [[escape(code), f"{rate:.1f}"] for code, rate in sorted(summary.codes.items()) if rate]
    return _table("Refusals", ("code", "/s"), rows)


def _targets(summary: Summary) -> str:
    shown = sorted(summary.targets, key=lambda row: row.state == "up")[:_MOST_TARGETS]
    rows = [
        [
            escape(row.upstream),
            escape(row.target),
            f'<span class="{_STATES[row.state]}">{row.state}</span>',
            *(str(count) for count in (row.busy, row.idle, row.waiting)),
            f"{row.failures:.1f}",
        ]
        for row in shown
    ]
    more = len(summary.targets) - len(shown)
    rest = f"<p>{more} more: <code>gateway top --once</code> shows them.</p>" if more else ""
    columns = ("upstream", "target", "state", "busy", "idle", "waiting", "failures/s")
    return _table("Upstreams", columns, rows, 3) + rest


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"


# ---- policy


def policy(table: Matrix, part: Part, hidden_roles: int) -> str:
    """Build the table of the access of each kind of caller to the routes of `part`. `hidden_roles` have no column."""
    columns = ("route", "asks", "anonymous", "signed in", *map(escape, table.roles))
    rows = [
        [
            escape(label_of(row.route)),
            escape(callers_in_words(row.route)),
            *map(_cell, (row.anonymous, row.signed_in, *row.roles)),
        ]
        for row in table.rows
    ]
    rest = f"<p>{hidden_roles} more roles: <code>gateway matrix</code> shows them.</p>" if hidden_roles else ""
    note = '<p class="dim">own: only where the path contains their own id. with: only together with other roles.</p>'
    return _table("Who can reach what", columns, rows, len(columns)) + _turning("policy", part) + rest + note


def label_of(route: Route) -> str:
    """Return the methods, host and path of a route."""
    methods = sorted(method.decode() for method in route.methods or ())
    shown = [method for method in methods if method != "HEAD" or "GET" not in methods]
    host = "" if route.host is None else route.host.decode()
    return f"{','.join(shown)} {host}{route.pattern}".strip()


def _cell(cell: Cell) -> str:
    text, kind = _ACCESS[cell.access]
    needs = f" {(' or ' if cell.any_will_do else ' and ').join(cell.needs)}" if cell.needs else ""
    return f'<span class="{kind}">{text}{escape(needs)}{" or own" if cell.owner and needs else ""}</span>'


# ---- explain


def explain(form: Mapping[str, str], result: str) -> str:
    """Build the form with the explained request, and the result."""

    def field(name: str, title: str, hint: str) -> str:
        return (
            f'<label>{title}<br><input name="{name}" value="{escape(form.get(name, ""))}" placeholder="{hint}"></label>'
        )

    kinds = "".join(
        f'<option value="{kind}"{" selected" if form.get("caller") == kind else ""}>{title}</option>'
        for kind, title in (("signed-in", "a signed-in user"), ("anonymous", "an anonymous caller"))
    )
    return f"""<h2>Why is a request allowed, or refused?</h2><form method="get" action="{PATH}">
<input type="hidden" name="view" value="explain">{field("method", "Method", "GET")}
{field("url", "URL or path", "/orders/7")}
<label>Caller<br><select name="caller">{kinds}</select></label>
{field("roles", "with the roles", "editor, auditor")}{field("id", "and the id", "")}
<button>Explain</button></form>{result}"""


def explained(explanation: Explanation) -> str:
    """Build the decision and its reasons."""
    verdict = explanation.verdict
    word, kind = ("allowed", "good") if verdict.is_allowed else ("refused", "bad")
    refusal = "" if verdict.refusal is None else f" {verdict.refusal.status} <code>{verdict.refusal.code}</code>"
    facts = [f'<p class="{kind}"><b>{word}</b>{refusal}: {escape(explanation.reason)}</p>']
    rows: list[list[str]] = []
    if verdict.target is not None:
        rows.append(["canonical path", f"<code>{escape(verdict.target.path.decode('latin-1'))}</code>"])
    if verdict.route is not None:
        rows.append(
            ["route", f"<code>{escape(verdict.route.name)}</code>, for {escape(callers_in_words(verdict.route))}"]
        )
        if verdict.route.position is not None:
            rows.append(["written at", f"line {verdict.route.position.line}"])
    for held in explanation.held:
        by = f" (by {' → '.join(held.by)})" if held.by else ""
        rows.append(["role", escape(held.role + by)])
    if explanation.sent is not None:
        rows.append(["sent on as", f"<code>{escape(explanation.sent.decode('latin-1'))}</code>"])
    others = [one for one in explanation.candidates if one.lost]
    rows += [["considered", f"<code>{escape(label_of(one.route))}</code>: {escape(one.lost)}"] for one in others]
    return "".join(facts) + _table("", ("", ""), rows, 2)


def problem(message: str) -> str:
    """Build the message about a request that cannot be explained."""
    return f'<p class="bad" role="alert">{escape(message)}</p>'


# ---- tables


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Build a table. Cells are HTML. The first `words` columns are text, the others numbers."""
    body = "".join(f"<tr>{''.join(_td(number, cell, words) for number, cell in enumerate(row))}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th{_kind(number, words)}>{column}</th>" for number, column in enumerate(columns))
    heading = f"<h2>{title}</h2>" if title else ""
    return f'{heading}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _turning(view: str, part: Part) -> str:
    """Build the links to the other pages of a list; empty for a single page."""
    if part.pages == 1:
        return ""
    first = part.rows.start + 1
    places = {"First": 1, "Previous": part.number - 1, "Next": part.number + 1, "Last": part.pages}
    links = "".join(
        f'<a href="{PATH}?view={view}&amp;page={number}">{title}</a>'
        for title, number in places.items()
        if 1 <= number <= part.pages and number != part.number
    )
    return f"<nav>{first} to {min(part.rows.stop, part.total)} of {part.total}{links}</nav>"


def _td(number: int, cell: str, words: int) -> str:
    return f"<td{_kind(number, words)}>{cell}</td>"


def _kind(number: int, words: int) -> str:
    return "" if number < words else ' class="n"'
