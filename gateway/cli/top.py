"""`gateway top`: live figures from the metrics page."""

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click

from gateway.cli.configuration import config_option, json_option, loaded_policy
from gateway.cli.keyboard import Keyboard, Quit
from gateway.cli.output import print_json, print_table, say
from gateway.errors import CannotStart
from gateway.observability.metrics.parser import Reading, reading_of_page
from gateway.observability.metrics.summary import Summary, summary_of
from gateway.settings.model import ServerSettings

# Only an annotation. rich is imported for a terminal.
if TYPE_CHECKING:
    from rich.console import RenderableType

_TIMEOUT: Final = 5.0  # seconds for one page
_PATH: Final = "/_gateway/metrics"
_ROUTES: Final = ("route", "req/s", "5xx/s", "refused/s", "median", "p99", "upstream p99")
_TARGETS: Final = ("upstream", "target", "state", "busy", "idle", "waiting", "failures/s")
# Headings for terminals narrower than _WIDE.
_ROUTES_NARROW: Final = ("route", "req/s", "5xx", "ref", "p50", "p99", "up99")
_TARGETS_NARROW: Final = ("upstream", "target", "state", "busy", "idle", "wait", "fail")
_WIDE: Final = 100


@click.command("top")
@config_option
@click.option("--url", metavar="URL", help="The address of the gateway; overrides that of the configuration.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="Seconds between two samples."
)
@click.option("--once", is_flag=True, help="Sample one interval, print it, and exit.")
@json_option
def command(config: Path, url: str | None, interval: float, once: bool, as_json: bool) -> int:
    """Watch requests, decisions and upstreams, live.

    The figures come from the metrics page of the gateway, so observability.operations_allow must include this
    machine's address. If standard output is not a terminal, it prints one sample. q or Ctrl-C exits.
    """
    address = page_address(url or address_of(loaded_policy(config).settings.server))
    summaries = _summaries(address, interval)
    if once or as_json or not sys.stdout.isatty():
        summary = next(summaries)
        if as_json:
            print_json(summary.document())
        else:
            _print(summary)
        return 0
    with Keyboard(sys.stdin) as keyboard, suppress(Quit):
        _watch(keyboard, address, interval)
    return 0


def address_of(server: ServerSettings) -> str:
    """The address at which this machine reaches a gateway with these settings."""
    # Wildcard addresses cannot be connected to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(server.host, server.host)  # noqa: S104
    port = server.operations_port or server.port
    scheme = "https" if server.tls and not server.operations_port else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def page_address(url: str) -> str:
    """The URL of the metrics page. Raises CannotStart for an invalid URL."""
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CannotStart(f"--url {url}: not the http:// or https:// address of a gateway")
    return url if parts.path.endswith(_PATH) else url.rstrip("/") + _PATH


def read(address: str) -> Reading:
    """Read the page. Raises CannotStart with the reason and a remedy."""
    try:
        # Ignore the proxy of the environment, which is for outgoing requests. The gateway also refuses this page to
        # untrusted proxies (CVE-2022-24797).
        with build_opener(ProxyHandler({})).open(Request(address), timeout=_TIMEOUT) as answer:  # noqa: S310  # checked above
            return reading_of_page(answer.read().decode())
    except HTTPError as error:
        raise CannotStart(f"cannot read {address}: {_why(error.code)}") from None
    except (URLError, OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        cause = getattr(reason, "strerror", None) or reason
        raise CannotStart(f"cannot read {address}: {cause} (is the gateway running? --url gives its address)") from None
    except ValueError:
        raise CannotStart(f"cannot read {address}: the response is not a metrics page of the gateway") from None


def _why(status: int) -> str:
    if status == 403:
        return "forbidden (this machine's address must be in observability.operations_allow)"
    if status == 404:
        return "not served there (observability.metrics is off, or server.operations_port names another port)"
    return f"it answers {status}"


def _summaries(address: str, interval: float, keyboard: Keyboard | None = None) -> Iterator[Summary]:
    """The summary of each interval. Raises CannotStart if the page cannot be read; a new iterator retries."""
    wait = time.sleep if keyboard is None else keyboard.wait
    before, read_at = _reading(address, keyboard), time.monotonic()
    while True:
        wait(interval)
        after, now = _reading(address, keyboard), time.monotonic()
        yield summary_of(before, after, now - read_at)
        before, read_at = after, now


def _reading(address: str, keyboard: Keyboard | None) -> Reading:
    return read(address) if keyboard is None else keyboard.wait_for(lambda: read(address))


# ---- rendering


def _print(summary: Summary) -> None:
    say(_headline(summary))
    for columns, rows in ((_ROUTES, _route_rows(summary)), (_TARGETS, _target_rows(summary))):
        if rows:
            say()
            print_table(columns, rows)


def _headline(summary: Summary) -> str:
    parts = [f"{summary.requests:.1f} requests/s"]
    parts += [f"{status} {rate:.1f}/s" for status, rate in sorted(summary.statuses.items()) if rate]
    parts += [f"{code} {rate:.1f}/s" for code, rate in sorted(summary.codes.items()) if rate]
    parts += [
        f"{summary.connections} connection{'s' if summary.connections != 1 else ''}",
        f"{summary.workers} worker{'s' if summary.workers != 1 else ''}",
        f"{summary.cpu:.2f} cores",
        f"{summary.memory / 2**20:.0f} MiB",
        f"loop lag {_milliseconds(summary.lag)}",
    ]
    return "  ".join(parts) + "".join(f"  {store.upper()} IS DOWN" for store in summary.out)


def _route_rows(summary: Summary) -> list[list[str]]:
    return [
        [
            row.route or "(none)",
            *(f"{rate:.1f}" for rate in (row.requests, row.errors, row.refused)),
            *map(_milliseconds, (row.median, row.slowest, row.upstream)),
        ]
        for row in summary.routes
    ]


def _target_rows(summary: Summary) -> list[list[str]]:
    return [
        [
            row.upstream,
            row.target,
            row.state,
            *(str(count) for count in (row.busy, row.idle, row.waiting)),
            f"{row.failures:.1f}",
        ]
        for row in summary.targets
    ]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _watch(keyboard: Keyboard, address: str, interval: float) -> None:
    from rich.console import Console  # imported here: rich takes longer to import than most commands run
    from rich.live import Live
    from rich.text import Text

    console = Console()
    summaries = _summaries(address, interval, keyboard)
    # An error in the first sample ends the command. Later errors are shown, and the next sample retries.
    first = next(summaries)
    with Live(screen=True, auto_refresh=False, console=console) as live:
        live.update(screen_of(first, address, *console.size), refresh=True)
        while True:
            try:
                shown = screen_of(next(summaries), address, *console.size)
            except CannotStart as error:
                shown = Text(f"{error}\n\nRetrying. q or Ctrl-C exits.", style="red")
                summaries = _summaries(address, interval, keyboard)
                keyboard.wait(interval)
            live.update(shown, refresh=True)


def screen_of(summary: Summary, address: str, width: int, height: int) -> "RenderableType":
    """One screen. If space is short, names are truncated and rows left out, but never figures."""
    from rich.console import Group  # Imported here, as above.
    from rich.text import Text

    is_narrow = width < _WIDE
    # A figure and its unit stay on one line: textwrap does not break at a no-break space.
    joined = " \N{MIDDLE DOT} ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in _headline(summary).split("  "))
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(joined, width)]
    parts: list[RenderableType] = [Text(_shortened(f"gateway {summary.version}  {address}", width), style="dim")]
    parts += [Text(line) for line in lines]
    tables = [
        (_ROUTES_NARROW if is_narrow else _ROUTES, _route_rows(summary), 1),
        (_TARGETS_NARROW if is_narrow else _TARGETS, _target_rows(summary), 3),
    ]
    # Each table has a blank line, a heading, and a line about omitted rows if necessary.
    lines_left = max(height - len(parts) - 3 * len(tables) - 1, 2 * len(tables))
    for number, (columns, rows, names) in enumerate(tables):
        share = max(lines_left // (len(tables) - number), 1)
        lines_left -= min(share, len(rows))
        parts += _table(columns, rows, names, width, share)
    parts.append(Text("q quits", style="dim"))
    return Group(*parts)


def _table(columns: Sequence[str], rows: list[list[str]], names: int, width: int, most: int) -> "list[RenderableType]":
    """A heading and at most `most` rows. The first `names` columns hold names and share the remaining width."""
    from rich.text import Text  # Imported here, as above.

    if not rows:
        return []
    shown = rows[:most]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    left = width - sum(widths[names:]) - 2 * (len(columns) - 1)
    widths[:names] = _shared(widths[:names], max(left, names))
    lines: list[RenderableType] = [Text(), Text(_aligned(columns, widths, names), style="bold")]
    for row in shown:
        is_bad = bool({"down", "ejected", "failing"}.intersection(row))
        lines.append(Text(_aligned(row, widths, names), style="red" if is_bad else ""))
    if len(rows) > most:
        lines.append(Text(f"and {len(rows) - most} more", style="dim"))
    return lines


def _shared(desired: list[int], available: int) -> list[int]:
    """Reduce the widths of columns to the available room, the widest first."""
    widths = list(desired)
    while sum(widths) > available and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths


def _aligned(cells: Sequence[str], widths: list[int], names: int) -> str:
    fitted = [_shortened(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(
        cell.ljust(width) if number < names else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(fitted, widths, strict=True))
    )


def _shortened(text: str, width: int) -> str:
    """Shorten a name in the middle, because both ends of a path distinguish routes."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
