"""`quaymirror list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import click

from ..catalog.base import PinnedImage
from ..documents import ListedImageJson
from ..errors import AccessDenied, CredentialsRefused, ExitCode, SelectionEmpty
from ..events import CheckFailed, Event, HostPaused, HostResumed, NameUnmatched
from ..progress.failed import FailedImage
from ..run.info import find_images
from ..selection.selection import Selection
from ..settings import Options
from ..text import human_bytes, table
from ..ui.descriptions import describe
from .help import GroupedCommand, options
from .messages import say, show_notice
from .options import json_option, make_options, make_selections, selection_arguments

# Repositories that one line names.
_SHOWN = 10


@click.command("list", cls=GroupedCommand)
@selection_arguments
@options("list")
@json_option("Print an array of repository, tag, digest, size and date.")
def list_images(as_json: bool, **given: Any) -> int:
    """Show what sync would mirror, without pulling anything."""
    selections, wanted = make_selections(given, make_options(given))
    failed: list[CheckFailed] = []
    images, unmatched, empty = anyio.run(_find, selections, wanted, failed)
    images.sort(key=lambda image: image.reference)
    if as_json:
        click.echo(json.dumps([_row(image) for image in images], indent=2))
    else:
        for line in table([_cells(image) for image in images]):
            click.echo(line)

    if failed:
        return _report_failures(failed, is_everything=not images)

    if not images and not wanted.discovery.allow_empty:
        raise empty or SelectionEmpty(f"no repository matches {selections[0]}")

    is_partial = images and unmatched and not wanted.discovery.allow_unmatched
    return int(ExitCode.PARTIAL if is_partial else ExitCode.OK)


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


async def _find(
    selections: Sequence[Selection], options: Options, failed: list[CheckFailed]
) -> tuple[list[PinnedImage], list[NameUnmatched], SelectionEmpty | None]:
    """Return the images, the names that match nothing, and the reason if no image exists.

    Repositories that could not be checked are added to `failed`.
    """
    unmatched: list[NameUnmatched] = []

    def observe(event: Event) -> None:
        show_notice(event)
        if isinstance(event, HostPaused | HostResumed):
            say(" ".join(describe(event)))  # it may take a while
        elif isinstance(event, CheckFailed):
            failed.append(event)
        elif isinstance(event, NameUnmatched):
            unmatched.append(event)

    try:
        found = find_images(selections, options, observer=observe, strict=False)
        return [image async for image in found], unmatched, None
    except SelectionEmpty as error:
        return [], unmatched, error


def _row(image: PinnedImage) -> ListedImageJson:
    reference = image.reference
    return {
        "repository": reference.repository.name,
        "tag": reference.tag,
        "digest": str(reference.digest),
        "updated": datetime.fromtimestamp(image.updated, UTC).isoformat() if image.updated is not None else None,
        "size": image.size,
    }


def _cells(image: PinnedImage) -> tuple[str, ...]:
    """Return the columns of an image. Quay does not know the size of an index, and most other catalogs know none."""
    row, unknown = _row(image), "multi-arch" if image.is_index else "-"
    return (
        image.reference.name,
        row["digest"],
        (row["updated"] or "-")[:19].replace("T", " "),
        human_bytes(row["size"]) if row["size"] is not None else unknown,
    )
