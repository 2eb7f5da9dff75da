"""The program: its commands and the handling of their errors.

Exit codes: 0 success, 1 a failed check, 2 wrong usage, or the command cannot run here. An error is one line on standard
error with a hint; GATEWAY_DEBUG=1 adds the traceback.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

import click

import gateway
from gateway.cli.output import complain, say, warn
from gateway.errors import ConfigurationError, GatewayError, Refusal, StorageUnavailable

FINE: Final = 0
NO: Final = 1  # the check ran and failed
UNUSABLE: Final = 2  # wrong usage or configuration, or the command cannot run here
INTERRUPTED: Final = 130  # as shells report for Ctrl-C (128 + SIGINT), so that scripts stop


class Entry(NamedTuple):
    """A command: the module that defines `command`, and its line in `gateway --help`."""

    module: str
    help: str


# The help texts are repeated here so that `gateway --help` imports no command. A test compares them.
COMMANDS: Final = {
    "serve": Entry("gateway.cli.serve", "Run the gateway."),
    "demo": Entry("gateway.cli.demo.command", "Try the gateway: an echo upstream, accounts, commands to paste."),
    "init": Entry("gateway.cli.init", "Write a first configuration and its policy tests."),
    "check": Entry("gateway.cli.check", "Find every problem of a configuration file."),
    "diff": Entry("gateway.cli.diff", "Show which access a change of the configuration opens or closes."),
    "explain": Entry("gateway.cli.explain", "Explain how a request would be decided, and why."),
    "test": Entry("gateway.cli.test", "Test which requests the policy allows and refuses."),
    "matrix": Entry("gateway.cli.matrix", "Show who can reach what: routes by roles."),
    "top": Entry("gateway.cli.top", "Watch requests, decisions and upstreams, live."),
    "replay": Entry("gateway.cli.replay", "Show the effect of a policy on recorded requests."),
    "routes": Entry("gateway.cli.routes", "Draft routes from the description of an API."),
    "users": Entry("gateway.cli.users.command", "Manage accounts in the database."),
    "pages": Entry("gateway.cli.pages", "Preview the pages for accounts, and print their texts."),
    "mail": Entry("gateway.cli.mail", "Test the delivery of mail, and look at the mails that wait."),
    "keys": Entry("gateway.cli.keys", "Make and list the keys that sign tokens."),
    "db": Entry("gateway.cli.db", "Manage the database: its tables, and old audit records."),
    "export": Entry("gateway.cli.export", "Write the policy down for another proxy to enforce."),
    "completion": Entry("gateway.cli.completion", "Print the script that completes commands in your shell."),
    "schema": Entry("gateway.cli.schema", "Print the JSON Schema of the configuration file, for editors."),
}


class Program(click.Group):
    """A group that imports a command when it runs."""

    def __init__(self) -> None:
        super().__init__(
            "gateway",
            help=gateway.__doc__,
            epilog="'gateway COMMAND --help' describes a command. Exit codes: 0 fine, "
            "1 the answer is no, 2 wrong usage or configuration.",
            commands={name: click.Command(name, short_help=entry.help) for name, entry in COMMANDS.items()},
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The order of first use instead of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(entry.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from COMMANDS, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


_VERSION: Final = f"%(prog)s, version %(version)s ({gateway.build()})"

program = click.version_option(gateway.__version__, prog_name="gateway", message=_VERSION)(Program())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Handles every exception."""
    if changed := gateway.outdated():
        others = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
        warn(f"{changed[0]}{others} changed after make native, and the old code runs: make native, or make interpreted")
    try:
        answer = program.main(list(arguments), prog_name="gateway", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # click converts BrokenPipeError to SystemExit with an exit code of its own.
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
    """Handle a reader that stops early, as in `gateway schema | head`. This is no error."""
    # Python flushes standard output again at exit, and that must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FINE


def _report(error: Exception) -> int:
    """Print an error in one line; returns its exit code."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "gateway"
            message = error.format_message()
            complain(f"{message}{'' if message.endswith(('.', '?')) else '.'} Try '{command} --help'.")
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
                f"unexpected error: {type(error).__name__}; set GATEWAY_DEBUG=1 to see where, and please report it"
            )
    return UNUSABLE


def _report_problems(error: ConfigurationError) -> None:
    """Print each problem on its own line, so that editors can jump to it, then a summary."""
    for problem in error.problems:
        say(str(problem), err=True)
    count = len(error.problems)
    complain(f"the configuration has {count} problem{'s' if count != 1 else ''}; nothing was done")
