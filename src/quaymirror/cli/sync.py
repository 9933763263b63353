"""`quaymirror sync`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import click

from ..run.jobs import JobResult, run_jobs
from .console import announced, report
from .help import GroupedCommand, options
from .messages import say
from .options import make_job, make_outputs, selection_arguments


@click.command(cls=GroupedCommand)
@selection_arguments
@options("sync")
def sync(**given: Any) -> int:
    """Mirror every repository of ORG that matches GLOB and has the tag TAG.

    GLOB defaults to '*' and TAG to 'latest'. Each can be several, separated by commas, and TAG can be a glob, too.
    Options can also be set by environment variables: QUAYMIRROR_CONCURRENCY for --concurrency.

    \b
    quaymirror sync kolla '*' 2025.1-debian --concurrency 16
    quaymirror sync kolla 'nova-*,neutron-*' '2025.1-debian*' --exclude '*-base'
    quaymirror sync 'quay://kolla/nova-*:2025.1-debian?since=2025-04-01' --to /srv/mirror
    """
    jobs, outputs = [make_job(given)], make_outputs(given)
    with announced(outputs) as watch:
        results = anyio.run(run_jobs, jobs, watch)
        if (file := given["plan_only"]) is not None:
            _write_plan(file, results[0])

        return report(outputs, results)


def _write_plan(file: Path, result: JobResult) -> None:
    from ..run.planning import write_plan

    is_done = result.run is not None and result.report is not None and write_plan(file, result.run, result.report)
    if not is_done and result.failure is None:
        say(f"{file} is not written: not everything selected was found")
