"""What a run leaves behind for others, beside the mirror: reports, a lock, metrics, pings."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from ..documents import REPORT_VERSION, ReportJson, ReportsJson
from ..errors import QuaymirrorError, StoreError
from ..http.origin import shown
from ..progress.timeline import Timeline
from ..run.report import Report
from ..selection.lockfile import lock_document
from ..settings import OutputOptions
from ..text import escape_controls


def write_outputs(outputs: OutputOptions, runs: Sequence[tuple[Report, int, Timeline]]) -> None:
    """Write everything there is to write about `runs`: report, exit code and timeline of each.

    :raises StoreError: when a file can't be written.
    """
    documents: list[ReportJson] = [{**report.to_json(), "exit_code": code} for report, code, _ in runs]
    if outputs.report is not None:
        several: ReportsJson = {"schema_version": REPORT_VERSION, "runs": documents}
        _write("--report", outputs.report, _json(documents[0] if len(documents) == 1 else several))

    if outputs.report_html is not None:
        from ..ui.html_report import page

        _write("--report-html", outputs.report_html, page(documents, [timeline.points for _, _, timeline in runs]))

    if outputs.lock_file is not None:
        _write_lock(outputs.lock_file, [report for report, _, _ in runs])

    if outputs.metrics_textfile is not None:
        from ..run.metrics import write_metrics

        write_metrics(outputs.metrics_textfile, [(report, code) for report, code, _ in runs])


def _write_lock(file: Path, reports: Sequence[Report]) -> None:
    if all(report.complete and not report.failed_checks for report in reports):
        found = [(report.server, [outcome.reference for outcome in report.outcomes]) for report in reports]
        _write("--lock-file", file, _json(lock_document(found)))
    else:
        click.echo(f"quaymirror: {file} is not written: not everything selected was found", err=True)


async def ping(outputs: OutputOptions, suffix: str, body: str = "") -> None:
    """Ping, if there is somebody to; that it fails is worth a line."""
    if outputs.ping_url is None:
        return

    from ..http.ping import ping as send_ping

    try:
        await send_ping(outputs.ping_url.rstrip("/") + suffix, body.encode())
    except QuaymirrorError as error:
        # What follows the host is a secret: whoever knows it can ping.
        click.echo(f"quaymirror: --ping-url: {escape_controls(error.message)}", err=True)


def shown_url(url: str) -> str:
    """Return a ping URL without what must not be seen."""
    return f"{url.partition('://')[0]}://{shown(url).partition('/')[0]}/***"


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def _write(option: str, file: Path, text: str) -> None:
    """Write it whole or not at all: what reads it may come at any time.

    :raises StoreError: when it can't be written.
    """
    try:
        if file.exists() and not file.is_file():
            # A pipe, or a device such as /dev/stdout: nothing may take its place.
            file.write_text(text, encoding="utf-8")
        else:
            _replace(file, text)
    except OSError as error:
        raise StoreError(f"{option} {file}: {error.strerror}") from None


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)

        raise
