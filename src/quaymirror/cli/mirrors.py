"""`quaymirror list` and `info` of a mirror, or any layout, and what both need."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import click

from ..documents.common import iso
from ..documents.images import ListedImageJson
from ..errors import ConfigError, ExitCode, SelectionEmpty
from ..run.info import find_images
from ..run.mirror_list import MirrorList, list_mirror, mirror_infos, parts_of, unmatched
from ..selection.references import is_path
from ..selection.selection import Selection
from ..selection.source import is_layout
from ..settings import DiscoveryOptions, Options
from ..store.records import MirroredImage
from ..text import counted, escape_controls, human_bytes
from .messages import say, show_notice
from .options import make_options, make_selections
from .tables import JsonRows, fitting_table, is_short, print_lines, short_digest

_LAYOUT = "ocidir://"
# Options that only a catalog of a layout understands.
_NARROWING = ("exclude", "exclude_tags", "labels", "newest", "since")


def is_mirror(given: Mapping[str, Any]) -> bool:
    """Return True if the first word, or the source, is a layout."""
    word = given.get("organization") or given.get("source") or ""
    return is_path(word) or is_layout(word)


def mirror_path(given: Mapping[str, Any]) -> str:
    """Return the path of the layout."""
    word: str = given.get("organization") or given["source"]
    return word.removeprefix(_LAYOUT)


def mirror_names(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the patterns of names: GLOB:TAG behind the path, and those of --select.

    :raises ConfigError: if more follows the path.
    """
    if given.get("tag") or given.get("globs") or given.get("tags"):
        raise ConfigError("of a mirror, images are selected by their whole names: GLOB:TAG, or --select GLOB:TAG")

    glob = given.get("glob")
    return (*(given.get("select") or ()), *([glob] if glob is not None else []))


def show_mirror(given: Mapping[str, Any], at: str | None, rows: JsonRows | None, *, no_trunc: bool) -> int:
    """Print the images of a mirror, and return the exit code."""
    wanted, names = make_options(given), mirror_names(given)
    found = list_mirror(mirror_path(given), names, at=at, options=wanted)
    images = _narrowed(given, found, at)
    if rows is not None:
        for image in images:
            rows.add(row_of(image))

        rows.close()
    else:
        is_cut, has_referrers = is_short(no_trunc=no_trunc), any(image.referrers for image in images)
        cells = [_cells(image, is_cut=is_cut, has_referrers=has_referrers) for image in images]
        print_lines(fitting_table(cells, no_trunc=no_trunc))

        if len(images) == len(found.images) and found.blobs:
            total = f"{human_bytes(found.bytes)} in {counted(found.blobs, 'blob')}"
            click.echo(f"{counted(len(images), 'image')}, {total}", err=True)

    return _verdict(found, images, names, wanted.discovery)


def mirror_info(given: Mapping[str, Any], at: str | None) -> tuple[list[dict[str, Any]], int]:
    """Return the metadata of the images of a mirror, and the exit code."""
    wanted, names = make_options(given), mirror_names(given)
    if any(given.get(name) for name in _NARROWING):
        raise ConfigError("info of a mirror takes GLOB:TAG and --select only")

    platforms = wanted.discovery.platforms
    read = partial(mirror_infos, mirror_path(given), names, at=at, platforms=platforms, options=wanted)
    found = anyio.run(read)
    infos = [
        {**info, "mirrored": row_of(image)} if "error" not in info else info for image, few in found for info in few
    ]
    images = tuple(image for image, _ in found)
    return infos, _verdict(MirrorList(images, 0, 0), images, names, wanted.discovery)


def _narrowed(given: Mapping[str, Any], found: MirrorList, at: str | None) -> tuple[MirroredImage, ...]:
    """Return the images that the other options leave."""
    if not any(given.get(name) for name in _NARROWING):
        return found.images

    if at is not None:
        raise ConfigError("--at goes with GLOB:TAG and --select only")

    plain = {**given, "glob": None, "select": mirror_names(given)}
    left = anyio.run(_names_of, *make_selections(plain, make_options(plain)))
    return tuple(image for image in found.images if image.name in left)


async def _names_of(selections: Sequence[Selection], wanted: Options) -> set[str]:
    found = find_images(selections, wanted, observer=show_notice, strict=False)
    async with aclosing(found):
        try:
            return {image.reference.name async for image in found}
        except SelectionEmpty:
            return set()


def _verdict(
    found: MirrorList, images: tuple[MirroredImage, ...], names: tuple[str, ...], discovery: DiscoveryOptions
) -> int:
    for text in found.rejected:
        say(f"not listed: {escape_controls(text)}")

    damaged = [image for image in images if image.problem]
    for image in damaged:
        say(f"{image.name}: {image.problem}")

    if not images and not discovery.allow_empty:
        raise SelectionEmpty(f"no image matches {', '.join(names)}" if names else "there are no images")

    missed = [] if discovery.allow_unmatched else list(unmatched(names, images))
    for name in missed:
        say(f"no image is called {name}")

    return int(ExitCode.PARTIAL if damaged or missed or found.rejected else ExitCode.OK)


def row_of(image: MirroredImage) -> ListedImageJson:
    """Return an image as JSON values."""
    repository, tag = parts_of(image)
    row: ListedImageJson = {
        "repository": repository,
        "tag": tag,
        "digest": image.digest,
        "updated": iso(image.mirrored) if image.mirrored else None,
        "size": image.size,
        "own_size": image.own_size,
        "platforms": list(image.platforms),
        "created": image.created or None,
        "registry": image.registry or None,
        "media_type": image.media_type,
        "referrers": [{**each._asdict(), "tag": each.tag or None} for each in image.referrers],  # type: ignore[typeddict-item]
    }
    if image.verdicts:
        row["verdicts"] = [
            {
                "policy": each.policy,
                "accepted_by": each.reason,
                "judged": iso(each.judged),
                "origin": each.origin or None,
            }
            for each in image.verdicts
        ]

    return {**row, "problem": image.problem} if image.problem else row


def _cells(image: MirroredImage, *, is_cut: bool, has_referrers: bool) -> tuple[str, ...]:
    several = f"{len(image.platforms)} platforms" if is_cut and len(image.platforms) > 1 else ""
    unknown = "damaged" if image.problem else "-"
    size = human_bytes(image.size) if image.size is not None else unknown
    own = () if is_cut else (human_bytes(image.own_size) if image.own_size is not None else "-",)
    return (
        image.name,
        short_digest(image.digest, is_cut=is_cut),
        size,
        *own,
        *([counted(len(image.referrers), "referrer")] if has_referrers else []),
        several or ",".join(image.platforms) or "-",
        _date(image),
    )


def _date(image: MirroredImage) -> str:
    if image.mirrored:
        return time.strftime("%Y-%m-%d", time.localtime(image.mirrored))

    return image.created[:10] or "-"
