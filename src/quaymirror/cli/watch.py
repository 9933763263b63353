"""`quaymirror watch`: the run of another process."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import click

from ..auth.files import read_small_file
from ..errors import ConfigError, ExitCode
from ..run.past_runs import PROGRESS_FILE, SILENCE_SECONDS
from ..settings import DEFAULT_TARGET
from ..text import human_duration
from ..ui.lines import progress_text
from ..ui.snapshot import Snapshot, SnapshotError, read_snapshot
from ..ui.summary import summary_lines
from .display import is_screen
from .help import ADDRESS, command_option, options
from .messages import say
from .options import home_at

_PERIOD_SECONDS = 0.5
_LINE_SECONDS = 30.0
_MAX_SNAPSHOT = 64 * 1024 * 1024


@click.command
@click.argument("target", default=DEFAULT_TARGET, type=ADDRESS)
@options("watch")
@command_option("--once", is_flag=True, help="Print one line of progress, and exit.")
def watch(target: str, state: Path | None, once: bool) -> int:
    """Show the run that another process makes on TARGET, a nightly job for instance, until it ends.

    On a terminal this is the same dashboard, elsewhere a line every 30 seconds. The exit code is that of the run, or 5
    when it has fallen silent.
    """
    file = home_at(target, state) / PROGRESS_FILE
    snapshot = _read(file, target)
    if once:
        click.echo(_line(snapshot))
        return ExitCode.UNAVAILABLE if _is_silent(snapshot) else snapshot.exit_code

    return anyio.run(_watch, file, target)


async def _watch(file: Path, target: str) -> int:
    last = 0.0
    with _screen() as screen:
        while True:
            snapshot = await anyio.to_thread.run_sync(_read, file, target)
            if snapshot.progress.finished is not None or _is_silent(snapshot):
                break

            if screen is not None:
                now = snapshot.clock + max(0.0, time.time() - snapshot.time)
                screen.show(snapshot.progress, snapshot.speeds, now)
            elif time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                click.echo(_line(snapshot), err=True)

            await anyio.sleep(_PERIOD_SECONDS)

    if snapshot.progress.finished is None:
        say(_silence(snapshot))
        return ExitCode.UNAVAILABLE

    for line in summary_lines(snapshot.progress):
        click.echo(line, err=True)

    return snapshot.exit_code


def _screen() -> AbstractContextManager[Any]:
    """Return the dashboard, or None for lines."""
    if not is_screen():
        return nullcontext()

    from ..ui.dashboard import Screen

    return Screen()


def _read(file: Path, target: str) -> Snapshot:
    try:
        content = read_small_file(file, limit=_MAX_SNAPSHOT)
        if content is None:
            raise ConfigError(f"no run found for '{target}': pass the same target that you used with sync")

        return read_snapshot(content.data)
    except SnapshotError as error:
        raise ConfigError(f"{file}: {error}") from None


def _is_silent(snapshot: Snapshot) -> bool:
    """Return True if the process that made `snapshot` has been killed, or can't write."""
    return snapshot.progress.finished is None and time.time() - snapshot.time > SILENCE_SECONDS


def _silence(snapshot: Snapshot) -> str:
    silent = human_duration(time.time() - snapshot.time)
    return f"nothing heard of the run for {silent}: it was killed, or can't write"


def _line(snapshot: Snapshot) -> str:
    text = progress_text(snapshot.progress, snapshot.speeds, snapshot.clock)
    if _is_silent(snapshot):
        return f"{_silence(snapshot)}; it had {text}"

    is_over = snapshot.progress.finished is not None
    return f"ended with exit code {snapshot.exit_code}: {text}" if is_over else text
