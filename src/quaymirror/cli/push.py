"""`quaymirror push`."""

from __future__ import annotations

from typing import Any

import anyio
import click

from ..run.jobs import run_jobs
from ..selection.source import is_layout
from ..settings.spec import Heading
from .console import announced, report
from .help import ADDRESS, GroupedCommand, command_option, options
from .options import make_job, make_outputs


@click.command(cls=GroupedCommand)
@click.argument("mirror", metavar="MIRROR", type=ADDRESS)
@click.argument("target", metavar="TARGET", type=ADDRESS)
@click.argument("name", required=False, metavar="[GLOB:TAG]")
@command_option("--at", metavar="ID|DATE", heading=Heading.SELECTION, help="Push the images of this snapshot.")
@options("push")
def push(mirror: str, name: str | None, **given: Any) -> int:
    """Load MIRROR, an OCI image layout of quaymirror or of another tool, into TARGET.

    MIRROR is a directory, or an oci-archive (a tar file). GLOB:TAG selects images by their whole names; without it, all
    are pushed. It is the same as sync ocidir://MIRROR --to TARGET: every target works, no blob is uploaded twice, and
    an interrupted push goes on.

    \b
    quaymirror push /media/mirror registry://registry.example:5000
    quaymirror push ./mirror registry://registry.example/team 'kolla/nova-*:2025.1-*'
    """
    given["organization"] = mirror if is_layout(mirror) else f"ocidir://{mirror}"
    given["select"] = (*(given.get("select") or ()), *([name] if name is not None else []))
    jobs, outputs = [make_job(given)], make_outputs(given)
    with announced(outputs) as watch:
        return report(outputs, anyio.run(run_jobs, jobs, watch))
