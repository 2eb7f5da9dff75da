"""`gateway serve`: the gateway itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gateway.cli.configuration import loaded
from gateway.cli.options import config_option
from gateway.cli.output import say, warn
from gateway.errors import CannotStart
from gateway.policy.loading import Configuration
from gateway.server.run import serve
from gateway.server.watched_file import WatchedFile


@click.command("serve")
@config_option
@click.option("--host", help="The address to listen on, in the place of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, in the place of server.port; 0: a free one.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes, in the place of server.workers.")
@click.option("--watch", is_flag=True, help="Load the file anew when it has changed, as on SIGHUP.")
def command(config: Path, host: str | None, port: int | None, workers: int | None, watch: bool) -> int:
    """Run the gateway.

    It says where it listens once it answers. SIGTERM and Ctrl-C let what runs finish, for at most server.drain. SIGHUP
    loads the file anew; one with problems is refused, and the old one stays.
    """

    def load() -> Configuration:
        return with_server(loaded(config, to_serve=True), host=host, port=port, workers=workers)

    source = WatchedFile(config, load) if watch else load
    # No variable here keeps the first configuration, which a reload replaces.
    return serve(_with_warnings(source()), announce=_announce, load=source)


def _with_warnings(configuration: Configuration) -> Configuration:
    for warning in configuration.warnings:
        warn(str(warning))
    return configuration


def _announce(address: str) -> None:
    # Standard output is for the access log alone.
    say(f"listening on {address}", err=True)


def with_server(configuration: Configuration, **options: Any) -> Configuration:
    """The configuration with those of the `server` settings replaced that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    settings = configuration.settings
    server = replace(settings.server, **given)
    # The same check as that of the file: processes that share no Redis would not hear of each other's changes.
    if server.workers > 1 and settings.storage.redis is None:
        raise CannotStart(
            f"{server.workers} workers need storage.redis, so that each hears of changes; set it, or run 1"
        )
    return replace(configuration, settings=replace(settings, server=server))
