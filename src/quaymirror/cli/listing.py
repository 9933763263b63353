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
from ..errors import ExitCode, SelectionEmpty
from ..events import Event, NameUnmatched
from ..run.info import find_images
from ..selection.selection import Selection
from ..settings import Options
from ..text import human_bytes, table
from .help import GroupedCommand, options
from .messages import show_notice
from .options import json_option, make_options, make_selections, selection_arguments


@click.command("list", cls=GroupedCommand)
@selection_arguments
@options("list")
@json_option("Print an array of repository, tag, digest, size and date.")
def list_images(as_json: bool, **given: Any) -> int:
    """Show what sync would mirror, without pulling anything."""
    selections, wanted = make_selections(given, make_options(given))
    images, unmatched, empty = anyio.run(_find, selections, wanted)
    images.sort(key=lambda image: image.reference)
    if as_json:
        click.echo(json.dumps([_row(image) for image in images], indent=2))
    else:
        for line in table([_cells(image) for image in images]):
            click.echo(line)

    if not images and not wanted.discovery.allow_empty:
        raise empty or SelectionEmpty(f"no repository matches {selections[0]}")

    is_partial = images and unmatched and not wanted.discovery.allow_unmatched
    return int(ExitCode.PARTIAL if is_partial else ExitCode.OK)


async def _find(
    selections: Sequence[Selection], options: Options
) -> tuple[list[PinnedImage], list[NameUnmatched], SelectionEmpty | None]:
    """Return the images, the names that match nothing, and the reason if no image exists."""
    unmatched: list[NameUnmatched] = []

    def observe(event: Event) -> None:
        show_notice(event)
        if isinstance(event, NameUnmatched):
            unmatched.append(event)

    try:
        return [image async for image in find_images(selections, options, observer=observe)], unmatched, None
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
    row, unknown = _row(image), "multi-arch" if image.source is None else "-"
    return (
        f"{row['repository']}:{row['tag']}",
        row["digest"],
        (row["updated"] or "-")[:19].replace("T", " "),
        human_bytes(row["size"]) if row["size"] is not None else unknown,
    )
