"""`gateway top`: what the gateway is doing just now, from its metrics page."""

import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click

from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json, print_table, say
from gateway.cli.policy_file import loaded_policy
from gateway.errors import CannotStart
from gateway.operations.reading import Samples, samples_of
from gateway.operations.summary import Summary, summary_of
from gateway.settings.model import ServerSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

_TIMEOUT: Final = 5.0  # seconds for one page
_PATH: Final = "/_gateway/metrics"
_ROUTES: Final = ("route", "req/s", "5xx/s", "refused/s", "median", "p99", "upstream p99")
_TARGETS: Final = ("upstream", "target", "state", "busy", "idle", "waiting", "failures/s")


@click.command("top")
@config_option
@click.option("--url", metavar="URL", help="Where the gateway is, in the place of what the file says.")
@click.option("--interval", type=click.FloatRange(0.2, 60), default=2.0, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look for one interval, print it and end.")
@json_option
def command(config: Path, url: str | None, interval: float, once: bool, as_json: bool) -> int:
    """Watch requests, decisions and upstreams, live.

    Everything is read from the gateway's metrics page, so this address must be in observability.operations_allow. On
    anything but a terminal it looks once. Ctrl-C ends it.
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
    _watch(summaries, address, interval)
    return 0


def address_of(server: ServerSettings) -> str:
    """Where a gateway with these settings is reached from this machine."""
    # Addresses to listen on, not to connect to: a linter takes them for the former.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(server.host, server.host)  # noqa: S104
    port = server.operations_port or server.port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def page_address(url: str) -> str:
    """The metrics page of the gateway at a URL. Raises CannotStart where that is none."""
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CannotStart(f"--url {url}: not the http:// or https:// address of a gateway")
    return url if parts.path.endswith(_PATH) else url.rstrip("/") + _PATH


def read(address: str) -> Samples:
    """The samples of the page. Raises CannotStart with what is the matter, and what to do about it."""
    try:
        # Straight to the gateway: a proxy that the environment names is for the way out. And for CVE-2022-24797's sake
        # the gateway does not believe one anyway.
        with build_opener(ProxyHandler({})).open(Request(address), timeout=_TIMEOUT) as answer:  # noqa: S310  # checked above
            return samples_of(answer.read().decode())
    except HTTPError as error:
        raise CannotStart(f"cannot read {address}: {_why(error.code)}") from None
    except (URLError, OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        told = getattr(reason, "strerror", None) or reason
        raise CannotStart(f"cannot read {address}: {told} (is the gateway running there? --url says where)") from None
    except ValueError:
        raise CannotStart(f"cannot read {address}: what answers there is no metrics page of the gateway") from None


def _why(status: int) -> str:
    if status == 403:
        return "forbidden (this machine's address must be in observability.operations_allow)"
    if status == 404:
        return "not served there (observability.metrics is off, or server.operations_port names another port)"
    return f"it answers {status}"


def _summaries(address: str, interval: float) -> Iterator[Summary]:
    """What happened in each interval. Raises CannotStart when the page cannot be read; it can be asked again."""
    before, read_at = read(address), time.monotonic()
    while True:
        time.sleep(interval)
        after, now = read(address), time.monotonic()
        yield summary_of(before, after, now - read_at)
        before, read_at = after, now


# ---- for eyes


def _print(summary: Summary) -> None:
    say(_headline(summary))
    for columns, rows in ((_ROUTES, _route_rows(summary)), (_TARGETS, _target_rows(summary))):
        if rows:
            say()
            print_table(columns, rows)


def _headline(summary: Summary) -> str:
    said = [f"{summary.requests:.1f} requests/s"]
    said += [f"{status} {rate:.1f}/s" for status, rate in sorted(summary.statuses.items()) if rate]
    said += [f"{code} {rate:.1f}/s" for code, rate in sorted(summary.codes.items()) if rate]
    said += [
        f"{summary.connections} connections",
        f"{summary.workers} worker{'s' if summary.workers != 1 else ''}",
        f"{summary.cpu:.2f} cores",
        f"{summary.memory / 2**20:.0f} MiB",
        f"loop lag {_milliseconds(summary.lag)}",
    ]
    return "  ".join(said) + "".join(f"  {store.upper()} IS OUT" for store in summary.out)


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


def _watch(summaries: Iterator[Summary], address: str, interval: float) -> None:
    from rich.live import Live  # imported here: it takes longer than most commands
    from rich.text import Text

    # The first look says at once, as an error, what is the matter; later ones in the view, and go on.
    first = _view(next(summaries), address)
    with Live(first, screen=True, auto_refresh=False) as live:
        live.refresh()
        while True:
            try:
                shown = _view(next(summaries), address)
            except CannotStart as error:
                shown = Text(f"{error}\n\nTrying again. Ctrl-C ends.", style="red")
                summaries = _summaries(address, interval)
                time.sleep(interval)
            live.update(shown, refresh=True)


def _view(summary: Summary, address: str) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"gateway {summary.version}  {address}", style="dim"), Text(_headline(summary))]
    for columns, rows in ((_ROUTES, _route_rows(summary)), (_TARGETS, _target_rows(summary))):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number > 2 or column.endswith("/s") else "left", no_wrap=True)
        for row in rows:
            style = "red" if {"down", "ejected", "failing"}.intersection(row) else None
            table.add_row(*map(Text, row), style=style)
        parts.append(table)
    return Group(*parts)
