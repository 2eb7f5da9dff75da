"""The form that explains the decision about a request, and the explanation."""

from collections.abc import Mapping
from html import escape

from gateway.analysis.describe import callers_in_words, label_of
from gateway.analysis.explain import Explanation, Person, explain
from gateway.analysis.simulate import PolicyRequest, parse_request_line
from gateway.api.console import pages
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from gateway.settings.reader import InvalidValue

_CALLERS = {"signed-in": "a signed-in user", "anonymous": "an anonymous caller"}


def explain_view(configuration: Configuration, form: Mapping[str, str]) -> str:
    """Build the form, and the decision about the request in it."""
    beside = ""
    if form.get("url"):
        try:
            request = parse_request_line(form.get("method") or "GET", form["url"])
        except InvalidValue as error:
            message = f"{error.message}{f' ({error.right})' if error.right else ''}"
            beside = f"<div>{pages.alert(message)}</div>"
        else:
            beside = _explained(_explanation(configuration, form, request))
    heading = pages.heading("Why is a request allowed, or refused?")
    return f'{heading}<div class="columns">{_form(form)}{beside}</div>'


def _explanation(configuration: Configuration, form: Mapping[str, str], request: PolicyRequest) -> Explanation:
    roles = frozenset(role.strip() for role in form.get("roles", "").split(",") if role.strip())
    person = None if form.get("caller") == "anonymous" else Person(form.get("id", ""), roles)
    hierarchy = RoleHierarchy(configuration.settings.roles)
    return explain(configuration.policy, hierarchy, request, person, configuration.shadows)


def _form(form: Mapping[str, str]) -> str:
    def field(name: str, title: str, hint: str) -> str:
        value = escape(form.get(name, ""))
        return f'<label>{title}<input name="{name}" value="{value}" placeholder="{hint}"></label>'

    kinds = "".join(
        f'<option value="{kind}"{" selected" if form.get("caller") == kind else ""}>{title}</option>'
        for kind, title in _CALLERS.items()
    )
    return f"""<form class="card form" method="get" action="{pages.PATH}">
<input type="hidden" name="view" value="explain">{field("method", "Method", "GET")}
{field("url", "URL or path", "/orders/7")}<label>Caller<select name="caller">{kinds}</select></label>
{field("roles", "with the roles", "editor, auditor")}{field("id", "and the id", "")}
<button class="primary">Explain</button></form>"""


def _explained(explanation: Explanation) -> str:
    """Build the decision and its reasons."""
    verdict = explanation.verdict
    word, kind = ("✓ allowed", "good") if verdict.is_allowed else ("✕ refused", "bad")
    refusal = "" if verdict.refusal is None else f" {verdict.refusal.status} <code>{verdict.refusal.code}</code>"
    rows: dict[str, str] = {}
    if verdict.target is not None:
        rows["canonical path"] = f"<code>{escape(verdict.target.path.decode('latin-1'))}</code>"
    if verdict.route is not None:
        name = escape(verdict.route.name)
        rows["route"] = f'<a href="{pages.link("route", name=verdict.route.name)}">{name}</a>'
        rows["it admits"] = escape(callers_in_words(verdict.route))
        if verdict.route.position is not None:
            rows["written at"] = f"line {verdict.route.position.line}"
    held = [escape(each.role + (f" (by {' → '.join(each.by)})" if each.by else "")) for each in explanation.held]
    if held:
        rows["roles"] = "<br>".join(held)
    if explanation.sent is not None:
        rows["sent on as"] = f"<code>{escape(explanation.sent.decode('latin-1'))}</code>"
    others = [
        f"<code>{escape(label_of(one.route))}</code>: {escape(one.lost)}" for one in explanation.candidates if one.lost
    ]
    if others:
        rows["considered"] = "<br>".join(others)
    return (
        f'<section class="card" aria-label="Decision"><p>{pages.tag(word, kind)}{refusal}</p>'
        f"<p>{escape(explanation.reason)}</p>{pages.facts(rows)}</section>"
    )
