"""The tables as a page: `python -m tests.proxy.conformance.listing > docs/conformance.md`."""

from collections.abc import Iterable, Iterator

from tests.proxy.conformance.requests import PASSED, REFUSED
from tests.proxy.conformance.responses import BROKEN, INVALID, RETURNED
from tests.support.engines import HTTPX
from tests.support.faces import STOCK_UVICORN

Row = tuple[str, str]

INTRODUCTION = """\
# Conformance

What becomes of requests and responses, as RFC 9110 and RFC 9112 ask of an intermediary: the cases of
`tests/proxy/conformance`, sent over real sockets, byte by byte. They run by `gateway serve` and as an ASGI application
under uvicorn, with the native engine and with httpx. This page is made from the tables. WebSocket has a suite
that is not ours: the Autobahn cases run directly and through the gateway, and nothing that passes directly fails.
"""
PARTS = (
    (
        "Refused",
        "A request of this kind gets 400, its connection ends, and nothing of it reaches an upstream.",
        REFUSED,
    ),
    ("Passed on", "A request of this kind reaches the upstream, once, and as it should.", PASSED),
    ("Invalid responses", "The caller gets 502 `upstream_invalid`, and the connection is never used again.", INVALID),
    (
        "Broken responses",
        "The caller's response is aborted, or 502 where nothing has gone out: never a good end.",
        BROKEN,
    ),
    ("Returned", "A response of this kind reaches the caller as it should, and the connection goes on.", RETURNED),
)


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, about, cases in PARTS:
        rows = [(case.section, case.what) for case in cases]
        parts.append(f"## {title}: {len(rows)} cases\n\n{about}\n\n" + "\n".join(_grouped(rows)) + "\n")
    parts += [_differences("Under a stock ASGI server", STOCK_UVICORN), _differences("With the httpx engine", HTTPX)]
    return "\n".join(parts)


def _grouped(rows: Iterable[Row]) -> Iterator[str]:
    """One line for each section, with all that is tried of it."""
    sections: dict[str, list[str]] = {}
    for section, what in rows:
        sections.setdefault(section, []).append(what)
    yield "| RFC | cases |"
    yield "|---|---|"
    for section in sorted(sections, key=lambda text: [int(part) for part in text.replace(" ", ".").split(".")]):
        number, _, place = section.partition(" ")
        link = f"[{section}](https://www.rfc-editor.org/rfc/rfc{number}#section-{place})"
        yield f"| {link} | {'; '.join(sections[section])} |"


def _differences(title: str, known: dict[str, str]) -> str:
    rows = "\n".join(f"| {name} | {why} |" for name, why in known.items())
    return f"## {title}\n\nWhat cannot be done there, and why.\n\n| | |\n|---|---|\n{rows}\n"


if __name__ == "__main__":
    print(page(), end="")
