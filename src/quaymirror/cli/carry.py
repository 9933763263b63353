"""`quaymirror inventory`, `export` and `import`: a mirror that is carried on media."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click

from ..carry.export import ExportOptions, ExportResult, export_mirror
from ..carry.inventory import Inventory
from ..carry.plan import parse_media_size
from ..carry.progress import CarryProgress
from ..carry.receive import ImportOptions, ImportResult, import_parts, is_archive
from ..carry.take_stock import request_missing, take_inventory
from ..errors import ConfigError, ExitCode
from ..store.fsops import Fsync
from ..text import counted, escape_controls, human_bytes
from .help import ADDRESS, DIRECTORY, GroupedCommand, command_option, options
from .messages import say
from .options import json_option, make_job, mirror_at
from .progress_line import Counter, progress_line, show_notice_above

_PATH = click.Path(path_type=Path)


def _media_size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    try:
        return parse_media_size(text) if text is not None else None
    except ConfigError as error:
        raise click.BadParameter(error.message) from None


@click.command(cls=GroupedCommand)
@click.argument("mirror", type=ADDRESS)
@command_option("--names", is_flag=True, help="Also name the images, for people.")
@command_option("--missing", is_flag=True, help="Write a request for what the imports of MIRROR wait for instead.")
@options("inventory")
def inventory(mirror: str, names: bool, missing: bool, state: Path | None) -> int:
    """Write what MIRROR has to standard output, for `quaymirror export --have`.

    The blobs that it names are not pruned until an import answers it, at most for 30 days.

    \b
    quaymirror inventory /srv/mirror > far.inventory
    """
    path = mirror_at(mirror, state)
    found = anyio.run(request_missing, path) if missing else anyio.run(_inventory, path, names)

    if sys.stdout.isatty():
        click.echo(escape_controls(found.to_text()).replace("\\x0a", "\n"), nl=False)
    else:
        sys.stdout.buffer.write(found.to_bytes())

    what = "missing" if missing else "here"
    say(f"{counted(len(found.digests), 'blob')} {what}, inventory {found.id[:8]}")
    return ExitCode.OK


async def _inventory(mirror: Path, names: bool) -> Inventory:
    progress = CarryProgress()
    async with progress_line(partial(_update, progress)):
        return await take_inventory(mirror, names=names, observer=show_notice_above, progress=progress)


@click.command(cls=GroupedCommand)
@click.argument("mirror", type=ADDRESS)
@command_option("--to", "to", required=True, metavar="DIR", type=DIRECTORY, help="Directory for the parts.")
@command_option("--have", multiple=True, metavar="FILE", type=_PATH, help="Inventory of a receiver.  [repeatable]")
@command_option("--since-export", default="", metavar="ID", help="Assume that the receiver imported this one.")
@command_option("--at", metavar="SNAPSHOT", help="Export the images of this snapshot: an id, or a date.")
@command_option(
    "--media-size", metavar="SIZE", callback=_media_size, help="Size of a part: 4.7G, 4GiB, dvd, dvd-dl, bd or fat32."
)
@command_option("--sign", "key", metavar="KEY", type=_PATH, help="Sign with this SSH key, by ssh-keygen.")
@command_option("--wait-for-medium", is_flag=True, help="Wait for another medium when DIR is full.")
@options("export")
@json_option("Print an object with the parts and their sizes.")
def export(
    mirror: str,
    to: Path,
    have: tuple[Path, ...],
    since_export: str,
    at: str | None,
    select: tuple[str, ...],
    media_size: int | None,
    key: Path | None,
    wait_for_medium: bool,
    dry_run: bool | None,
    fsync: Fsync | None,
    state: Path | None,
    as_json: bool,
) -> int:
    """Write the images of MIRROR, without what the receiver has, to parts that media can carry.

    A repeated command continues an export that broke off. An export of everything in one part is also an `oci-archive`
    that other tools read.

    \b
    quaymirror export /srv/mirror --to /media/usb --have far.inventory
    quaymirror export /srv/mirror --to /media/dvd --media-size dvd --wait-for-medium
    """
    if have and since_export:
        raise click.UsageError("--have and --since-export don't go together: an inventory is better")

    wanted = ExportOptions(
        have=have,
        since=since_export,
        select=select,
        media_size=media_size,
        key=key,
        wait_for_medium=wait_for_medium,
        dry_run=dry_run is True,
        at=at,
        fsync=fsync or Fsync.ALWAYS,
    )
    result = anyio.run(_export, mirror_at(mirror, state), to, wanted)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        for path, size in result.files:
            note = "  written earlier" if path in result.kept else ""
            click.echo(escape_controls(f"{human_bytes(size):>10}  {path}{note}"))

    _show_export(result, wanted.dry_run)
    return ExitCode.OK


async def _export(mirror: Path, to: Path, wanted: ExportOptions) -> ExportResult:
    progress = CarryProgress()
    async with progress_line(partial(_update, progress)):
        return await export_mirror(mirror, to, wanted, observer=show_notice_above, progress=progress)


def _show_export(result: ExportResult, dry_run: bool) -> None:
    manifest = result.manifest
    text = f"export {manifest.id[:8]}: {counted(len(manifest.images), 'image')}, {human_bytes(manifest.carried_bytes)}"
    assumed = f"; {counted(result.assumed, 'blob')} assumed at the receiver" if result.assumed else ""
    say(f"{text} in {counted(manifest.parts, 'part')}{assumed}{' (dry run)' if dry_run else ''}")


@click.command("import", cls=GroupedCommand)
@click.argument("parts", nargs=-1, required=True, metavar="PART...", type=_PATH)
@click.argument("target", type=ADDRESS)
@command_option("--allowed-signers", metavar="FILE", type=_PATH, help="Signers to trust, as for ssh-keygen.")
@command_option("--allow-unsigned", is_flag=True, help="Import without a signature, or without checking its signer.")
@command_option("--allow-older", is_flag=True, help="Import an export that is older than the newest one here.")
@options("import")
@json_option("Print an object with the images by outcome, and everything that is missing.")
def import_(
    parts: tuple[Path, ...],
    target: str,
    allowed_signers: Path | None,
    allow_unsigned: bool,
    allow_older: bool,
    fsync: Fsync | None,
    check_space: bool | None,
    as_json: bool,
) -> int:
    """Store the parts of an export, files or directories of them, in the mirror TARGET.

    Parts may come in any order, repeatedly, and from several exports. Each image appears as soon as it is complete.
    A single PART may also be an oci-archive, or a docker-archive, whose images get new digests.

    \b
    quaymirror import /media/usb /srv/mirror --allowed-signers signers
    """
    if len(parts) == 1 and is_archive(parts[0]):
        return _import_archive(parts[0], target=target, fsync=fsync, check_space=check_space)

    path = DIRECTORY(target, ctx=click.get_current_context())
    wanted = ImportOptions(
        allowed_signers=allowed_signers,
        allow_unsigned=allow_unsigned,
        allow_older=allow_older,
        check_space=check_space is not False,
        fsync=fsync or Fsync.ALWAYS,
    )
    result = anyio.run(_import, parts, path, wanted)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))

    for line in result.describe():
        say(line)

    verdicts = f"; {counted(result.verdicts, 'verdict')} about signatures recorded" if result.verdicts else ""
    stored = f"{counted(result.blobs, 'blob')} stored ({human_bytes(result.bytes)}){verdicts}"
    say(
        f"{counted(len(result.imported), 'image')} imported, {len(result.unchanged):,} unchanged, "
        f"{len(result.waiting):,} waiting; {stored}"
    )
    return result.exit_code


def _import_archive(path: Path, **given: Any) -> int:
    """Mirror the images of an archive: a run as of `sync`, which nothing else here needs."""
    from ..run.jobs import run_jobs
    from ..settings import OutputOptions
    from .console import announced, report

    jobs = [make_job({"organization": f"ocidir://{path}", **given})]
    with announced(OutputOptions()) as watch:
        return report(OutputOptions(), anyio.run(run_jobs, jobs, watch))


async def _import(parts: tuple[Path, ...], target: Path, wanted: ImportOptions) -> ImportResult:
    progress = CarryProgress()
    async with progress_line(partial(_update, progress)):
        return await import_parts(parts, target, wanted, observer=show_notice_above, progress=progress)


def _update(progress: CarryProgress, counter: Counter) -> None:
    counter.done, counter.total, counter.is_bytes = progress.bytes, progress.total_bytes, True
    if progress.parts:
        counter.text = f"part {progress.part} of {progress.parts}"
    elif progress.blobs:
        counter.text = counted(progress.blobs, "blob")
