"""The files that a run writes besides the mirror, and the pings."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ..documents.report import REPORT_VERSION, ReportJson, ReportsJson
from ..errors import ExitCode, QuaymirrorError
from ..http.origin import shown
from ..progress.timeline import Timeline
from ..run.jobs import Job
from ..run.locked import locked_images
from ..run.report import Report
from ..selection.lockfile import lock_document
from ..settings import OutputOptions
from ..store.fsops import local_errors, open_for_writing, replace_file
from .messages import say


def prepare_outputs(outputs: OutputOptions) -> None:
    """Import what the files need that will be written: at the end of a run, descriptors may have run out."""
    if outputs.report_html is not None:
        import_module("quaymirror.ui.html_report")

    if outputs.metrics_textfile is not None:
        import_module("quaymirror.run.metrics")

    if outputs.notify_command is not None:
        import_module("quaymirror.run.notify")


def write_outputs(outputs: OutputOptions, runs: Sequence[tuple[Report, int, Timeline]], jobs: Sequence[Job]) -> None:
    """Write all files about `runs`: report, exit code and timeline of each, in the order of their `jobs`.

    :raises StoreError: if a file can't be written.
    """
    documents: list[ReportJson] = [{**report.to_json(), "exit_code": code} for report, code, _ in runs]
    if outputs.report is not None:
        several: ReportsJson = {"schema_version": REPORT_VERSION, "runs": documents}
        _write(outputs.report, _json(documents[0] if len(documents) == 1 else several))

    if outputs.report_html is not None:
        from ..ui.html_report import page, previous_page

        points = [timeline.points for _, _, timeline in runs]
        _write(outputs.report_html, page(documents, points, previous_page(outputs.report_html, documents)))

    if outputs.lock_file is not None:
        _write_lock(outputs.lock_file, [report for report, _, _ in runs], jobs)

    if outputs.metrics_textfile is not None:
        from ..run.metrics import write_metrics

        write_metrics(outputs.metrics_textfile, [(report, code) for report, code, _ in runs])


def _write_lock(file: Path, reports: Sequence[Report], jobs: Sequence[Job]) -> None:
    if all(report.complete and not report.failed_checks for report in reports):
        found = [(report.server, locked_images(job, report)) for job, report in zip(jobs, reports, strict=True)]
        _write(file, _json(lock_document(found, [name for report in reports for name in report.platforms])))
    else:
        say(f"{file} is not written: not everything selected was found")


async def ping(url: str, suffix: str, body: str = "") -> None:
    """Send a ping, and print a line if that fails."""
    from ..http.ping import ping as send_ping

    try:
        await send_ping(url.rstrip("/") + suffix, body.encode())
    except QuaymirrorError as error:
        # The path of the URL is a secret, and not in the message: anyone who knows it can ping.
        say(f"--ping-url: {error.message}")


def notify(outputs: OutputOptions, runs: Sequence[tuple[Report, int]], code: ExitCode, error: str = "") -> None:
    """Run the command of --notify-command, if any, and print a line if that fails."""
    if outputs.notify_command is None:
        return

    from ..run.notify import notification
    from ..run.notify import notify as run_command

    problem = run_command(outputs.notify_command, notification(runs, code, error), os.environ)
    if problem:
        say(f"--notify-command: {outputs.notify_command}: {problem}")


def shown_url(url: str) -> str:
    """Return a ping URL without its secret parts."""
    return f"{url.partition('://')[0]}://{shown(url).partition('/')[0]}/***"


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def _write(file: Path, text: str) -> None:
    """Replace a file atomically, because a reader may come at any time."""
    content = text.encode()
    if file.exists() and not file.is_file():
        # A pipe, or a device such as /dev/stdout, stays in its place.
        with local_errors("write", file), os.fdopen(open_for_writing(file), "wb") as stream:
            stream.write(content)
    else:
        replace_file(file, content, sync=False, suffix=str(os.getpid()))
