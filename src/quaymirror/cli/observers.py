"""The observers of the runs of a command, and the signals that stop them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import click

from ..errors import ExitCode
from ..events import Event, Observer
from ..progress.combined import CombinedProgress
from ..progress.run import RunProgress
from ..progress.timeline import Timeline
from ..run.jobs import Job, JobHandle
from ..settings import OutputOptions
from ..tasks import from_group
from ..ui.descriptions import limit_kind
from ..ui.summary import summary_lines, total_line
from ..values import dataclass
from .display import Printer, make_display, open_log, shown_progress
from .outputs import prepare_outputs
from .progress_file import ProgressFile

# Long enough for small blobs to be stored, short enough for a person who waits; the rest resumes.
_DRAIN_SECONDS = 10.0
_TICK_SECONDS = 1.0

_SIGNALS = {
    signal.SIGINT: ("interrupted", ExitCode.INTERRUPTED),
    signal.SIGTERM: ("terminated", ExitCode.TERMINATED),
    signal.SIGHUP: ("the terminal was closed", ExitCode.TERMINATED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHandle(JobHandle):
    """The handle of a job with its files."""

    timeline: Timeline
    progress_file: ProgressFile

    async def close(self) -> None:
        """Write the end of the run to its progress file, before another run on the same target begins."""
        await self.progress_file.write()


class RunObservers:
    """The observers of concurrent runs: one display for all of them, and a handle for each.

    The first Ctrl-C or SIGTERM lets the work in flight finish for a while; the second ends everything at once.
    """

    def __init__(
        self, outputs: OutputOptions, log: Callable[[], Observer], state_directories: Sequence[Path | None]
    ) -> None:
        runs = [RunProgress() for _ in state_directories]
        combined = CombinedProgress(runs)
        self._display = make_display(outputs, combined)
        self._printer = Printer(outputs)
        shared = _Once(combined.observe, self._display.observe)
        self.handles: list[RunHandle] = [
            self._handle(progress, [shared, self._display.for_run(), log(), self._printer], directory)
            for progress, directory in zip(runs, state_directories, strict=True)
        ]

    @staticmethod
    def _handle(progress: RunProgress, observers: Sequence[Observer], directory: Path | None) -> RunHandle:
        timeline = Timeline(progress, limit_kind)
        everything: list[Observer] = [*observers, timeline]

        def observe(event: Event) -> None:
            for observer in everything:
                observer(event)

        file = ProgressFile(directory, progress)
        return RunHandle(observe=observe, progress=progress, timeline=timeline, progress_file=file)

    @property
    def is_interrupted(self) -> bool:
        """True if a signal has stopped the runs."""
        return any(handle.stop.exit_code is not None for handle in self.handles)

    async def run(self) -> None:
        """Show the runs and handle signals until this is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._handle_signals)
            tasks.start_soon(self._tick)
            for handle in self.handles:
                tasks.start_soon(handle.progress_file.run)

            if self._display.run is not None:
                tasks.start_soon(self._display.run)

    async def _tick(self) -> None:
        """Take points of the timelines when no events come, too."""
        while True:
            await anyio.sleep(_TICK_SECONDS)
            for handle in self.handles:
                if handle.progress.run is not None and handle.progress.finished is None:
                    handle.timeline(None)

    async def close(self) -> None:
        """Write the rest when the display has ended."""
        for handle in self.handles:
            await handle.progress_file.write()

        self._printer.flush()

    async def _handle_signals(self) -> None:
        # A signal that was ignored at the start, as by nohup, stays ignored.
        handled = [signum for signum in _SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*handled) as signals:
            async for signum in signals:
                for handle in self.handles:
                    handle.stop.request(*_SIGNALS[signum])

                with anyio.move_on_after(_DRAIN_SECONDS):
                    await anext(signals)

                for handle in self.handles:
                    handle.stop.at_once(*_SIGNALS[signum])

                # Everything ends now. Further signals must not break into the last writes.
                async for _ in signals:
                    continue


class _Once:
    """An observer of several runs that passes on once what all of them get, such as the pause of a host."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._last: Event | None = None

    def __call__(self, event: Event) -> None:
        if event is not self._last:
            self._last = event
            for observer in self._observers:
                observer(event)


@asynccontextmanager
async def observe_runs(outputs: OutputOptions, jobs: Sequence[Job]) -> AsyncIterator[Sequence[RunHandle]]:
    """Show jobs that run at the same time while the context lasts, and their summaries when they have ended."""
    prepare_outputs(outputs)
    with open_log(outputs) as log:
        observers = RunObservers(outputs, log, [job.state_directory for job in jobs])
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(observers.run)
                yield observers.handles
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise from_group(group) or group from None

        if observers.is_interrupted:
            # A third Ctrl-C must not cut off the summary with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        await observers.close()

    _show_summaries(outputs, [handle.progress for handle in observers.handles if handle.progress.finished is not None])


def _show_summaries(outputs: OutputOptions, runs: Sequence[RunProgress]) -> None:
    """Print the summary of each run, and the sum of several."""
    if outputs.quiet or shown_progress(outputs) == "log":
        return

    summaries = [lines for run in runs if (lines := summary_lines(run, verbose=outputs.verbose))]
    for number, lines in enumerate(summaries):
        click.echo("\n" * bool(number) + "\n".join(lines), err=True)

    if len(runs) > 1:
        click.echo("\n" + total_line(CombinedProgress(runs).now(), len(runs)), err=True)
