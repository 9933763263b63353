"""`quaymirror list` of a source."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import click

from ..catalog.base import PinnedImage
from ..documents.images import ListedImageJson
from ..errors import AccessDenied, CredentialsRefused, ExitCode, SelectionEmpty
from ..events import CheckFailed, Event, HostPaused, HostResumed, NameUnmatched
from ..progress.failed import FailedImage
from ..progress.run import RunProgress
from ..run.info import find_images
from ..selection.selection import Selection
from ..settings import Options
from ..settings.spec import Heading
from ..text import counted, human_bytes
from ..ui.descriptions import describe
from .help import GroupedCommand, command_option, options
from .messages import say
from .mirrors import is_mirror, show_mirror
from .options import json_option, make_options, make_selections, selection_arguments
from .progress_line import Counter, progress_line, show_notice_above
from .tables import JsonRows, fitting_table, is_short, print_lines, short_digest

# Repositories that one line names.
_SHOWN = 10


@click.command("list", cls=GroupedCommand)
@selection_arguments
@options("list")
@command_option("--at", metavar="ID|DATE", heading=Heading.SELECTION, help="Of a mirror: the images of this snapshot.")
@command_option(
    "--no-trunc", is_flag=True, heading=Heading.OUTPUT, help="Don't shorten digests and names on a terminal."
)
@command_option(
    "--jsonl", "as_lines", is_flag=True, heading=Heading.OUTPUT, help="Print one object per line, as they are found."
)
@json_option("Print an array of repository, tag, digest, size and date.")
def list_images(as_json: bool, as_lines: bool, no_trunc: bool, at: str | None, **given: Any) -> int:
    """Show what sync would mirror, or the images of a mirror, without pulling anything.

    A mirror, or any OCI image layout, is named by its path (/srv/mirror, ./mirror) or ocidir://PATH. GLOB:TAG, or
    --select, then match whole names.

    \b
    quaymirror list kolla 'nova-*' 2025.1-debian
    quaymirror list /srv/mirror 'kolla/nova-*:2025.1-*'
    """
    rows = JsonRows(as_lines=as_lines) if as_json or as_lines else None
    if is_mirror(given):
        return show_mirror(given, at, rows, no_trunc=no_trunc)

    if at is not None:
        raise click.UsageError("--at is for mirrors: name one by its path")

    selections, wanted = make_selections(given, make_options(given))
    failed: list[CheckFailed] = []
    unmatched: list[NameUnmatched] = []
    found = anyio.run(_show, selections, wanted, rows, no_trunc, (failed, unmatched))
    if failed:
        return _report_failures(failed, is_everything=not found)

    is_partial = found and unmatched and not wanted.discovery.allow_unmatched
    return int(ExitCode.PARTIAL if is_partial else ExitCode.OK)


async def _show(
    selections: Sequence[Selection],
    wanted: Options,
    rows: JsonRows | None,
    no_trunc: bool,
    problems: tuple[list[CheckFailed], list[NameUnmatched]],
) -> int:
    """Print the images, and return their number. JSON is printed in the order of the listing, a table sorted.

    Repositories that could not be checked, and names that match nothing, are added to `problems`.

    :raises SelectionEmpty: if no image exists, and that is not allowed.
    """
    images: list[PinnedImage] = []
    progress = RunProgress()
    count, empty = 0, SelectionEmpty(f"no repository matches {selections[0]}")
    try:
        async with _progress(rows, progress), aclosing(_found(selections, wanted, problems, progress)) as found:
            async for image in found:
                count += 1
                images.append(image) if rows is None else rows.add(_row(image))
    except SelectionEmpty as error:
        empty = error

    if rows is not None:
        rows.close()
    else:
        images.sort(key=lambda image: image.reference)
        is_cut = is_short(no_trunc=no_trunc)
        print_lines(fitting_table([_cells(image, is_cut=is_cut) for image in images], no_trunc=no_trunc))

    if not count and not problems[0] and not wanted.discovery.allow_empty:
        raise empty

    return count


def _progress(rows: JsonRows | None, progress: RunProgress) -> AbstractAsyncContextManager[None]:
    """Show the progress in a context, but not between rows that appear on the same terminal."""
    is_mixed = rows is not None and sys.stdout.isatty()
    return nullcontext() if is_mixed else progress_line(partial(_update, progress))


def _update(progress: RunProgress, counter: Counter) -> None:
    if progress.listed:
        images = counted(progress.tags_found, "image")
        counter.done, counter.total = progress.checked, progress.matched
        repositories = counted(progress.matched, "repository", "repositories")
        counter.text = f"{progress.checked:,} of {repositories} checked, {images}"


def _found(
    selections: Sequence[Selection],
    options: Options,
    problems: tuple[list[CheckFailed], list[NameUnmatched]],
    progress: RunProgress,
) -> AsyncGenerator[PinnedImage]:
    failed, unmatched = problems

    def observe(event: Event) -> None:
        progress.apply(event)
        show_notice_above(event)
        if isinstance(event, HostPaused | HostResumed):
            say(" ".join(describe(event)))  # it may take a while
        elif isinstance(event, CheckFailed):
            failed.append(event)
        elif isinstance(event, NameUnmatched):
            unmatched.append(event)

    return find_images(selections, options, observer=observe, strict=False)


def _report_failures(failed: list[CheckFailed], *, is_everything: bool) -> ExitCode:
    """Print the repositories that could not be checked, and return the exit code, which is that of a sync."""
    reasons: dict[str, list[str]] = {}
    for failure in map(FailedImage.of, failed):
        reasons.setdefault(str(failure), []).append(failure.name)

    for reason, names in reasons.items():
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        say(f"{reason}: {', '.join(names[:_SHOWN])}{more}")

    is_refused = is_everything and all(check.error.is_a(AccessDenied, CredentialsRefused) for check in failed)
    return ExitCode.CREDENTIALS if is_refused else ExitCode.PARTIAL


def _row(image: PinnedImage) -> ListedImageJson:
    reference = image.reference
    return {
        "repository": reference.repository.name,
        "tag": reference.tag,
        "digest": str(reference.digest),
        "updated": datetime.fromtimestamp(image.updated, UTC).isoformat() if image.updated is not None else None,
        "size": image.size,
    }


def _cells(image: PinnedImage, *, is_cut: bool) -> tuple[str, ...]:
    """Return the columns of an image. Quay does not know the size of an index, and most other catalogs know none."""
    row: Mapping[str, Any] = _row(image)
    unknown = "multi-arch" if image.is_index else "-"
    return (
        image.reference.name,
        short_digest(row["digest"], is_cut=is_cut),
        (row["updated"] or "-")[:19].replace("T", " "),
        human_bytes(row["size"]) if row["size"] is not None else unknown,
    )
