"""`gateway completion`: the scripts with which shells complete commands and options."""

from typing import Final

import click
from click.shell_completion import get_completion_class

VARIABLE: Final = "_GATEWAY_COMPLETE"  # the script calls the program with this environment variable


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands in your shell.

    \b
    bash: gateway completion bash > ~/.local/share/bash-completion/completions/gateway
    zsh:  gateway completion zsh > "${fpath[1]}/_gateway"
    fish: gateway completion fish > ~/.config/fish/completions/gateway.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    program = click.get_current_context().find_root().command
    click.echo(kind(program, {}, "gateway", VARIABLE).source())
