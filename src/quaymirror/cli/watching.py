"""Who watches a run, and how a person ends it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio
import click

from ..events import Event, ImageDerived, Meters, Observer
from ..mirror.report import ExitCode, Report
from ..mirror.run import Stop
from ..transfer.together import foremost
from ..ui.state import RunState
from ..ui.summary import summary_lines
from ..ui.text import plain

PROGRESS = ("auto", "rich", "plain", "json", "none")

# Long enough for small blobs to land, short enough for whoever pressed the key; the rest resumes.
_DRAIN_SECONDS = 10.0

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@dataclass(frozen=True, slots=True)
class Watcher:
    """An observer, and what has to run beside the run for it, if anything."""

    observe: Observer
    run: Callable[[], Coroutine[Any, Any, None]] | None = None


def make_watcher(progress: str, meters: Meters) -> Watcher:
    """Return the watcher that `--progress` asks for; `auto` looks at the terminal."""
    if progress == "auto":
        progress = "rich" if sys.stderr.isatty() else "plain"

    if progress == "rich":
        from ..ui.dashboard import Dashboard

        dashboard = Dashboard(meters)
        return Watcher(dashboard, dashboard.run)

    if progress == "plain":
        from ..ui.lines import Lines

        lines = Lines(meters, _to_stderr)
        return Watcher(lines, lines.run)

    if progress == "json":
        from ..ui.jsonl import JsonLines

        return Watcher(JsonLines(_to_stdout))

    return Watcher(lambda event: None)


class Printer:
    """Writes what filters print to stdout, an image at a time; under a dashboard when that has gone.

    As JSON lines it is on stdout already.
    """

    def __init__(self, progress: str) -> None:
        self._is_silent = progress == "json"
        self._must_wait = progress == "rich" or (progress == "auto" and sys.stderr.isatty())
        self._waiting: list[str] = []

    def __call__(self, event: Event) -> None:
        """Print `event` if it has something to print."""
        if isinstance(event, ImageDerived) and event.printed and not self._is_silent:
            # File names in there are made by strangers: no escape sequence gets through.
            self._waiting.append("".join(f"{plain(line)}\n" for line in event.printed))
            if not self._must_wait:
                self.flush()

    def flush(self) -> None:
        """Print what has waited."""
        for text in self._waiting:
            _to_stdout(text)

        self._waiting.clear()


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def watched_run(
    run: Callable[[Observer, Meters, Stop], Awaitable[Report]], *, progress: str
) -> tuple[Report, ExitCode]:
    """Run `run` under the eyes of `progress`, let signals end it, and print the summary.

    The first Ctrl-C (or SIGTERM) lets what is in flight finish, for a while; the second ends everything at once.
    """
    meters, stop = Meters(), Stop()
    watcher = make_watcher(progress, meters)
    state = RunState()
    caught: list[signal.Signals] = []
    printer = Printer(progress)

    def observe(event: Event) -> None:
        state.apply(event)
        watcher.observe(event)
        printer(event)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_obey_signals, stop, caught)
            if watcher.run is not None:
                tasks.start_soon(watcher.run)

            report = await run(observe, meters, stop)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise foremost(group) or group from None

    printer.flush()
    for line in summary_lines(state):
        click.echo(line, err=True)

    return report, _final_code(report, caught)


async def _obey_signals(stop: Stop, caught: list[signal.Signals]) -> None:
    with anyio.open_signal_receiver(*_CODES) as signals:
        async for signum in signals:
            caught.append(signum)
            if len(caught) > 1:
                stop.at_once(_REASONS[signum])
                return

            stop.request(_REASONS[signum])
            with anyio.move_on_after(_DRAIN_SECONDS):
                async for again in signals:
                    caught.append(again)
                    break

            stop.at_once(_REASONS[signum])
            return


def _final_code(report: Report, caught: list[signal.Signals]) -> ExitCode:
    if report.fatal is not None:
        click.echo(f"quaymirror: {plain(report.fatal.message)}", err=True)
        return report.exit_code

    # Asked to end, but it was done already: that is no interruption.
    return _CODES[caught[0]] if caught and not report.complete else report.exit_code
