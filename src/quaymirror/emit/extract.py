"""Unpacking without leaving the directory: what occystrap's outputs write is checked, since they don't do it.

Python's own filter "data" is for archives of data: it refuses absolute links, which every image has, and drops owners.
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


@contextmanager
def confined() -> Iterator[None]:
    """Let nothing be extracted in this context that would be written, or link, outside of the directory it goes to.

    :raises EmitFailed: if this Python can't check it.
    """
    if not hasattr(tarfile, "data_filter"):
        raise EmitFailed("unpacking images safely needs Python 3.11.4 or later")

    before = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(_inside)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _inside(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo:
    """Return what to extract in place of `member`: the same, with relative names.

    :raises EmitFailed: if it would leave `directory`, by its name or through links that were extracted before.
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
    # A symbolic link is made in place of another one: only the way to it counts.
    is_whole = follow or last in ("", ".", "..")
    place = os.path.realpath(os.path.join(root, name if is_whole else parent))  # noqa: PTH118 - links are followed
    if not Path(place).is_relative_to(root):
        raise _leaves(member)


def check_whiteouts(archive: Path) -> None:
    """Make sure that what marks deleted files in `archive` is inside of it: occystrap makes these files by name.

    :raises EmitFailed: if it is not, or behind a link of the same archive.
    """
    with tarfile.open(archive) as layer:
        members = layer.getmembers()

    links = {posixpath.normpath(member.name.lstrip("/")) for member in members if member.issym()}
    for member in members:
        directory, last = posixpath.split(member.name)
        # A bug of occystrap's: it cuts `.wh.` off the start of the whole path, not of the file's name.
        places = (directory, posixpath.dirname(member.name[4:])) if last.startswith(".wh.") else ()
        for place in map(posixpath.normpath, filter(None, places)):
            way = {place, *map(str, Path(place).parents)}
            if place.startswith(("/", "..")) or way & links:
                raise _leaves(member)


def _leaves(member: tarfile.TarInfo) -> EmitFailed:
    return EmitFailed(f"a layer holds {member.name[:100]!a}, which would be written outside of the image: refused")


@asynccontextmanager
async def mounting(image: Path) -> AsyncIterator[None]:
    """Unpack and mount at `image` in this context; if that fails, nothing stays there.

    Mounts can't be moved, so they are made in place, and occystrap would take half an extraction for a whole one.

    :raises EmitFailed: if something is there already.
    """
    if await anyio.to_thread.run_sync(_is_used, image):
        raise EmitFailed(f"{image} is there already: unmount what is in it and remove it")

    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_discard, image)

        raise


def _is_used(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


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
