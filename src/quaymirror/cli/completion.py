"""`quaymirror completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_WHERE = {
    "bash": "quaymirror completion bash > ~/.local/share/bash-completion/completions/quaymirror",
    "zsh": "quaymirror completion zsh > ~/.zfunc/_quaymirror    # with fpath+=~/.zfunc before compinit",
    "fish": "quaymirror completion fish > ~/.config/fish/completions/quaymirror.fish",
}


@click.command(epilog="\b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> int:
    """Print a completion script for a shell."""
    from .main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "quaymirror", "_QUAYMIRROR_COMPLETE").source())
    return 0
