"""The table of routes: filtered, sorted and paged by the query, with the rates of each route."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Final, NamedTuple

from gateway.analysis.describe import callers_in_words, label_of
from gateway.api.console import pages
from gateway.api.console.pages import Column, Part
from gateway.observability.metrics.parser import Reading
from gateway.observability.metrics.summary import RouteRates, RouteRow, route_rates, route_rows
from gateway.policy.policy import Policy
from gateway.policy.route import Route

_ACCESS: Final = {
    "": "any",
    "everyone": "everyone",
    "signed-in": "any signed-in user",
    "roles": "users with roles",
    "owner": "the owner only",
}
_KINDS: Final = {"": "of the file", "shadow": "shadow rules", "own": "of the gateway itself"}
_NO_RATES: Final = RouteRates()


class Readings(NamedTuple):
    """Two readings of the metrics, `seconds` apart. Both are None without metrics."""

    before: Reading | None
    after: Reading | None
    seconds: float


class RouteQuery(NamedTuple):
    """The query of the table. `text` occurs in the path, the name, the upstream or the rule."""

    text: str = ""
    access: str = ""
    upstream: str = ""
    kind: str = ""
    sort: str = ""
    page: int = 1

    @staticmethod
    def of(query: Mapping[str, str]) -> "RouteQuery":
        """Read a query. Unknown values count as missing."""
        access, kind, sort = (query.get(name, "") for name in ("access", "kind", "sort"))
        return RouteQuery(
            text=query.get("q", "").strip()[:200],
            access=access if access in _ACCESS else "",
            upstream=query.get("upstream", ""),
            kind=kind if kind in _KINDS else "",
            sort=sort if sort in _SORTS else "",
            page=pages.page_number(query.get("page", "")),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The parameters for links, without the page."""
        return {"q": self.text, "access": self.access, "upstream": self.upstream, "kind": self.kind, "sort": self.sort}

    def admits(self, route: Route) -> bool:
        """Whether the table contains a route."""
        if self.kind == "own":
            return self._matches(route) and route.is_served
        return route.shadow == (self.kind == "shadow") and self._matches(route)

    def _matches(self, route: Route) -> bool:
        if self.upstream and route.upstream != self.upstream:
            return False
        if self.access and access_of(route) != self.access:
            return False
        text = self.text.lower()
        parts = (label_of(route), route.name, route.upstream or "", callers_in_words(route))
        return not text or any(text in part.lower() for part in parts)


def access_of(route: Route) -> str:
    """The kind of callers that a route admits."""
    if route.authentication != "required":
        return "everyone"
    if route.requirement.names_roles:
        return "roles"
    return "owner" if route.requirement.owner is not None else "signed-in"


_SORTS: Final[Mapping[str, Callable[[Route, RouteRates], tuple[str | bytes | float, ...]]]] = {
    "path": lambda route, _: (route.pattern, route.host or b"", label_of(route)),
    "requests": lambda _, rates: (-rates.requests,),
    "errors": lambda _, rates: (-rates.errors,),
    "refused": lambda _, rates: (-rates.refused,),
    "upstream": lambda route, _: (route.upstream or "",),
}


def route_list(policy: Policy, readings: Readings, query: RouteQuery) -> str:
    """Build one page of the table."""
    rates = _rates(readings)
    found = [route for route in (policy.own if query.kind == "own" else policy.routes) if query.admits(route)]
    if query.sort:
        order = _SORTS[query.sort]
        found.sort(key=lambda route: order(route, rates.get(route.name, _NO_RATES)))
    part = Part.of(query.page, len(found))
    shown = found[part.rows]
    cells = zip(shown, _rows(readings, [route.name for route in shown], rates), strict=True)
    body = pages.table(_columns(query), [_cells(route, row) for route, row in cells], "Routes")
    content = (
        body if shown else '<p class="soft">No route matches. <a href="' + pages.link("routes") + '">All routes</a></p>'
    )
    aside = "" if readings.after is None else f"Rates of the last {readings.seconds:.0f} s"
    return (
        pages.heading(f"Routes ({len(found):,})", aside)
        + _filters(policy, query)
        + f'<section class="card">{content}{pages.turning("routes", part, **query.fields)}</section>'
    )


def _rates(readings: Readings) -> Mapping[str, RouteRates]:
    if readings.before is None or readings.after is None:
        return {}
    return route_rates(readings.before, readings.after, readings.seconds)


def _rows(readings: Readings, names: list[str], rates: Mapping[str, RouteRates]) -> Iterable[RouteRow | None]:
    if readings.before is None or readings.after is None:
        return [None for _ in names]
    return route_rows(readings.before, readings.after, names, rates)


def _cells(route: Route, row: RouteRow | None) -> list[str]:
    name = "" if route.name == label_of(route) else f'<br><span class="soft small">{escape(route.name)}</span>'
    label = f'<a href="{pages.link("route", name=route.name)}"><code>{escape(label_of(route))}</code></a>{name}'
    cells = [label, escape(callers_in_words(route)), escape(route.upstream or "the gateway")]
    if row is None:
        return cells + ["–"] * 5
    figures = [pages.rate(row.requests), pages.rate(row.errors), pages.rate(row.refused)]
    return cells + figures + [pages.duration(row.median), pages.duration(row.slowest)]


def _columns(query: RouteQuery) -> list[Column]:
    def sortable(name: str, sort: str, *, number: bool = False) -> Column:
        current = " aria-current=true" if query.sort == sort else ""
        arrow = ("↑" if sort in ("path", "upstream") else "↓") if current else "↕"
        address = pages.link("routes", **{**query.fields, "sort": "" if current else sort})
        sign = f'<span aria-hidden="true">{arrow}</span>'
        return Column(
            name,
            number,
            f'<a href="{address}"{current}>{name}&nbsp;{sign}</a>',
        )

    return [
        sortable("Route", "path"),
        Column("Who passes"),
        sortable("Upstream", "upstream"),
        sortable("Requests/s", "requests", number=True),
        sortable("5xx/s", "errors", number=True),
        sortable("Refused/s", "refused", number=True),
        Column("Median", True),
        Column("p99", True),
    ]


def _filters(policy: Policy, query: RouteQuery) -> str:
    upstreams = sorted({route.upstream for route in policy.routes if route.upstream is not None})
    options = {"": "any", **{name: name for name in upstreams}}
    sort = f'<input type="hidden" name="sort" value="{escape(query.sort)}">' if query.sort else ""
    return (
        f'<form class="filters" method="get" action="{pages.PATH}"><input type="hidden" name="view" value="routes">'
        f'{sort}<label class="wide">Search<input name="q" value="{escape(query.text)}" '
        'placeholder="path, name, role or upstream"></label>'
        + _select("Access", "access", _ACCESS, query.access)
        + _select("Upstream", "upstream", options, query.upstream)
        + _select("Routes", "kind", _KINDS, query.kind)
        + '<button class="primary">Apply</button></form>'
    )


def _select(title: str, name: str, options: Mapping[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{title}<select name="{name}">{listed}</select></label>'
