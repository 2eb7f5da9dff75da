"""`gateway serve`: run the gateway."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gateway.cli.configuration import config_option, loaded
from gateway.cli.output import say, warn
from gateway.errors import CannotStart
from gateway.policy.loader import Configuration
from gateway.server.file_watch import WatchedFile
from gateway.server.serve import serve


@click.command("serve")
@config_option
@click.option("--host", help="The address to listen on; overrides server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; overrides server.port. 0: any free port.")
@click.option("--workers", type=click.IntRange(1, 256), help="The number of processes; overrides server.workers.")
@click.option("--watch", is_flag=True, help="Reload the file when it changes, as on SIGHUP.")
def command(config: Path, host: str | None, port: int | None, workers: int | None, watch: bool) -> int:
    """Run the gateway.

    Prints its address when it is ready. SIGTERM and Ctrl-C let running requests finish within server.drain. SIGHUP
    reloads the file; a file with problems is rejected, and the previous configuration stays in use.
    """

    def load() -> Configuration:
        return with_server(loaded(config, to_serve=True), host=host, port=port, workers=workers)

    gc.freeze()  # The objects of the imports live as long as the process. Searching them takes a tenth of the start.
    source = WatchedFile(config, load) if watch else load
    # No variable keeps the first configuration, so that a reload can free it.
    return serve(_with_warnings(source()), announce=_announce, load=source)


def _with_warnings(configuration: Configuration) -> Configuration:
    for warning in configuration.warnings:
        warn(str(warning))
    return configuration


def _announce(address: str) -> None:
    # Standard output is for the access log.
    say(f"listening on {address}", err=True)


def with_server(configuration: Configuration, **options: Any) -> Configuration:
    """Override `server` settings with the options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = configuration.settings
    server = replace(settings.server, **given)
    # The same check as for the file: processes without Redis do not see each other's changes.
    if server.workers > 1 and settings.storage.redis is None:
        raise CannotStart(f"{server.workers} workers need storage.redis to share changes; set it, or run 1 worker")
    return replace(configuration, settings=replace(settings, server=server))
