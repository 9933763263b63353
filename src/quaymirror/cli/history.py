"""`quaymirror history`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ..documents.runs import PastRunJson
from ..errors import ConfigError
from ..events import ChangeCounts, Status
from ..run.past_runs import FAILED, open_past, state_of
from ..run.report import change_counts_json, usage_json
from ..settings import DEFAULT_TARGET
from ..store import fsops
from ..store.history import History
from ..store.records import PastRun
from ..text import counted, escape_controls, human_bytes, human_duration, table
from ..values import dataclass
from .help import command_option, options
from .options import home_at, json_option
from .run import configured_jobs
from .tables import narrowed_table

_COLUMNS = (Status.MIRRORED, Status.UNCHANGED, Status.SKIPPED, Status.FAILED, Status.REFUSED)
_HEAD = ("run", "began", "took", *(status.value for status in _COLUMNS), "fetched", "changes", "result", "selection")
# The columns that a narrow terminal leaves out, the first one first.
_OPTIONAL = ("refused", "skipped", "unchanged", "selection", "took", "fetched")


@dataclass(frozen=True, slots=True)
class _Row:
    """A run in the table; `target` is shown if runs of several targets are."""

    run: PastRun
    state: str
    target: str = ""


@click.command
@click.argument("run", required=False, metavar="[RUN]")
@options("history")
@command_option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=30, show_default=True, help="Number of runs to show."
)
@json_option("Print an array of runs, or the report of RUN.")
def history(
    run: str | None, target: str | None, state: Path | None, config: Path | None, limit: int, as_json: bool
) -> int:
    """Show the runs that wrote to a target, the latest first, or the outcome of each image in RUN.

    Runs that were killed, and prunes, are among them. With --config, show those of all jobs.

    \b
    quaymirror history --to /srv/mirror
    quaymirror history --config quaymirror.toml
    quaymirror history 6fb1c0de --to /srv/mirror
    """
    if run is not None and target is None and config is None and fsops.exists(Path(run)):
        raise ConfigError(f"not a run: '{run}'; the history of a mirror is shown by quaymirror history --to {run}")

    homes = _homes(target, state, config)
    if run is not None:
        _show_report(_report(homes, run), as_json=as_json)
        return 0

    rows = [row for home, name in homes.items() for row in _rows(home, name, limit, is_one=config is None)]
    rows.sort(key=lambda row: -row.run.started)
    _show_runs(rows[:limit], as_json=as_json)
    return 0


def _homes(target: str | None, state: Path | None, config: Path | None) -> dict[Path, str]:
    """Return the state directories that were asked for, with their targets."""
    if config is None:
        name = DEFAULT_TARGET if target is None else target
        return {home_at(name, state): name}

    if target is not None or state is not None:
        raise ConfigError("--config names targets and their state: --to and --state don't go with it")

    homes = {job.state_directory: job.target for job in configured_jobs(config)}
    known = {home: name for home, name in homes.items() if fsops.exists(home / "history.db")}
    if not known:
        raise ConfigError(f"no run found for a job of {config}")

    return known


def _rows(home: Path, target: str, limit: int, *, is_one: bool) -> list[_Row]:
    with open_past(home, target) as past:
        runs = past.runs(limit=limit)

    name = "" if is_one else target
    return [_Row(run, state_of(run, home, is_latest=number == 0), name) for number, run in enumerate(runs)]


def _report(homes: dict[Path, str], run: str) -> dict[str, Any]:
    matching: list[str] = []
    report = None
    for home, target in homes.items():
        with open_past(home, target) as past:
            for known in past.runs():
                if known.id.startswith(run):
                    matching.append(known.id)
                    report = _stored_report(past, known)

    if len(matching) != 1 or report is None:
        count = f"{len(matching)} runs have" if matching else "no run has"
        raise ConfigError(f"{count} an id that begins with {run!r}: see quaymirror history")

    return report


def _stored_report(past: History, run: PastRun) -> dict[str, Any]:
    report = past.report(run.id)
    if report is not None:
        return report

    if run.kind == "prune":
        raise ConfigError(f"{run.id} was a prune: {run.remark}")

    if not run.ended:
        raise ConfigError(f"run {run.id} has not ended, or was killed: it left no report")

    raise ConfigError(f"the report of run {run.id} is no longer stored: see --report-age")


def _show_runs(rows: Sequence[_Row], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_json(row) for row in rows], indent=2))
        return

    has_targets = any(row.target for row in rows)
    head = (*_HEAD, "target") if has_targets else _HEAD
    cells = [head, *((*_cells(row), row.target)[: len(head)] for row in rows)]
    for line in narrowed_table(cells, optional=_OPTIONAL):
        click.echo(line)


def _json(row: _Row) -> PastRunJson:
    run = row.run
    document: PastRunJson = {
        "id": run.id,
        "kind": run.kind,
        "jobs": list(run.jobs),
        "started": datetime.fromtimestamp(run.started, UTC).isoformat(),
        "elapsed": run.elapsed,
        "exit_code": run.exit_code if run.ended else None,
        "complete": run.complete,
        "images": {
            "mirrored": run.images.get("mirrored", 0),
            "unchanged": run.images.get("unchanged", 0),
            "skipped": run.images.get("skipped", 0),
            "failed": run.images.get("failed", 0),
            "refused": run.images.get("refused", 0),
        },
        "bytes_fetched": run.bytes_fetched,
        "changes": change_counts_json(run.changes),
        "usage": usage_json(run.usage),
        "remark": run.remark,
    }
    if row.target:
        document["target"] = row.target

    document.update(json.loads(run.subject))
    return document


def _cells(row: _Row) -> tuple[str, ...]:
    run, has_counts = row.run, row.run.ended and row.run.kind == "sync"
    counts = [f"{run.images.get(status.value, 0):,}" if has_counts else "-" for status in _COLUMNS]
    return (
        run.id,
        f"{datetime.fromtimestamp(run.started).astimezone():%Y-%m-%d %H:%M}",
        human_duration(run.elapsed) if run.ended else "-",
        *counts,
        human_bytes(run.bytes_fetched) if has_counts else "-",
        changes_text(run.changes),
        f"exit {run.exit_code}" if row.state == FAILED else row.state,
        run.remark if run.kind == "prune" else _selection(run),
    )


def _selection(run: PastRun) -> str:
    subject = json.loads(run.subject)
    selection = subject["selection"]
    more = f" and {len(subject['more'])} more" if subject.get("more") else ""
    return f"{selection['organization']}/{selection['glob']}:{selection['tag']}{more}".removeprefix("/")


def changes_text(changes: ChangeCounts | None) -> str:
    """Return the numbers of new, moved and missing images in short, "-" if they are not known."""
    if changes is None:
        return "-"

    counts = (("+", changes.new), ("~", changes.moved), ("-", changes.missing))
    return " ".join(f"{sign}{count:,}" for sign, count in counts if count) or "none"


def _show_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return

    click.echo(escape_controls(f"run {report['run_id']} of {report['started']}, exit code {report['exit_code']}"))
    for line in _change_lines(report.get("changes")):
        click.echo(escape_controls(line))

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


def _change_lines(changes: dict[str, Any] | None) -> list[str]:
    """Return what changed since the earlier run, one line per image."""
    if changes is None:
        return []

    kinds = (("+ new", "came"), ("~ moved", "moved"), ("- missing", "gone"))
    lines = [f"  {word:<9}  {name}" for word, key in kinds for name in changes[key]]
    since = f"run {changes['since']} of {changes['started']}, which found {counted(changes['before'], 'image')}"
    return [f"changes since {since}:" if lines else f"no changes since {since}", *lines]
