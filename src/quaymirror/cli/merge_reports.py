"""`quaymirror merge-reports`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click

from ..run.merge_reports import MergedReports, merge_reports
from ..store.fsops import replace_file
from ..text import counted, escape_controls, human_bytes
from .help import GroupedCommand, options
from .messages import say
from .options import json_option, make_options


@click.command("merge-reports", cls=GroupedCommand)
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...", type=click.Path(path_type=Path))
@options("merge-reports")
@json_option("Print the joined report.")
def merge(reports: tuple[Path, ...], as_json: bool, report: Path | None, **given: Any) -> int:
    """Join the reports of the shards of one plan, and the records of their pushes.

    With --state DIR, the next run of one machine with that state asks for nothing again. The exit code is that of the
    whole: 0 if everything of the plan is mirrored.

    \b
    quaymirror merge-reports report-*.json --state /var/lib/quaymirror
    """
    merged = anyio.run(partial(merge_reports, reports, options=make_options(given)))
    text = json.dumps(merged.report, indent=2) + "\n"
    if report is not None:
        replace_file(report, text.encode(), sync=False, suffix=merged.report["run_id"][:32])

    if as_json:
        click.echo(text, nl=False)
    else:
        for line in _lines(merged):
            click.echo(escape_controls(line))

    for shard in merged.missing:
        say(f"shard {shard} has no report: run it again")

    return int(merged.exit_code)


def _lines(merged: MergedReports) -> list[str]:
    report = merged.report
    counts = {str(name): count for name, count in report["images"].items()}
    numbers = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    failed = [f"failed  {each['reference']}" for each in report["outcomes"] if each["status"] == "failed"]
    fetched = human_bytes(report["bytes_fetched"])
    return [f"{counted(len(report['outcomes']), 'image')}: {numbers or 'nothing'}; {fetched} fetched", *failed]
