"""Checks that unpacked layers stay within their directory, since occystrap's outputs have none.

Python's own filter "data" does not fit: it refuses absolute links, which every image has, and drops owners.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from ..errors import EmitFailed
from .job import Destination


@contextmanager
def confined(destination: Destination) -> Iterator[None]:
    """Refuse to extract archive members, in this context, that would leave their directory, or link out of it.

    :raises EmitFailed: if `destination` unpacks images, and this Python has no such check.
    """
    if destination.unpacks and not hasattr(tarfile, "data_filter"):
        raise EmitFailed("unpacking images safely needs Python 3.11.4 or later")

    before = getattr(tarfile.TarFile, "extraction_filter", None)  # Python 3.11.3 has none, and ignores ours
    tarfile.TarFile.extraction_filter = staticmethod(_inside)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _inside(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo:
    """Return `member` with relative names.

    It is refused if it would leave `directory`, by its name or through links that were extracted before.
    """
    name, link = member.name.lstrip("/"), member.linkname
    _check(member, directory, name, follow=not member.issym())
    if member.islnk():
        link = link.lstrip("/")
        _check(member, directory, link, follow=True)

    return member.replace(name=name, linkname=link, deep=False)


def _check(member: tarfile.TarInfo, directory: str, name: str, *, follow: bool) -> None:
    root = os.path.realpath(directory)
    parent, last = posixpath.split(name)
    # A symbolic link replaces another one of its name: only its parent directory matters.
    is_whole = follow or last in ("", ".", "..")
    place = os.path.realpath(os.path.join(root, name if is_whole else parent))  # noqa: PTH118 - links are followed
    if not Path(place).is_relative_to(root):
        raise _leaves(member)


def check_whiteouts(archive: Path) -> None:
    """Check the members of `archive` that mark deleted files, which occystrap creates by name.

    :raises EmitFailed: if one is outside of the archive, or behind a link in it.
    """
    with tarfile.open(archive) as layer:
        members = layer.getmembers()

    links = {posixpath.normpath(member.name.lstrip("/")) for member in members if member.issym()}
    for member in members:
        directory, last = posixpath.split(member.name)
        # A bug of occystrap: it removes `.wh.` from the start of the path, not of the file's name.
        places = (directory, posixpath.dirname(member.name[4:])) if last.startswith(".wh.") else ()
        for place in map(posixpath.normpath, filter(None, places)):
            way = {place, *map(str, Path(place).parents)}
            if place.startswith(("/", "..")) or way & links:
                raise _leaves(member)


def _leaves(member: tarfile.TarInfo) -> EmitFailed:
    return EmitFailed(f"a layer holds {member.name[:100]!a}, which would be written outside of the image: refused")


@asynccontextmanager
async def mounting(image: Path) -> AsyncIterator[None]:
    """Unpack and mount at `image` in this context; after a failure nothing stays there.

    Mounts can't be moved, so they are made in place, and occystrap would take an incomplete extraction for complete.

    :raises EmitFailed: if `image` is not empty.
    """
    if await anyio.to_thread.run_sync(lambda: image.is_dir() and any(image.iterdir())):
        raise EmitFailed(f"{image} is there already: unmount what is in it and remove it")

    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_discard, image)

        raise


def _discard(image: Path) -> None:
    """Remove `image` after unmounting everything below it, unless that fails."""
    for place in sorted(_mounted_below(image), reverse=True):
        done = subprocess.run(["umount", place], check=False, capture_output=True)  # noqa: S603, S607 - as occystrap mounts
        if done.returncode != 0:
            raise EmitFailed(f"can't unmount {place}")

    shutil.rmtree(image, ignore_errors=True)


def _mounted_below(directory: Path) -> Iterator[str]:
    root = directory.resolve()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        if Path(place).is_relative_to(root):
            yield place
