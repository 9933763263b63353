"""`quaymirror status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from ..documents.runs import JobStatusJson
from ..errors import ExitCode, most_severe
from ..run.past_runs import JobStatus, job_statuses
from ..run.report import change_counts_json, usage_json
from ..text import escape_controls, human_bytes, human_duration
from .help import options
from .history import changes_text
from .options import json_option
from .run import configured_jobs, job_names
from .tables import narrowed_table

_HEAD = ("job", "state", "last success", "age", "images", "size", "free", "changes")
# The columns that a narrow terminal leaves out, the first one first.
_OPTIONAL = ("free", "size", "last success")


@click.command
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=job_names)
@options("status")
@json_option("Print an array of jobs.")
def status(jobs: tuple[str, ...], config: Path | None, as_json: bool) -> int:
    """Show the jobs of a configuration file: last success, age, changes, size, and the first problem to look at.

    Nothing is requested from the source. The exit code is 0 if all histories could be read.

    \b
    quaymirror status
    quaymirror status --config /etc/quaymirror/quaymirror.toml --json
    """
    found, now = job_statuses(configured_jobs(config, jobs)), time.time()
    if as_json:
        click.echo(json.dumps([_json(one, now) for one in found], indent=2))
    else:
        for line in _lines(found, now):
            click.echo(line)

    return most_severe([ExitCode.OK, *(one.failure.exit_code for one in found if one.failure is not None)])


def _lines(found: Iterable[JobStatus], now: float) -> list[str]:
    """Return a table of jobs, each with its problem below it."""
    jobs = list(found)
    head, *rows = narrowed_table([_HEAD, *(_cells(one, now) for one in jobs)], optional=_OPTIONAL)
    lines = [head]
    for row, one in zip(rows, jobs, strict=True):
        lines += [row, escape_controls(f"  {one.problem}")] if one.problem else [row]

    return lines


def _cells(one: JobStatus, now: float) -> tuple[str, ...]:
    usage = one.last.usage if one.last is not None else None
    success = one.last_success
    return (
        one.job,
        one.state if one.last is None or one.state != "failed" else f"exit {one.last.exit_code}",
        "-" if success is None else f"{datetime.fromtimestamp(success).astimezone():%Y-%m-%d %H:%M}",
        "-" if success is None else human_duration(now - success),
        "-" if usage is None else f"{usage.images:,}",
        "-" if usage is None else human_bytes(usage.bytes),
        "-" if usage is None or usage.free_bytes is None else human_bytes(usage.free_bytes),
        changes_text(one.last.changes if one.last is not None else None),
    )


def _json(one: JobStatus, now: float) -> JobStatusJson:
    last = one.last
    return {
        "job": one.job,
        "target": one.target,
        "state": one.state,
        "last_run": None if last is None else _time(last.started),
        "last_success": None if one.last_success is None else _time(one.last_success),
        "age": None if one.last_success is None else round(now - one.last_success, 3),
        "exit_code": last.exit_code if last is not None and last.ended else None,
        "changes": change_counts_json(None if last is None else last.changes),
        "usage": usage_json(None if last is None else last.usage),
        "problem": one.problem,
    }


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
