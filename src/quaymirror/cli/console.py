"""The display, the output files, the pings and the exit code of a command that runs jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from ..errors import ExitCode, QuaymirrorError, most_severe
from ..run.jobs import Job, JobResult
from ..settings import OutputOptions
from ..text import escape_controls
from ..ui.summary import summary_lines
from .messages import say
from .observers import RunHandle, observe_runs, show_summaries
from .outputs import ping, write_outputs
from .verify import show_damages, show_verdict


@asynccontextmanager
async def watch(outputs: OutputOptions, jobs: Sequence[Job]) -> AsyncIterator[Sequence[RunHandle]]:
    """Show jobs that run at the same time, and their summaries when they have ended.

    :raises ConfigError: if the log file can't be opened.
    """
    async with observe_runs(outputs, [job.state_directory for job in jobs]) as observers:
        yield observers.handles

    show_summaries(outputs, [handle.progress for handle in observers.handles if handle.progress.finished is not None])


class Console:
    """Reports the end of jobs. As a context it pings the start, and the error that ends it."""

    def __init__(self, outputs: OutputOptions) -> None:
        self._outputs = outputs

    def __enter__(self) -> Console:
        self._ping("/start")
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, QuaymirrorError):
            self._ping("/fail", escape_controls(error.message))

    def finish(self, results: Sequence[JobResult]) -> int:
        """Print failures, write the output files, and return the exit code.

        :raises QuaymirrorError: if the only job failed, or a file can't be written.
        """
        if len(results) == 1 and results[0].failure is not None:
            raise results[0].failure.error()

        for result in results:
            _show(result)

        code = most_severe([ExitCode.OK, *(result.exit_code for result in results)])
        done = [
            (result.report, result.exit_code, result.handle.timeline)
            for result in results
            if result.report is not None and isinstance(result.handle, RunHandle)
        ]
        write_outputs(self._outputs, done)
        lines = [line for report, _, _ in done for line in summary_lines(report.progress)]
        self._ping("" if code is ExitCode.OK else "/fail", "\n".join([*lines, f"exit code {int(code)}"]))
        return int(code)

    def _ping(self, suffix: str, body: str = "") -> None:
        if self._outputs.ping_url is not None:
            anyio.run(ping, self._outputs.ping_url, suffix, body)


def _show(result: JobResult) -> None:
    if result.failure is not None:
        say(f"{result.job}: {result.failure.message}")

    if result.report is not None and result.report.fatal is not None:
        say(result.report.fatal.message)

    if result.verification is not None:
        show_damages(result.verification)
        show_verdict(result.verification)
