"""`gateway demo`: try the gateway without a configuration file."""

import asyncio
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import click

from gateway.cli.demo.echo import echo_upstream
from gateway.cli.output import say
from gateway.cli.stores import administration
from gateway.errors import CannotStart
from gateway.policy.loader import load_configuration
from gateway.server.serve import serve
from gateway.settings.model import Settings

# Values of the shipped configuration that the demo replaces.
PORT: Final = "port: 8000"
DATABASE: Final = "sqlite:///gateway-demo.db"
UPSTREAM: Final = "http://127.0.0.1:9000"
PUBLIC_URL: Final = "http://127.0.0.1:8000"
MAIL: Final = "gateway-demo-mail"


def demo_text() -> str:
    """The demo configuration shipped with the package."""
    return resources.files("gateway.cli.demo").joinpath("demo.yaml").read_text(encoding="utf-8")


def write_configuration(folder: Path, *, port: int, upstream: str) -> Path:
    """Write the configuration of one demo. The file is complete, so other commands work with it."""
    text = demo_text()
    own = {
        PORT: f"port: {port}",
        PUBLIC_URL: f"http://127.0.0.1:{port}",
        DATABASE: f"sqlite:///{folder}/gateway.db",
        MAIL: str(mail_folder(folder)),
        UPSTREAM: upstream,
    }
    for shipped, ours in own.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    path = folder / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mail_folder(folder: Path) -> Path:
    """The folder in which a demo writes its mails."""
    return folder / "mail"


ADMIN_EMAIL: Final = "admin@example.com"
_EXTRACT: Final = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""


class Step(NamedTuple):
    """A command to try, and a description of its result."""

    shows: str
    command: str


def steps(*, url: str, password: str, configuration: Path) -> list[Step]:
    """The commands in order. `password` is the administrator's, `url` the gateway's without a path."""
    gateway = shlex.join([sys.executable, "-m", "gateway"])
    return [
        Step(
            "Everyone can call /public. The response shows the request that the upstream received:",
            f"curl -s {url}/public/hello",
        ),
        Step(
            "/api is for signed-in users, so this is 401:",
            f"curl -si {url}/api/orders",
        ),
        Step(
            "Register:",
            f"curl -s {url}/auth/register -H 'Content-Type: application/json' \\\n"
            """  -d '{"email": "ada@example.com", "password": "correct horse"}'""",
        ),
        Step(
            "Sign in and store the token:",
            f"TOKEN=$(curl -s {url}/auth/login -d username=ada@example.com -d 'password=correct horse' \\\n"
            f"  | {_EXTRACT})",
        ),
        Step(
            "Call the API. The upstream receives your identity, and the forged header never reaches it:",
            f'''curl -s '{url}/api/orders?new' -H 'X-User-Roles: admin' -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "/reports requires the role admin, so this is 403:",
            f'''curl -si {url}/reports/2026 -H "Authorization: Bearer $TOKEN"''',
        ),
        Step(
            "The administrator of this demo can:",
            f"ADMIN=$(curl -s {url}/auth/login -d username={ADMIN_EMAIL} -d password={password} \\\n"
            f"  | {_EXTRACT})\n"
            f'''curl -s {url}/reports/2026 -H "Authorization: Bearer $ADMIN"''',
        ),
        Step(
            "The accounts in the database:",
            f"{gateway} users list --config {shlex.quote(str(configuration))}",
        ),
    ]


PORTS: Final = range(8000, 8100)
_SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@click.command("demo")
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's port.  [default: 8000 or the next free one]")
def command(port: int | None) -> int:
    """Try the gateway: an echo upstream, accounts, commands to paste.

    Everything listens on loopback and uses a temporary folder, which is removed at the end.
    """
    # Signals are blocked during start-up, which takes about a second, and during cleanup. An exception raised by a
    # handler could otherwise interrupt a thread or an import in any state.
    with _blocked(_SIGNALS), TemporaryDirectory(prefix="gateway-demo-") as folder, echo_upstream() as upstream:
        chosen = free_port() if port is None else port or any_port()
        path = write_configuration(Path(folder), port=chosen, upstream=upstream)
        configuration = load_configuration(path, os.environ)
        password = secrets.token_urlsafe(12)
        asyncio.run(_make_admin(configuration.settings, password))
        try:
            return serve(configuration, announce=partial(_answering, path, password))
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _make_admin(settings: Settings, password: str) -> None:
    async with administration(settings, creates=True, is_named=False) as accounts:
        await accounts.create(ADMIN_EMAIL, password, [settings.accounts.admin_role])


def _answering(configuration: Path, password: str, address: str) -> None:
    """Print the commands to try. Runs in the event loop of the gateway."""
    # `serve` reloads on SIGHUP, but the demo has to exit when its terminal is closed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    say(f"The gateway listens on {address}, in front of an upstream that echoes requests.", colour="green")
    say(f"Sign in with a browser:  {address}/account/sign-in", colour="green")
    say(f"  as the administrator:  {ADMIN_EMAIL}, password {password}")
    say(f"  or create an account:  {address}/account/register")
    say(f"Mails land in            {mail_folder(configuration.parent)}")
    say("Or paste these commands into another terminal. Ctrl-C here ends the demo and removes its files.")
    for number, step in enumerate(steps(url=address, password=password, configuration=configuration), 1):
        say(f"\n{number}. {step.shows}", colour="cyan")
        for line in step.command.splitlines():
            say(f"   {line}")
    say()


def any_port() -> int:
    """Return a free port on loopback. The public address of the demo contains it, so it is chosen before the start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_port(ports: range = PORTS) -> int:
    """Return the first free one of these ports on loopback. Raises CannotStart if all are taken."""
    for port in ports:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise CannotStart(f"the ports {ports[0]} to {ports[-1]} are in use; choose a free one with --port")
