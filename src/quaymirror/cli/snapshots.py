"""`quaymirror snapshots`, `diff`, `rollback`, `hold`, `unhold` and `checkout`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import anyio
import click

from ..documents.common import iso
from ..documents.snapshots import DiffJson, HoldJson, SnapshotIdJson, SnapshotJson
from ..errors import ExitCode
from ..run import snapshots as library
from ..run.changes import Difference
from ..run.checkout import check_out
from ..run.paths import layout_path
from ..run.source_diff import diff_source
from ..store.records import Snapshot
from ..text import counted, escape_controls, human_bytes, local_time, table
from .help import ADDRESS, DIRECTORY, command_option, options
from .messages import show_notice
from .options import json_option, make_options, mirror_at

_HEAD = ("id", "created", "images", "size", "own", "cause", "label", "")


@click.command
@click.argument("mirror", type=ADDRESS)
@command_option("--protect", metavar="ID", help="Keep this snapshot, whatever retention says.")
@command_option("--unprotect", metavar="ID", help="Let retention decide about this snapshot again.")
@options("snapshots")
@json_option("Print an array of id, created, images, bytes and more.")
def snapshots(mirror: str, protect: str | None, unprotect: str | None, state: Path | None, as_json: bool) -> int:
    """Show the snapshots of MIRROR, the oldest first: the sets of images that it held.

    Each sync that changed something made one. ID is an id or its beginning, a date (2026-03-03),
    a time with zone, latest or previous.

    \b
    quaymirror snapshots /srv/mirror
    quaymirror snapshots /srv/mirror --protect 2026-03-03
    """
    path = mirror_at(mirror, state)
    for at, protected in ((protect, True), (unprotect, False)):
        if at is not None:
            change = partial(library.protect_snapshot, path, at, protected=protected, observer=show_notice)
            click.echo(f"{'protected' if protected else 'not protected'}: {anyio.run(change).id}", err=True)

    listed = anyio.run(library.list_snapshots, path)
    if as_json:
        click.echo(json.dumps([_row(each) for each in listed], indent=2))
        return 0

    if (protect, unprotect) == (None, None):
        for line in table([_HEAD, *map(_cells, listed)]):
            click.echo(line)

    return 0


@click.command
@click.argument("mirror", type=ADDRESS)
@click.argument("a", required=False, metavar="[A]")
@click.argument("b", required=False, metavar="[B]")
@command_option("--source", "with_source", is_flag=True, help="Compare MIRROR with the source of its last run.")
@command_option("--exit-code", is_flag=True, help="End with 3 if anything differs.")
@options("diff")
@json_option("Print an object with the names that came, moved and are gone.")
def diff(
    mirror: str,
    a: str | None,
    b: str | None,
    with_source: bool,
    exit_code: bool,
    state: Path | None,
    as_json: bool,
) -> int:
    """Show the images of MIRROR that are new, moved or gone in snapshot B, compared with A.

    A is the previous snapshot by default, and B the latest one. With --source, new and moved images are those that a
    sync would mirror, and gone ones are missing at the source.

    \b
    quaymirror diff /srv/mirror
    quaymirror diff /srv/mirror 2026-03-03 latest --exit-code
    """
    path = mirror_at(mirror, state)
    first: Snapshot | None = None
    second: Snapshot | None = None
    if with_source:
        if a is not None:
            raise click.UsageError("--source compares the mirror as it is now: no snapshot can follow it")

        found = anyio.run(partial(diff_source, path, make_options({"state": state}), observer=show_notice))
    else:
        first, second, found = library.diff_snapshots(path, a or "previous", b or "latest")

    if as_json:
        click.echo(json.dumps(_diff_json(first, second, found), indent=2))
    else:
        for line in _diff_lines(found):
            click.echo(line)

    return ExitCode.PARTIAL if exit_code and found else ExitCode.OK


@click.command
@click.argument("mirror", type=ADDRESS)
@command_option("--to", "to", metavar="ID|DATE", required=True, help="The snapshot to go back to.")
@command_option("--select", metavar="GLOB:TAG", multiple=True, help="Only images with such names.")
@command_option("--reason", metavar="TEXT", default="", help="Why; it is shown with the held names.")
@options("rollback")
def rollback(mirror: str, to: str, select: tuple[str, ...], reason: str, state: Path | None) -> int:
    """Return the images of MIRROR to those of a snapshot, and hold their names.

    No sync moves a held name, and no pruning removes it, until unhold.

    \b
    quaymirror rollback /srv/mirror --to previous
    quaymirror rollback /srv/mirror --to 2026-03-03 --select 'kolla/nova-*:2025.1-*'
    """
    move = partial(library.roll_back, mirror_at(mirror, state), to, select, reason=reason, observer=show_notice)
    done = anyio.run(move)
    for name in done.moved:
        click.echo(escape_controls(name))

    moved = f"{counted(len(done.moved), 'image')} returned to snapshot {done.of.id} of {local_time(done.of.created)}"
    new = f", now snapshot {done.new.id}" if done.new is not None else ""
    click.echo(f"{moved}{new}; {counted(len(done.held), 'name is', 'names are')} held until unhold", err=True)
    return 0


@click.command
@click.argument("mirror", type=ADDRESS)
@click.argument("patterns", nargs=-1, metavar="[GLOB:TAG...]")
@command_option("--reason", metavar="TEXT", default="", help="Why; it is shown with the name.")
@options("hold")
@json_option("Print an array of name, reason and since.")
def hold(mirror: str, patterns: tuple[str, ...], reason: str, state: Path | None, as_json: bool) -> int:
    """Hold the images of MIRROR with such names: no sync moves them, and no pruning removes them.

    Without GLOB:TAG, show the held names.

    \b
    quaymirror hold /srv/mirror 'kolla/nova-*:2025.1-debian' --reason 'bug 2071234'
    """
    path = mirror_at(mirror, state)
    if patterns:
        names = anyio.run(partial(library.hold_names, path, patterns, reason=reason, observer=show_notice))
        click.echo(f"{counted(len(names), 'name is', 'names are')} held", err=True)

    held = anyio.run(library.held_names, path)
    if as_json:
        rows: list[HoldJson] = [{"name": e.name, "reason": e.reason, "since": iso(e.since)} for e in held]
        click.echo(json.dumps(rows, indent=2))
    elif held:
        for line in table([(each.name, local_time(each.since), each.reason) for each in held]):
            click.echo(line)

    return 0


@click.command
@click.argument("mirror", type=ADDRESS)
@click.argument("patterns", nargs=-1, required=True, metavar="GLOB:TAG...")
@options("unhold")
def unhold(mirror: str, patterns: tuple[str, ...], state: Path | None) -> int:
    """Let syncs move the held names of MIRROR that match again.

    \b
    quaymirror unhold /srv/mirror '*:*'
    """
    for name in anyio.run(partial(library.unhold_names, mirror_at(mirror, state), patterns, observer=show_notice)):
        click.echo(escape_controls(name))

    return 0


def _row(listed: library.ListedSnapshot) -> SnapshotJson:
    snapshot = listed.snapshot
    return {
        "id": snapshot.id,
        "created": iso(snapshot.created),
        "images": snapshot.images,
        "bytes": listed.usage.size,
        "own_bytes": listed.usage.own,
        "cause": snapshot.cause,
        "run": snapshot.run or None,
        "label": snapshot.label or None,
        "protected": snapshot.protected,
        "complete": snapshot.complete,
        "content_removed": None if snapshot.dropped is None else iso(snapshot.dropped),
    }


def _cells(listed: library.ListedSnapshot) -> tuple[str, ...]:
    snapshot, is_kept = listed.snapshot, listed.snapshot.dropped is None
    remarks = [
        "" if is_kept else "content removed",
        "protected" if snapshot.protected else "",
        "" if snapshot.complete else "incomplete",
    ]
    return (
        snapshot.id,
        local_time(snapshot.created),
        f"{snapshot.images:,}",
        human_bytes(listed.usage.size) if is_kept else "-",
        human_bytes(listed.usage.own) if is_kept else "-",
        snapshot.cause,
        snapshot.label,
        ", ".join(filter(None, remarks)),
    )


def _id_json(snapshot: Snapshot | None) -> SnapshotIdJson | None:
    return None if snapshot is None else {"id": snapshot.id, "created": iso(snapshot.created)}


def _diff_lines(found: Difference) -> list[str]:
    kinds = (("new", found.came), ("moved", found.moved), ("gone", found.gone))
    return [escape_controls(f"{kind:<5}  {name}") for kind, names in kinds for name in names]


def _diff_json(first: Snapshot | None, second: Snapshot | None, found: Difference) -> DiffJson:
    return {
        "from": _id_json(first),
        "to": _id_json(second),
        "came": list(found.came),
        "moved": list(found.moved),
        "gone": list(found.gone),
    }


@click.command
@click.argument("mirror", type=ADDRESS)
@click.argument("at", metavar="ID")
@click.argument("directory", required=False, metavar="[DIR]", type=DIRECTORY)
def checkout(mirror: str, at: str, directory: Path | None) -> int:
    """Make DIR a layout with the images of a snapshot of MIRROR, for other tools.

    Its blobs are a link to those of MIRROR. DIR is .quaymirror/snapshots/ID in MIRROR by default.

    \b
    quaymirror checkout /srv/mirror previous
    skopeo inspect oci:/srv/mirror/.quaymirror/snapshots/previous:kolla/nova-api:2025.1-debian
    """
    click.echo(str(anyio.run(partial(check_out, layout_path(mirror), at, directory))))
    return 0
