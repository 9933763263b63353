"""Inventories of a mirror: everything that it has, or everything that its imports lack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anyio.to_thread

from ..errors import ConfigError, StoreError
from ..events import Notice, Observer, ignore
from ..oci import Digest
from ..store.places import open_storage
from ..store.promises import promise
from ..store.reader import LayoutReader
from .inventory import Inventory, make_inventory
from .progress import CarryProgress
from .records import CarryRecords


async def take_inventory(
    mirror: Path, *, names: bool = False, observer: Observer = ignore, progress: CarryProgress | None = None
) -> Inventory:
    """Return the digests that `mirror` has, and protect their blobs from being pruned until an import answers.

    With `names`, the remarks name its images. They also say which imports wait, and for how many blobs.

    :raises TargetRefused: if something else is at `mirror`.
    :raises LockHeld: if blobs are being deleted.
    :raises StoreError: if the mirror can't be read.
    """
    return await _in_thread(_take, mirror, names, observer, progress or CarryProgress())


async def request_missing(mirror: Path, export: str = "") -> Inventory:
    """Return the request for everything that the imports of `mirror`, or only `export`, wait for.

    :raises ConfigError: if no import waits, or `export` is none of them.
    """
    return await _in_thread(_request, mirror, export)


async def _in_thread(function: Callable[..., Inventory], *arguments: object) -> Inventory:
    return await anyio.to_thread.run_sync(function, *arguments)


def _take(mirror: Path, names: bool, observer: Observer, progress: CarryProgress) -> Inventory:
    storage = open_storage(mirror)
    if not storage.exists():
        raise ConfigError(f"no OCI image layout at {mirror}")

    reader, records = LayoutReader(storage), CarryRecords(mirror)
    with storage.reading():
        digests = set(_counted(reader, progress))
        images = reader.index_entries()
        remarks = [f"image {name} {root.digest}" for name, root in sorted(images, key=str)] if names else []
        for manifest in records.imports():
            missing = [blob for blob in manifest.blobs if blob.node.digest not in digests]
            remarks.append(f"import {manifest.id} waits for {len(missing)} blobs")

        inventory = make_inventory(digests, remarks=remarks)
        try:
            promise(storage, inventory.id, digests)
        except StoreError as error:
            observer(Notice(f"{error.message}: its blobs are not protected from prune"))

    return inventory


def _counted(reader: LayoutReader, progress: CarryProgress) -> Iterator[Digest]:
    for _, digest in reader.list_blobs():
        if digest is not None:
            progress.blobs += 1
            yield digest


def _request(mirror: Path, export: str) -> Inventory:
    reader, records = LayoutReader(open_storage(mirror)), CarryRecords(mirror)
    waiting = [manifest for manifest in records.imports() if manifest.id.startswith(export)]
    if not waiting:
        raise ConfigError(f"no import of {mirror} waits for anything" + (f" from {export!r}" if export else ""))

    missing: set[Digest] = set()
    remarks = []
    for manifest in waiting:
        missing.update(blob.node.digest for blob in manifest.blobs if not reader.has(blob.node))
        remarks.append(f"for import {manifest.id}")

    return make_inventory(missing, is_request=True, remarks=remarks)
