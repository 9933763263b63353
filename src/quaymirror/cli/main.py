"""The command itself: what there is, and how everything that can go wrong ends in one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import NoReturn

import click

from ..__about__ import __version__
from ..errors import QuaymirrorError
from ..ui.text import plain
from .help import add_variables

# Commands by name: where they are, and what they do. They are imported only when asked for, since aiohttp takes most of
# the start-up time.
_COMMANDS = {
    "sync": ("quaymirror.cli.sync:sync", "Mirror every repository that matches and carries the tag."),
    "run": ("quaymirror.cli.run:run", "Run the jobs of a configuration file."),
    "list": ("quaymirror.cli.listing:list_images", "Show what sync would mirror, without pulling anything."),
    "info": ("quaymirror.cli.info:info", "Show what the images are: platform, layers, labels and so on."),
    "verify": ("quaymirror.cli.verify:verify", "Hash a mirror again; name what is missing or damaged."),
    "watch": ("quaymirror.cli.watch:watch", "Show the run that another process makes on a target."),
    "history": ("quaymirror.cli.history:history", "Show earlier runs, and what became of each image in one."),
    "prune": ("quaymirror.cli.prune:prune", "Show, or remove, what the source no longer has."),
    "config": ("quaymirror.cli.config:config", "Show, check, describe or import a configuration file."),
    "completion": ("quaymirror.cli.completion:completion", "Make bash, zsh or fish complete commands and options."),
    "demo": ("quaymirror.cli.demo:demo", "Mirror a small organization from a server on this machine."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None

        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        add_variables(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = get_close_matches(args[0], _COMMANDS, n=1)
            if not nearest:
                raise

            raise click.UsageError(f"{error.message.rstrip('.')}; did you mean {nearest[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="quaymirror")
def main() -> None:
    """Mirror a whole quay.io organization, byte for byte, every night.

    \b
    quaymirror sync kolla '*' 2025.1-debian --to /srv/mirror
    quaymirror demo
    """


def entry() -> NoReturn:
    """Run the command line and exit; no traceback ever reaches a user, unless QUAYMIRROR_DEBUG asks for it."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = main.main(prog_name="quaymirror", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "quaymirror"
        return _complain(f"{error.format_message().rstrip('.')} (try '{command} --help')", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except QuaymirrorError as error:
        from ..mirror.report import exit_code_of

        return _complain(error.message, exit_code_of(error))
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("QUAYMIRROR_DEBUG"):
            raise

        return _complain(
            f"internal error: {type(error).__name__}; please report it, with what QUAYMIRROR_DEBUG=1 shows", 1
        )

    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    click.echo(f"quaymirror: {plain(message)}", err=True)
    return code
