"""The files of snapshots, and of holds: what rebuilds a state that was lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from ..errors import InvalidName, MirrorDamaged, UnsupportedContent
from ..oci import Descriptor, Digest
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .reader import LayoutReader
from .records import Hold, ImageRecord, Snapshot
from .state import State
from .storage import BLOBS, INDEX, MARKER, Storage

SNAPSHOTS = ".quaymirror/snapshots"
# Links to the checkouts of these snapshots.
LINKS = ("latest", "previous")
_HOLDS = f"{SNAPSHOTS}/holds.json"
_VERSION = 1
# Every so many files one has the whole set: as many at most are needed to know a set.
_CHAIN = 32
_MOST = 2**52
# The year 9999, which dates can show.
_MOST_SECONDS = 253_000_000_000.0
_MAX_BYTES = 256 * 1024 * 1024
_FIELDS = {
    "id": str,
    "number": int,
    "created": float,
    "images": int,
    "cause": str,
    "run": str,
    "label": str,
    "protected": bool,
    "complete": bool,
}


def write_snapshot(storage: Storage, state: State, snapshot: Snapshot) -> None:
    """Write the file of `snapshot`. It blocks.

    Links to checkouts go with a new snapshot: `latest` would lead to an earlier one.

    :raises StoreError: if the disk fails.
    """
    is_whole = _is_whole(snapshot)
    before = {} if is_whole else {record.name: record for record in state.members(snapshot.number - 1)}
    now = {record.name: record for record in state.members(snapshot.number)}
    document = {
        "snapshot_version": _VERSION,
        **asdict(snapshot),
        "whole": is_whole,
        "set": {name: _entry(record) for name, record in now.items() if before.get(name) != record},
        "removed": sorted(before.keys() - now.keys()),
    }
    if storage.info(_key(snapshot)) is None:
        for name in LINKS:
            storage.delete(f"{SNAPSHOTS}/{name}")

    storage.replace(_key(snapshot), json.dumps(document, indent=1).encode() + b"\n")


def write_holds(storage: Storage, state: State) -> None:
    """Write the file of held names. It blocks.

    :raises StoreError: if the disk fails.
    """
    document = {"holds_version": _VERSION, "holds": [asdict(hold) for hold in state.holds()]}
    text = json.dumps(document, indent=1).encode() + b"\n"
    if storage.info(_HOLDS) is None or storage.read(_HOLDS, len(text) + 1) != text:
        storage.replace(_HOLDS, text)


def complete_files(storage: Storage, state: State) -> None:
    """Write the files of the latest snapshot and of holds if a crash kept them from being written. It blocks.

    :raises StoreError: if the disk fails.
    """
    latest = state.latest_snapshot()
    if latest is not None and storage.info(_key(latest)) is None:
        write_snapshot(storage, state, latest)

    if state.holds() or storage.info(_HOLDS) is not None:
        write_holds(storage, state)


def forget_checkout(storage: Storage, snapshot: Snapshot) -> None:
    """Remove the checkout of a dropped snapshot: without its content it is no layout. It blocks.

    :raises StoreError: if the disk fails.
    """
    for name in (INDEX, MARKER, BLOBS):
        storage.delete(f"{SNAPSHOTS}/{snapshot.id}/{name}")


def is_rebuilt(storage: Storage, state: State) -> bool:
    """Return True unless files know snapshots that the state has lost."""
    return state.latest_snapshot() is not None or next(_keys(storage), None) is None


def rebuild_snapshots(storage: Storage, state: State) -> int:
    """Record the snapshots that files know and the state has lost, and the holds; return their number. It blocks.

    A snapshot whose content is not complete any more stays as a record. Files that can't be read are left out, with
    those that continue them. The images of the latest one are recorded; a run verifies them before it calls them
    complete.

    :raises StoreError: if the disk fails.
    """
    contents: dict[Digest, tuple[Descriptor, ...]] = {}
    reader = LayoutReader(storage)
    images: dict[str, ImageRecord] | None = None
    last = count = 0
    for file in _read_all(storage):
        number = file.snapshot.number
        if not file.is_whole and (images is None or number != last + 1):
            images = None
            continue

        before = {} if file.is_whole or images is None else images
        images = {name: record for name, record in before.items() if name not in file.removed}
        images |= {record.name: _with_contents(record, reader, contents) for record in file.images}
        state.restore_snapshot(file.snapshot, images.values())
        last, count = number, count + 1

    state.restore_images()
    _rebuild_holds(storage, state)
    return count


@dataclass(frozen=True, slots=True)
class _File:
    """The parsed file of a snapshot: all of its images if `is_whole`, otherwise those that came or moved."""

    snapshot: Snapshot
    is_whole: bool
    images: tuple[ImageRecord, ...]
    removed: frozenset[str]


def _with_contents(
    entry: ImageRecord, reader: LayoutReader, known: dict[Digest, tuple[Descriptor, ...]]
) -> ImageRecord:
    """Return `entry` with its contents, without any if they are not complete."""
    root = entry.root
    if root.digest not in known:
        unreadable: list[Descriptor] = []
        nodes = {node.digest: node for node in reader.walk(root, lambda node, _: unreadable.append(node))}
        is_complete = not unreadable and all(reader.has(node) for node in nodes.values())
        known[root.digest] = tuple(nodes.values()) if is_complete else ()

    return replace(entry, contents=known[root.digest])


def _read_all(storage: Storage) -> list[_File]:
    """Return the files that can be read, the oldest first."""
    found = (_parsed(key, _content(storage, key)) for key in _keys(storage))
    files = {file.snapshot.number: file for file in found if file is not None}
    return [files[number] for number in sorted(files)]


def _content(storage: Storage, key: str) -> bytes | None:
    """Return the content of a file, None if something else is in its place, or if it is too large."""
    try:
        info = storage.info(key)
    except MirrorDamaged:
        return None

    return storage.read(key, _MAX_BYTES) if info is not None and info.size <= _MAX_BYTES else None


def _parsed(key: str, text: bytes | None) -> _File | None:
    """Return the parsed file of a snapshot, None if it is none, or another one's copy."""
    try:
        document = parse_object(text or b"", limit=_MAX_BYTES)
        if document.get("snapshot_version") != _VERSION:
            return None

        values = {name: kind(document[name]) for name, kind in _FIELDS.items()}
        dropped = document["dropped"]
        snapshot = Snapshot(**values, dropped=None if dropped is None else float(dropped))
        images = tuple(_record(name, entry) for name, entry in document["set"].items())
        file = _File(snapshot, bool(document["whole"]), images, frozenset(map(str, document["removed"])))
    except (InvalidDocument, InvalidName, UnsupportedContent, LookupError, TypeError, ValueError, AttributeError):
        return None

    is_sound = 0 < snapshot.number <= _MOST and 0 <= snapshot.created < _MOST_SECONDS
    return file if is_sound and _key(snapshot) == key and file.is_whole is _is_whole(snapshot) else None


def _is_whole(snapshot: Snapshot) -> bool:
    return snapshot.number % _CHAIN == 1


def _entry(record: ImageRecord) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "registry": record.registry,
        "digest": str(record.root.digest),
        "mediaType": record.root.media_type,
        "size": record.root.size,
    }
    source = {"source": str(record.source)} if record.source != record.root.digest else {}
    return entry | source | ({"platforms": record.platforms} if record.platforms else {})


def _record(name: str, entry: Any) -> ImageRecord:
    root = Descriptor.parse({key: entry[key] for key in ("mediaType", "digest", "size")}, where="a snapshot")
    source = Digest.parse(entry.get("source", entry["digest"]))
    return ImageRecord(name, str(entry["registry"]), source, root, (), str(entry.get("platforms", "")))


def _rebuild_holds(storage: Storage, state: State) -> None:
    try:
        document = parse_object(_content(storage, _HOLDS) or b"", limit=_MAX_BYTES)
        holds = [Hold(str(each["name"]), str(each["reason"]), float(each["since"])) for each in document["holds"]]
    except (InvalidDocument, LookupError, TypeError, ValueError):
        return

    for hold in holds:
        state.hold([hold.name], hold.reason, hold.since)


def _keys(storage: Storage) -> Iterator[str]:
    for info in storage.list_objects(SNAPSHOTS.rpartition("/")[0]):
        if info.key.startswith(f"{SNAPSHOTS}/") and info.key.endswith(".json") and info.key != _HOLDS:
            yield info.key


def _key(snapshot: Snapshot) -> str:
    return f"{SNAPSHOTS}/{snapshot.id}.json"
