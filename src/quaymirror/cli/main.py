"""The command `quaymirror`: its subcommands, and one line and an exit code for every error."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import click

from ..__about__ import __version__
from ..errors import ExitCode, QuaymirrorError, StoreError, from_os_error, from_system
from ..process import Process
from .hints import hint_of, unknown_variables
from .messages import say
from .streams import drop_output, prepare_streams

# Commands by name: their function, and their help. They are imported when used, because aiohttp takes most of the
# start-up time.
_COMMANDS = {
    "sync": ("quaymirror.cli.sync:sync", "Mirror every repository that matches and has the tag."),
    "push": ("quaymirror.cli.push:push", "Load a mirror, or any OCI image layout, into a registry."),
    "run": ("quaymirror.cli.run:run", "Run the jobs of a configuration file."),
    "merge-reports": (
        "quaymirror.cli.merge_reports:merge",
        "Join the reports of shards, and the records of their pushes.",
    ),
    "list": ("quaymirror.cli.listing:list_images", "Show what sync would mirror, or the images of a mirror."),
    "info": ("quaymirror.cli.info:info", "Show metadata of images: platform, layers, labels and more."),
    "verify": ("quaymirror.cli.verify:verify", "Hash a mirror again; report missing and damaged blobs."),
    "serve": ("quaymirror.cli.serve:serve", "Serve mirrors as a read-only registry, with pages for people."),
    "check": ("quaymirror.cli.check:check", "Report which images of a list a mirror or a registry lacks."),
    "watch": ("quaymirror.cli.watch:watch", "Show the progress of a run in another process."),
    "history": ("quaymirror.cli.history:history", "Show earlier runs, and the images of one run."),
    "status": ("quaymirror.cli.status:status", "Show all jobs of a configuration file at a glance."),
    "inventory": ("quaymirror.cli.carry:inventory", "Write what a mirror has, for an export to it."),
    "export": ("quaymirror.cli.carry:export", "Write what a receiver lacks to media."),
    "import": ("quaymirror.cli.carry:import_", "Store the parts of an export in a mirror."),
    "snapshots": ("quaymirror.cli.snapshots:snapshots", "Show the earlier sets of images of a mirror."),
    "diff": ("quaymirror.cli.snapshots:diff", "Show the differences between two snapshots."),
    "rollback": ("quaymirror.cli.snapshots:rollback", "Return a mirror to an earlier snapshot."),
    "hold": ("quaymirror.cli.snapshots:hold", "Keep images of a mirror from being moved, or show those."),
    "unhold": ("quaymirror.cli.snapshots:unhold", "Let syncs move held images again."),
    "checkout": ("quaymirror.cli.snapshots:checkout", "Make a snapshot a layout for other tools."),
    "remove": ("quaymirror.cli.remove:remove", "Remove images from a mirror by their names."),
    "prune": ("quaymirror.cli.prune:prune", "Show or remove images that have disappeared from the source."),
    "config": ("quaymirror.cli.config:config", "Show, validate, describe or import a configuration file."),
    "completion": ("quaymirror.cli.completion:completion", "Print shell completion for bash, zsh or fish."),
    "demo": ("quaymirror.cli.demo:demo", "Mirror a small generated organization on this machine."),
}
# New objects after which garbage is collected. Transfers in progress have more than the default of 700: it would be
# exceeded again and again although nothing is garbage.
_GARBAGE_OBJECTS = 5_000
# Python keeps the frames of calls in blocks of 16 KiB, and gives back each that no call needs any more. A function that
# is called again and again where a block ends costs two system calls and a page fault each time: this is where regular
# expressions of aiohttp were compiled. A frame for so many values gets a block of 256 KiB for itself and what it calls.
_STACK_SLOTS = 16_000
# Those that help explains, so that it fits on a screen.
_COMMON = ("sync", "run", "list", "info", "verify", "status", "history", "prune")


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None

        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        # Freeze imported objects: scanning them takes 10 % of the start-up time.
        gc.disable()
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
            gc.freeze()
        finally:
            gc.enable()
            gc.set_threshold(_GARBAGE_OBJECTS)

        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest a similar one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            nearest = get_close_matches(args[0], _COMMANDS, n=1)
            if not nearest:
                raise

            raise click.UsageError(f"{error.message.rstrip('.')}; did you mean {nearest[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            others = ", ".join(name for name in _COMMANDS if name not in _COMMON)
            formatter.write_dl([*((name, _COMMANDS[name][1]) for name in _COMMON), ("also", others)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="quaymirror")
def main() -> None:
    """Mirror quay.io, Harbor, Docker Hub, GitHub, GitLab and others byte for byte.

    \b
    quaymirror sync kolla '*' 2025.1-debian --to /srv/mirror
    quaymirror demo
    """
    for line in unknown_variables():
        say(line)


def entry() -> NoReturn:
    """Run the command line and exit. Tracebacks are shown only if QUAYMIRROR_DEBUG is set.

    :raises SystemExit: always, with the exit code.
    """
    Process.is_command = True
    prepare_streams()
    if not os.environ.get("QUAYMIRROR_DEBUG"):
        # Python prints a traceback for objects that could not be initialized, for lack of descriptors for instance.
        sys.unraisablehook = lambda _: None

    stdout = sys.stdout
    try:
        code = main.main(prog_name="quaymirror", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        code = _code_of(_cause(error))
    except SystemExit as end:
        # Click exits by itself in two cases: after completing a line, and when the reader of stdout, which click then
        # replaces, has closed the pipe.
        code = int(end.code or 0) if sys.stdout is stdout else _code_of(BrokenPipeError())

    # An interrupt while Python exits would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code if isinstance(code, int) else 0)


entry.__code__ = entry.__code__.replace(co_stacksize=_STACK_SLOTS)


def run_and_exit() -> NoReturn:
    """Run the command line, and end the process without ending the interpreter, which destroys each object by itself.

    That would take 7 ms, and a thread of obstore that needs the interpreter then would abort.
    """
    try:
        entry()
    except SystemExit as end:
        # The order of the interpreter: threads, functions that were registered, output. One of obstore's requests may
        # still wait for an answer in a thread.
        if "obstore" not in sys.modules:
            threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()

        os._exit(int(end.code or 0))


def _cause(error: BaseException) -> BaseException:
    """Return the first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]

    return error


def _code_of(error: BaseException) -> int:
    """Print one line about the error that ended the command, and return its exit code."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message())
            return ExitCode.OK
        case click.UsageError():
            return _complain(_usage_message(error), ExitCode.USAGE)
        case click.ClickException():
            return _complain(error.format_message(), ExitCode.USAGE)
        case click.Abort() | KeyboardInterrupt():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return _complain(ExitCode.INTERRUPTED.meaning, ExitCode.INTERRUPTED)
        case QuaymirrorError():
            return _complain(error.message, error.exit_code)
        case BrokenPipeError():
            # The reader of the output has closed the pipe.
            drop_output()
            return 141
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EIO | errno.EFBIG):
            drop_output()
            return _complain(from_os_error(error, "write", "the output", kind=StoreError).message, ExitCode.STORAGE)
        case _ if os.environ.get("QUAYMIRROR_DEBUG"):
            raise error
        case OSError() | MemoryError() | RuntimeError() if (known := from_system(error)) is not None:
            return _complain(known.message, known.exit_code)
        case _:
            code = ExitCode.INTERNAL
            return _complain(f"{code.meaning}: {type(error).__name__}; {code.advice}", code)


def _usage_message(error: click.UsageError) -> str:
    if hint := hint_of(error):
        return f"{error.message.rstrip('.')}: {hint}"

    command = error.ctx.command_path if error.ctx else "quaymirror"
    return f"{error.format_message().rstrip('.')} (try '{command} --help')"


def _complain(message: str, code: ExitCode) -> int:
    say(message)
    return code
