"""Checkout of a snapshot: a directory that other tools read as a layout, and that shares the blobs of the mirror."""

from __future__ import annotations

import os
from pathlib import Path

import anyio.to_thread

from ..errors import ConfigError, MirrorDamaged, TargetRefused
from ..store import documents, fsops
from ..store.places import bucket_of
from ..store.snapshot_files import LINKS, SNAPSHOTS
from ..store.snapshots import find_snapshot, open_at, snapshot_images
from ..store.state import State
from ..store.storage import BLOBS, INDEX, MARKER
from ..store.verify import verify_storage

_STATE = Path(".quaymirror", "state.db")


async def check_out(path: Path, at: str, directory: Path | None = None) -> Path:
    """Make `directory` a layout with the images of the snapshot that `at` means, and return it.

    Its blobs are a link to those of the mirror at `path`. Without a directory it is `.quaymirror/snapshots/ID` in the
    mirror, where the links `latest` and `previous` lead to the checkouts of these snapshots, until there is a new one.

    :raises ConfigError: if `at` means no snapshot, or one whose content was removed.
    :raises MirrorDamaged: if a manifest of the snapshot is damaged, or a blob is missing or has another size.
    :raises TargetRefused: if `directory` has other files.
    :raises StoreError: if the disk fails.
    """
    if bucket_of(path) is not None:
        raise ConfigError("checkout needs a mirror in a directory: its blobs are linked; push and export take --at")

    storage = open_at(path, at)
    result = await verify_storage(storage, fast=True)
    if result.damages:
        first = result.damages[0]
        raise MirrorDamaged(f"snapshot {at}: {first.kind} {first.digest}, needed by {', '.join(first.images)}")

    snapshot, _ = snapshot_images(path, at)
    place = directory or path / SNAPSHOTS / snapshot.id
    await anyio.to_thread.run_sync(_write, path, place, storage.read(INDEX) or b"")
    if directory is None:
        await anyio.to_thread.run_sync(_update_links, path)

    return place


def _write(path: Path, place: Path, index: bytes) -> None:
    _check(place)
    fsops.make_directory(place)
    _link(place / BLOBS, os.path.relpath((path / BLOBS).resolve(), place.resolve()))
    fsops.replace_file(place / MARKER, documents.OCI_LAYOUT)
    fsops.replace_file(place / INDEX, index)


def _check(place: Path) -> None:
    """Refuse a directory with other files than those of a checkout."""
    with fsops.local_errors("read", place):
        if not place.exists():
            return

        names = {entry.name for entry in place.iterdir()} if place.is_dir() else {place.name}
        blobs = place / BLOBS
        if names - {MARKER, INDEX, BLOBS} or (BLOBS in names and not blobs.is_symlink()):
            raise TargetRefused(f"{place} contains other files: name a directory that is empty, missing or a checkout")


def _update_links(path: Path) -> None:
    """Let `latest` and `previous` lead to the checkouts of these snapshots, if they exist."""
    state, _ = State.open(path / _STATE, read_only=True)
    try:
        snapshots = state.snapshots()
    finally:
        state.close()

    for place, name in enumerate(LINKS):
        link = path / SNAPSHOTS / name
        snapshot = find_snapshot(snapshots, name) if len(snapshots) > place else None
        if snapshot is not None and (path / SNAPSHOTS / snapshot.id / INDEX).is_file():
            _link(link, snapshot.id)
        else:
            fsops.remove(link)


def _link(link: Path, target: str) -> None:
    """Create or replace a symbolic link atomically."""
    temporary = link.with_name(f".{link.name}.new")
    fsops.remove(temporary)
    with fsops.local_errors("link", link), fsops.step("link", link):
        temporary.symlink_to(target)
        temporary.replace(link)

    fsops.sync_directory(link.parent)
