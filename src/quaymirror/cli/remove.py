"""`quaymirror remove`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from ..documents.removal import RemovalJson
from ..run.removal import Removal, remove_images
from ..text import counted, escape_controls
from .help import ADDRESS, GroupedCommand, command_option, options
from .messages import say, show_notice
from .options import json_option, mirror_at

if TYPE_CHECKING:
    from ..run.jobs import Job


@click.command(cls=GroupedCommand)
@click.argument("mirror", type=ADDRESS)
@click.argument("patterns", nargs=-1, required=True, metavar="GLOB:TAG...")
@options("remove")
@command_option("--yes", is_flag=True, help="Do it.")
@json_option("Print an object with the names.")
def remove(
    mirror: str,
    patterns: tuple[str, ...],
    dry_run: bool | None,
    config: Path | None,
    state: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove images from MIRROR by their names; nothing is removed without --yes.

    Held names are refused. Content stays until a prune, and as long as an earlier snapshot needs it. With --config,
    images that a job of that file would mirror again are named.

    \b
    quaymirror remove /srv/mirror 'kolla/*:2024.2-*'
    quaymirror remove /srv/mirror kolla/nova-api:2025.1-debian --yes
    """
    path, is_dry = mirror_at(mirror, state), bool(dry_run) or not yes
    jobs = _jobs(config)
    done = anyio.run(partial(remove_images, path, patterns, jobs=jobs, dry_run=is_dry, observer=show_notice))
    if as_json:
        click.echo(json.dumps(_json(done), indent=2))
    else:
        for name in done.names:
            click.echo(escape_controls(name))

    for name in done.again:
        say(f"{name} is selected by a job: its next run mirrors the image again")

    count = counted(len(done.names), "image")
    if is_dry:
        click.echo(f"Would remove {count}. Use --yes to do it.", err=True)
    else:
        new = f", snapshot {done.snapshot.id}" if done.snapshot is not None else ""
        click.echo(f"Removed {count}{new}; prune deletes content that no snapshot needs.", err=True)

    return 0


def _jobs(config: Path | None) -> list[Job]:
    if config is None:
        return []

    from .run import configured_jobs

    return configured_jobs(config)


def _json(done: Removal) -> RemovalJson:
    return {
        "removed": list(done.names),
        "mirrored_again": list(done.again),
        "snapshot": done.snapshot.id if done.snapshot is not None else None,
    }
