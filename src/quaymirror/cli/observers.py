"""Who watches the runs of a command, and how a person ends them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError, ExitCode
from ..events import Event, ImageDerived, Observer
from ..progress.meters import AllMeters, Meters, Progress
from ..run.context import Stop
from ..run.report import Report
from ..settings import OutputOptions
from ..tasks import from_group
from ..text import escape_controls
from ..ui.log import LOGGER, CallHandler, JsonFormatter, LogObserver, TextFormatter
from ..ui.state import RunState
from ..ui.summary import summary_lines, total_line
from ..ui.timeline import Timeline
from .progress_file import ProgressFile

# Long enough for small blobs to land, short enough for whoever pressed the key; the rest resumes.
_DRAIN_SECONDS = 10.0

CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.TERMINATED,
}
_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}


@dataclass(frozen=True, slots=True)
class Display:
    """What shows the runs: `join` makes the observer of one more run, `run` has to run beside them, if there is any."""

    join: Callable[[], Observer]
    run: Callable[[], Coroutine[Any, Any, None]] | None = None


def make_watcher(outputs: OutputOptions, meters: Progress, runs: int = 1) -> Display:
    """Return the watcher of `runs` at once that `--progress` asks for; `auto` looks at the terminal."""
    match _progress(outputs):
        case "rich":
            from ..ui.dashboard import Dashboard

            dashboard = Dashboard(meters, runs=runs)
            above = LogObserver(_logger(outputs, lambda line: dashboard.print(line.rstrip("\n")), words=True))
            return Display(_shared(dashboard, above), dashboard.run)
        case "plain":
            from ..ui.lines import Lines

            lines = Lines(meters, _to_stderr, runs=runs, verbose=outputs.verbose)
            return Display(_shared(lines), lines.run)
        case "log":
            logger = _logger(outputs, _to_stderr)
            return Display(lambda: LogObserver(logger))
        case "json":
            from ..ui.jsonl import JsonLines

            return Display(lambda: JsonLines(_to_stdout))
        case _:
            return Display(lambda: lambda event: None)


def is_screen() -> bool:
    """Tell whether standard error is a terminal whose cursor can be moved: that of Emacs' shell, say, is a dumb one."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _shared(*observers: Observer) -> Callable[[], Observer]:
    """Return what hands out one observer to all runs. What is told to each, such as a host's pause, it passes once."""
    last: list[Event] = []

    def observe(event: Event) -> None:
        if last and last[0] is event:
            return

        last[:] = [event]
        for observer in observers:
            observer(event)

    return lambda: observe


def _progress(outputs: OutputOptions) -> str:
    """What is shown: `log` is what a log in JSON makes of plain lines."""
    if outputs.quiet and outputs.progress != "json":
        return "none"

    progress = outputs.progress
    if progress == "auto":
        progress = "rich" if outputs.log_format == "text" else "plain"

    if progress == "rich" and not is_screen():
        progress = "plain"

    return "log" if progress == "plain" and outputs.log_format == "json" and outputs.log_file is None else progress


def _logger(outputs: OutputOptions, write: Callable[[str], object], *, words: bool = False) -> logging.Logger:
    """Return a logger that writes lines to `write`; with `words` for people, who have the rest before them."""
    logger = logging.Logger(LOGGER, logging.DEBUG if outputs.verbose else logging.WARNING if words else logging.INFO)
    handler = CallHandler(write)
    if words:
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler.setFormatter(JsonFormatter() if outputs.log_format == "json" else TextFormatter())

    logger.addHandler(handler)
    return logger


@contextmanager
def _log_file(outputs: OutputOptions) -> Iterator[Callable[[], Observer]]:
    """Open the log file, if there is one, and hand out what makes the observer of a run that writes to it.

    :raises ConfigError: when it can't be opened.
    """
    if outputs.log_file is None:
        yield lambda: lambda event: None
        return

    try:
        file = outputs.log_file.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--log-file {outputs.log_file}: {error.strerror}") from None

    def write(line: str) -> None:
        # A full disk is told by the mirror itself; its log must not end the run.
        with suppress(OSError):
            file.write(line)
            file.flush()

    try:
        logger = _logger(outputs, write)
        yield lambda: LogObserver(logger)
    finally:
        with suppress(OSError):
            file.close()


class Printer:
    """Writes what filters print to stdout, an image at a time; under a dashboard when that has gone.

    As JSON lines it is on stdout already.
    """

    def __init__(self, outputs: OutputOptions) -> None:
        self._is_silent = outputs.progress == "json"
        self._must_wait = _progress(outputs) == "rich"
        self._waiting: list[str] = []

    def __call__(self, event: Event) -> None:
        """Print `event` if it has something to print."""
        if isinstance(event, ImageDerived) and event.printed and not self._is_silent:
            # File names in there are made by strangers: no escape sequence gets through.
            self._waiting.append("".join(f"{escape_controls(line)}\n" for line in event.printed))
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


@dataclass(frozen=True, slots=True)
class RunHandle:
    """The eyes on one run: what it tells, what it counts into, and how it is asked to end.

    `state` and `timeline` are of this run alone.
    """

    observe: Observer
    meters: Meters
    stop: Stop
    state: RunState
    timeline: Timeline
    beacon: ProgressFile


class RunObservers:
    """Everybody who watches runs that go on at once: one display for all of them, and a seat for each.

    The first Ctrl-C (or SIGTERM) lets what is in flight finish, for a while; the second ends everything at once.
    """

    def __init__(self, outputs: OutputOptions, log: Callable[[], Observer], homes: Sequence[Path | None]) -> None:
        self.caught: list[signal.Signals] = []
        """The signals that came, the first of which counts."""
        meters = AllMeters()
        self._watcher = make_watcher(outputs, meters, len(homes))
        self._printer = Printer(outputs)
        self.seats = [self._seat(home, log(), meters) for home in homes]

    def _seat(self, home: Path | None, log: Observer, total: AllMeters) -> RunHandle:
        meters, state = Meters(), RunState()
        total.add(meters)
        timeline = Timeline(state, meters)
        observers = (state.apply, self._watcher.join(), log, timeline, self._printer)

        def observe(event: Event) -> None:
            for observer in observers:
                observer(event)

        return RunHandle(observe, meters, Stop(), state, timeline, ProgressFile(home, state, meters))

    async def run(self) -> None:
        """Show the runs, and obey signals, until this is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey_signals)
            for seat in self.seats:
                tasks.start_soon(seat.beacon.run)

            if self._watcher.run is not None:
                tasks.start_soon(self._watcher.run)

    async def close(self) -> None:
        """Write the last words of all, now that the display has gone."""
        for seat in self.seats:
            await seat.beacon.write()

        self._printer.flush()

    async def _obey_signals(self) -> None:
        # Whoever started us with a signal ignored, as nohup does, means it.
        heeded = [signum for signum in CODES if signal.getsignal(signum) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*heeded) as signals:
            async for signum in signals:
                self.caught.append(signum)
                for seat in self.seats:
                    seat.stop.request(_REASONS[signum])

                with anyio.move_on_after(_DRAIN_SECONDS):
                    async for again in signals:
                        self.caught.append(again)
                        break

                for seat in self.seats:
                    seat.stop.at_once(_REASONS[signum])

                # Everything ends now. A key that is pressed once more must not break into the last writes.
                async for _ in signals:
                    continue


@asynccontextmanager
async def watching(outputs: OutputOptions, homes: Sequence[Path | None]) -> AsyncIterator[RunObservers]:
    """Show runs while the context lasts, one for each of `homes`: the targets' own directories, where `watch` looks.

    :raises ConfigError: when the log file can't be opened.
    """
    with _log_file(outputs) as log:
        audience = RunObservers(outputs, log, homes)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(audience.run)
                yield audience
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise from_group(group) or group from None

        if audience.caught:
            # Who presses the key a third time gets the last words all the same, and no traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        await audience.close()


def show_summaries(outputs: OutputOptions, seats: Sequence[RunHandle]) -> None:
    """Print what became of each run, and of all together."""
    if outputs.quiet or _progress(outputs) == "log":
        return

    states = [seat.state for seat in seats]
    for number, state in enumerate(states):
        click.echo("\n" * bool(number) + "\n".join(summary_lines(state)), err=True)

    if len(states) > 1:
        click.echo("\n" + total_line(states), err=True)


async def watched_run(
    run: Callable[[Observer, Meters, Stop], Awaitable[Report]], *, outputs: OutputOptions, home: Path | None = None
) -> tuple[Report, ExitCode]:
    """Run `run` under the eyes of `outputs`, let signals end it, and print the summary."""
    async with watching(outputs, [home]) as audience:
        (seat,) = audience.seats
        report = await run(seat.observe, seat.meters, seat.stop)

    show_summaries(outputs, [seat])
    return report, final_code(report, audience.caught)


def final_code(report: Report, caught: Sequence[signal.Signals]) -> ExitCode:
    """Return the exit code of a run, while which these signals were `caught`, and say what ended it."""
    if report.fatal is not None:
        click.echo(f"quaymirror: {escape_controls(report.fatal.message)}", err=True)
        return report.exit_code

    # Asked to end, but it was done already: that is no interruption.
    return CODES[caught[0]] if caught and not report.complete else report.exit_code
