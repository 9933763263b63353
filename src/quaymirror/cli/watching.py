"""Who watches a run, and how a person ends it."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError
from ..events import Event, ImageDerived, Meters, Observer
from ..mirror.report import ExitCode, Report
from ..mirror.running import Stop
from ..transfer.together import foremost
from ..ui.log import LOGGER, CallHandler, JsonFormatter, LogObserver, TextFormatter
from ..ui.state import RunState
from ..ui.summary import summary_lines
from ..ui.text import plain
from ..ui.timeline import Timeline
from .beacon import Beacon
from .outputs import Outputs

# Long enough for small blobs to land, short enough for whoever pressed the key; the rest resumes.
_DRAIN_SECONDS = 10.0

_CODES = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.TERMINATED,
}
_REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}


@dataclass(frozen=True, slots=True)
class Watcher:
    """An observer, and what has to run beside the run for it, if anything."""

    observe: Observer
    run: Callable[[], Coroutine[Any, Any, None]] | None = None


def make_watcher(outputs: Outputs, meters: Meters) -> Watcher:
    """Return the watcher that `--progress` asks for; `auto` looks at the terminal."""
    match _progress(outputs):
        case "rich":
            from ..ui.dashboard import Dashboard

            dashboard = Dashboard(meters)
            above = LogObserver(_logger(outputs, lambda line: dashboard.print(line.rstrip("\n")), words=True))
            return Watcher(_both(dashboard, above), dashboard.run)
        case "plain":
            from ..ui.lines import Lines

            lines = Lines(meters, _to_stderr, verbose=outputs.verbose)
            return Watcher(lines, lines.run)
        case "log":
            return Watcher(LogObserver(_logger(outputs, _to_stderr)))
        case "json":
            from ..ui.jsonl import JsonLines

            return Watcher(JsonLines(_to_stdout))
        case _:
            return Watcher(lambda event: None)


def _progress(outputs: Outputs) -> str:
    """What is shown: `log` is what a log in JSON makes of plain lines."""
    if outputs.quiet and outputs.progress != "json":
        return "none"

    progress = outputs.progress
    if progress == "auto":
        progress = "rich" if sys.stderr.isatty() and outputs.log_format == "text" else "plain"

    return "log" if progress == "plain" and outputs.log_format == "json" and outputs.log_file is None else progress


def _both(first: Observer, second: Observer) -> Observer:
    def observe(event: Event) -> None:
        first(event)
        second(event)

    return observe


def _logger(outputs: Outputs, write: Callable[[str], object], *, words: bool = False) -> logging.Logger:
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
def _log_file(outputs: Outputs) -> Iterator[Observer]:
    """Open the log file, if there is one, and hand out what writes events to it.

    :raises ConfigError: when it can't be opened.
    """
    if outputs.log_file is None:
        yield lambda event: None
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
        yield LogObserver(_logger(outputs, write))
    finally:
        with suppress(OSError):
            file.close()


class Printer:
    """Writes what filters print to stdout, an image at a time; under a dashboard when that has gone.

    As JSON lines it is on stdout already.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._is_silent = outputs.progress == "json"
        self._must_wait = _progress(outputs) == "rich"
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
    run: Callable[[Observer, Meters, Stop], Awaitable[Report]], *, outputs: Outputs, home: Path | None = None
) -> tuple[Report, ExitCode, Timeline]:
    """Run `run` under the eyes of `outputs`, let signals end it, and print the summary.

    Into `home`, the target's own directory, goes what `quaymirror watch` shows. The first Ctrl-C (or SIGTERM) lets what
    is in flight finish, for a while; the second ends everything at once.
    """
    meters, stop = Meters(), Stop()
    watcher = make_watcher(outputs, meters)
    state = RunState()
    timeline = Timeline(state, meters)
    beacon = Beacon(home, state, meters)
    caught: list[signal.Signals] = []
    printer = Printer(outputs)
    with _log_file(outputs) as log:

        def observe(event: Event) -> None:
            state.apply(event)
            for observer in (watcher.observe, log, timeline, printer):
                observer(event)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_obey_signals, stop, caught)
                tasks.start_soon(beacon.run)
                if watcher.run is not None:
                    tasks.start_soon(watcher.run)

                report = await run(observe, meters, stop)
                await beacon.write()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise foremost(group) or group from None

    if caught:
        # Who presses the key a third time gets the last words all the same, and no traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    printer.flush()
    if not outputs.quiet and _progress(outputs) != "log":
        for line in summary_lines(state):
            click.echo(line, err=True)

    return report, _final_code(report, caught), timeline


async def _obey_signals(stop: Stop, caught: list[signal.Signals]) -> None:
    # Whoever started us with a signal ignored, as nohup does, means it.
    heeded = [signum for signum in _CODES if signal.getsignal(signum) is not signal.SIG_IGN]
    with anyio.open_signal_receiver(*heeded) as signals:
        async for signum in signals:
            caught.append(signum)
            stop.request(_REASONS[signum])
            with anyio.move_on_after(_DRAIN_SECONDS):
                async for again in signals:
                    caught.append(again)
                    break

            stop.at_once(_REASONS[signum])
            # Everything ends now. A key that is pressed once more must not break into the last writes.
            async for _ in signals:
                continue


def _final_code(report: Report, caught: list[signal.Signals]) -> ExitCode:
    if report.fatal is not None:
        click.echo(f"quaymirror: {plain(report.fatal.message)}", err=True)
        return report.exit_code

    # Asked to end, but it was done already: that is no interruption.
    return _CODES[caught[0]] if caught and not report.complete else report.exit_code
