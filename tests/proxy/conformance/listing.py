"""Generate docs/conformance.md: `python -m tests.proxy.conformance.listing > docs/conformance.md`."""

from collections.abc import Iterable, Iterator

from tests.proxy.conformance.requests import PASSED, REFUSED
from tests.proxy.conformance.responses import BROKEN, INVALID, RETURNED
from tests.support.engines import HTTPX
from tests.support.faces import STOCK_UVICORN

Row = tuple[str, str]

INTRODUCTION = """\
# Conformance

At the end of this page, you know the test cases that check the gateway against RFC 9110 and RFC 9112.

This page lists the test cases for RFC 9110 and RFC 9112, which define the duties of an HTTP intermediary. They are in
`tests/proxy/conformance` and run over real sockets, byte by byte, against `gateway serve` and the ASGI application
under uvicorn, with the native engine and with httpx. The page is generated from the tables of these tests. WebSocket
has an independent suite: the Autobahn cases run directly and through the gateway, and every case that passes directly
also passes through the gateway.
"""
PARTS = (
    (
        "Refused",
        "Each of these requests gets 400, its connection is closed, and no part of it reaches an upstream.",
        REFUSED,
    ),
    ("Forwarded", "Each of these requests reaches the upstream exactly once, in the expected form.", PASSED),
    (
        "Invalid responses",
        "The client gets 502 `upstream_invalid`, and the gateway never reuses the upstream connection.",
        INVALID,
    ),
    (
        "Broken responses",
        "The gateway aborts the client's response, or sends 502 if it has sent nothing yet. It never completes it.",
        BROKEN,
    ),
    (
        "Returned",
        "Each of these responses reaches the client in the expected form, and the connection stays usable.",
        RETURNED,
    ),
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
    """One row per section, with all its cases."""
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
    return f"## {title}\n\nLimitations, and the reason for each.\n\n| | |\n|---|---|\n{rows}\n"


if __name__ == "__main__":
    print(page(), end="")
