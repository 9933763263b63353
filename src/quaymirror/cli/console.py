"""The pings, the output files and the exit code of a command that runs jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio

from ..errors import ExitCode, QuaymirrorError, most_severe
from ..run.jobs import JobResult, Watch
from ..settings import OutputOptions
from ..text import escape_controls
from ..ui.summary import summary_lines
from .messages import say
from .observers import RunHandle, observe_runs
from .outputs import notify, ping, write_outputs


@contextmanager
def announced(outputs: OutputOptions) -> Iterator[Watch]:
    """Ping the start of jobs that the context runs, and their end if it fails; yield what shows them."""
    _ping(outputs, "/start")
    try:
        yield partial(observe_runs, outputs)
    except QuaymirrorError as error:
        _ping(outputs, "/fail", escape_controls(error.message))
        notify(outputs, (), error.exit_code, escape_controls(error.message))
        raise


def report(outputs: OutputOptions, results: Sequence[JobResult]) -> int:
    """Print failures, write the output files, ping the end, and return the exit code.

    :raises QuaymirrorError: if the only job failed, or a file can't be written.
    """
    if len(results) == 1 and results[0].failure is not None:
        raise results[0].failure.error()

    for result in results:
        _show(result)

    code = most_severe([ExitCode.OK, *(result.exit_code for result in results)])
    finished = [
        (result.job, (result.report, result.exit_code, result.handle.timeline))
        for result in results
        if result.report is not None and isinstance(result.handle, RunHandle)
    ]
    done = [run for _, run in finished]
    write_outputs(outputs, done, [job for job, _ in finished])
    lines = [line for report, _, _ in done for line in summary_lines(report.progress)]
    notify(outputs, [(report, code) for report, code, _ in done], code)
    _ping(outputs, "" if code is ExitCode.OK else "/fail", "\n".join([*lines, f"exit code {int(code)}"]))
    return int(code)


def _ping(outputs: OutputOptions, suffix: str, body: str = "") -> None:
    if outputs.ping_url is not None:
        anyio.run(ping, outputs.ping_url, suffix, body)


def _show(result: JobResult) -> None:
    if result.failure is not None:
        say(f"{result.job}: {result.failure.message}")

    if result.report is not None and result.report.fatal is not None:
        say(result.report.fatal.message)

    if result.verification is not None:
        from .verify import show_damages, show_verdict

        show_damages(result.verification)
        show_verdict(result.verification)
