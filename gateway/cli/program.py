"""The program: which commands there are, and what becomes of their errors.

Exit codes: 0 fine, 1 the answer is no, 2 the command was used wrongly or cannot run here. An error is one
plain line on standard error that says what to do; GATEWAY_DEBUG=1 shows its traceback.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

import click

import gateway
from gateway.cli.exit_codes import FINE, INTERRUPTED, NO, UNUSABLE
from gateway.cli.output import complain, say
from gateway.errors import ConfigurationError, GatewayError, Refusal, StorageUnavailable


class Entry(NamedTuple):
    """One command: the module that has it as `command`, and its line in `gateway --help`."""

    module: str
    help: str


# The help stands here so that `gateway --help` imports no command; a test keeps it equal to theirs.
COMMANDS: Final = {
    "serve": Entry("gateway.cli.serve", "Run the gateway."),
    "demo": Entry("gateway.cli.demo", "Try the gateway: an echo upstream, accounts, commands to paste."),
    "check": Entry("gateway.cli.check", "Find every problem of a configuration file."),
    "diff": Entry("gateway.cli.diff", "Show what a change of the configuration opens, closes and moves."),
    "explain": Entry("gateway.cli.explain", "Explain how a request would be decided, and why."),
    "test": Entry("gateway.cli.test", "Test the policy: who may do what, and who may not."),
    "matrix": Entry("gateway.cli.matrix", "Show who can reach what: routes by roles."),
    "top": Entry("gateway.cli.top", "Watch requests, decisions and upstreams, live."),
    "replay": Entry("gateway.cli.replay", "Show what a policy would change for recorded requests."),
    "routes": Entry("gateway.cli.routes", "Draft routes from what an API says of itself."),
    "users": Entry("gateway.cli.users", "Manage accounts, straight in the database."),
    "keys": Entry("gateway.cli.keys", "Make and list the keys that sign tokens."),
    "db": Entry("gateway.cli.db", "Manage the database: its tables, and old audit records."),
    "export": Entry("gateway.cli.export", "Write the policy down for another proxy to enforce."),
    "schema": Entry("gateway.cli.schema", "Print the JSON Schema of the configuration file, for editors."),
}


class Program(click.Group):
    """A group whose commands are imported only when they are run."""

    def __init__(self) -> None:
        super().__init__(
            "gateway",
            help=gateway.__doc__,
            epilog="'gateway COMMAND --help' says more about a command. Exit codes: 0 fine, "
            "1 the answer is no, 2 wrong usage or configuration.",
            commands={name: click.Command(name, short_help=entry.help) for name, entry in COMMANDS.items()},
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, which imports all that it needs."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(entry.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


program = click.version_option(gateway.__version__, prog_name="gateway")(Program())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing that goes wrong in it leaves this function."""
    try:
        answer = program.main(list(arguments), prog_name="gateway", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # click itself makes the second of the first, with an exit code of its own.
        return _reader_left()
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message(), err=True)
        return UNUSABLE
    except click.Abort:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("GATEWAY_DEBUG"):
            traceback.print_exc()
        return _report(error)
    return answer if isinstance(answer, int) else FINE


def _reader_left() -> int:
    """`gateway schema | head`: whoever read our output has enough of it, which is no error."""
    # Python flushes standard output once more at exit; that must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FINE


def _report(error: Exception) -> int:
    """Say in one line what went wrong; the exit code that belongs to it."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "gateway"
            complain(f"{error.format_message()} Try '{command} --help'.")
        case click.ClickException():
            complain(error.format_message())
        case ConfigurationError():
            _report_problems(error)
        case Refusal():
            complain("; ".join(f"{field.field}: {field.message}" for field in error.fields) or error.detail)
            return NO
        case StorageUnavailable():
            complain(
                f"the {error.store} cannot be used: {error.reason}; is storage.{error.store} right, and does it run?"
            )
        case GatewayError():
            complain(str(error))
        case _:
            complain(
                f"this should not have happened: {type(error).__name__}; "
                "set GATEWAY_DEBUG=1 to see where, and report it please"
            )
    return UNUSABLE


def _report_problems(error: ConfigurationError) -> None:
    """Every problem on a line of its own, so that an editor can jump to it, and then what this means."""
    for problem in error.problems:
        say(str(problem), err=True)
    count = len(error.problems)
    complain(f"the configuration has {count} problem{'s' if count != 1 else ''}; nothing was done")
