"""`quaymirror history`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click

from ..documents import PastRunJson
from ..errors import ConfigError
from ..events import Status
from ..settings import DEFAULT_TARGET
from ..store import fsops
from ..store.history import History
from ..store.records import PastRun
from ..text import escape_controls, human_bytes, human_duration, table
from .help import command_option, options
from .options import home_at, json_option

_COLUMNS = (Status.MIRRORED, Status.UNCHANGED, Status.SKIPPED, Status.FAILED)


@click.command
@click.argument("run", required=False, metavar="[RUN]")
@options("history")
@command_option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=30, show_default=True, help="Number of runs to show."
)
@json_option("Print an array of runs, or the report of RUN.")
def history(run: str | None, target: str | None, state: Path | None, limit: int, as_json: bool) -> int:
    """Show the runs that wrote to a target, the latest first, or the outcome of each image in RUN.

    \b
    quaymirror history --to /srv/mirror
    quaymirror history 6fb1c0de --to /srv/mirror
    """
    with closing(_open(DEFAULT_TARGET if target is None else target, state)) as past:
        if run is None:
            _show_runs(past.runs(limit=limit), as_json=as_json)
        else:
            _show_report(_report(past, run), as_json=as_json)

    return 0


def _open(target: str, state: Path | None) -> History:
    directory = home_at(target, state)
    if not fsops.exists(directory / "history.db"):
        raise ConfigError(f"no run found for '{target}': pass the same target that you used with sync")

    past, notice = History.open(directory, read_only=True)
    if notice:
        raise ConfigError(notice)

    return past


def _report(past: History, run: str) -> dict[str, Any]:
    matching = [known.id for known in past.runs() if known.id.startswith(run)]
    if len(matching) != 1:
        count = f"{len(matching)} runs have" if matching else "no run has"
        raise ConfigError(f"{count} an id that begins with {run!r}: see quaymirror history")

    report = past.report(matching[0])
    if report is None:
        raise ConfigError(f"the report of run {matching[0]} is no longer stored: only the last 100 reports are kept")

    return report


def _show_runs(runs: Sequence[PastRun], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_row(run) for run in runs], indent=2))
        return

    head = ("run", "began", "took", "mirrored", "unchanged", "skipped", "failed", "fetched", "result", "selection")
    for line in table([head, *map(_cells, runs)]):
        click.echo(line)


def _row(run: PastRun) -> PastRunJson:
    row = asdict(run)
    subject = json.loads(row.pop("subject"))
    started = datetime.fromtimestamp(run.started, UTC).isoformat()
    return cast("PastRunJson", {**row, **subject, "started": started})


def _cells(run: PastRun) -> tuple[str, ...]:
    counts = [f"{run.images.get(status.value, 0):,}" for status in _COLUMNS]
    selection = json.loads(run.subject)["selection"]
    return (
        run.id,
        f"{datetime.fromtimestamp(run.started).astimezone():%Y-%m-%d %H:%M}",
        human_duration(run.elapsed),
        *counts,
        human_bytes(run.bytes_fetched),
        "ok" if run.exit_code == 0 else f"exit {run.exit_code}",
        f"{selection['organization']}/{selection['glob']}:{selection['tag']}",
    )


def _show_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return

    click.echo(escape_controls(f"run {report['run_id']} of {report['started']}, exit code {report['exit_code']}"))
    rows = [
        (
            outcome["status"],
            outcome["reference"],
            outcome["digest"] or "-",
            outcome["error"]["message"] if outcome["error"] else outcome["reason"] or "",
        )
        for outcome in report["outcomes"]
    ]
    for line in table(rows):
        click.echo(line)
