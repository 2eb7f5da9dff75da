"""`gateway export`: the same policy for another proxy to enforce."""

from pathlib import Path
from typing import Any

import click

from gateway.cli.configuration import loaded
from gateway.cli.exit_codes import FINE, NO
from gateway.cli.options import config_option
from gateway.cli.output import print_json, say, warn
from gateway.errors import ConfigurationError
from gateway.settings.model import Settings

Place = tuple[str, int]

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to listen on, not to connect to


@click.group("export")
def command() -> None:
    """Write the policy down for another proxy to enforce."""


def _place(context: click.Context, parameter: click.Parameter, text: str | None) -> Place | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter("an address and a port, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


@command.command("envoy")
@config_option
@click.option(
    "--native", is_flag=True, help="Let Envoy decide itself, by the roles in the token: no lookup, no revocation."
)
@click.option(
    "--listen", metavar="HOST:PORT", callback=_place, default="127.0.0.1:10000", show_default=True,
    help="Where Envoy listens.",
)  # fmt: skip
@click.option(
    "--gateway", metavar="HOST:PORT", callback=_place,
    help="Where Envoy reaches the gateway.  [default: as the configuration listens]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of YAML.")
def envoy(config: Path, native: bool, listen: Place, gateway: Place | None, as_json: bool) -> int:
    """Write an Envoy configuration: routes, clusters, path and header rules, decisions.

    Decisions are asked of the gateway (ext_authz at /_gateway/verify), or with --native made by Envoy (jwt_authn and
    RBAC). What Envoy cannot be told is an error, exit code 1, never a laxer rule.
    """
    # Imported here: the keys need not be read, and the policy only once the options are fine.
    from gateway.export.envoy import envoy_export

    configuration = loaded(config)
    place = gateway or _reached(configuration.settings)
    try:
        export = envoy_export(configuration, listen=listen, gateway=place, native=native)
    except ConfigurationError as error:
        for problem in error.problems:
            say(str(problem), err=True, colour="red")
        say("gateway: not exported: what Envoy cannot be told would be a laxer rule", err=True, colour="red")
        return NO
    if as_json:
        print_json(export.bootstrap)
        for remark in export.remarks:
            warn(remark)
    else:
        _print_yaml(config, export.bootstrap, export.remarks)
    return FINE


def _print_yaml(config: Path, bootstrap: dict[str, Any], remarks: tuple[str, ...]) -> None:
    import yaml

    say(f"# Envoy configuration made by 'gateway export envoy' of {config}. Make it anew when that changes.")
    for remark in remarks:
        say(f"# {remark}")
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the quick one, where libyaml is
    say(yaml.dump(bootstrap, Dumper=dumper, sort_keys=False, width=10_000).rstrip())


def _reached(settings: Settings) -> Place:
    server = settings.server
    return _EVERYWHERE.get(server.host, server.host), server.port
