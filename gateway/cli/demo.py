"""`gateway demo`: the gateway to try, in a minute and without a file."""

import click

from gateway.cli.output import say
from gateway.demo.guide import Step
from gateway.demo.running import run_demo


@click.command("demo")
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's port.  [default: 8000 or the next free one]")
def command(port: int | None) -> int:
    """Try the gateway: an echo upstream, accounts, commands to paste.

    Everything listens on loopback only and lives in a temporary folder, which is removed at the end.
    """
    return run_demo(port, _show)


def _show(address: str, steps: list[Step]) -> None:
    say(f"The gateway answers on {address}, in front of an upstream that shows what it received.", colour="green")
    say("Paste these commands into another terminal. Ctrl-C here ends the demo and leaves nothing behind.")
    for number, step in enumerate(steps, 1):
        say()
        say(f"{number}. {step.shows}", colour="cyan")
        for line in step.command.splitlines():
            say(f"   {line}")
    say()
