"""Snapshots of a mirror as functions: they are listed, protected, compared, and gone back to; names are held."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import ConfigError, MirrorDamaged
from ..events import Observer, ignore
from ..selection.names import match_names
from ..selection.source import SourceAddress, is_layout, parse_layout
from ..settings import Options
from ..store import documents
from ..store.index import update_index
from ..store.layout import OCILayout
from ..store.places import open_storage
from ..store.records import Hold, Snapshot
from ..store.retention import Usage, usage
from ..store.snapshot_files import write_holds, write_snapshot
from ..store.snapshots import (
    SnapshotNote,
    change,
    find_snapshot,
    shown,
    snapshot_images,
    take_snapshot,
    visible_versions,
    with_index,
)
from ..store.state import State
from ..store.storage import Storage
from ..store.verify import verify_storage
from ..text import counted
from ..values import dataclass
from .changes import Difference, difference
from .paths import layout_path

T = TypeVar("T")

_NOTE = SnapshotNote("rollback")


@dataclass(frozen=True, slots=True)
class ListedSnapshot:
    """A snapshot with the space that it takes; a dropped one takes none."""

    snapshot: Snapshot
    usage: Usage


@dataclass(frozen=True, slots=True)
class Rollback:
    """The result of a rollback: the snapshot `of` that the names come from, the `new` one, and the `held` names.

    `moved` are those that had another image before; `new` is None if none had.
    """

    of: Snapshot
    new: Snapshot | None
    held: tuple[str, ...]
    moved: tuple[str, ...]


async def list_snapshots(path: Path) -> list[ListedSnapshot]:
    """Return the snapshots of the mirror at `path`, the oldest first.

    :raises TargetRefused: if something else is at `path`.
    :raises StoreError: if the disk fails.
    """
    async with OCILayout.inspect(path) as layout:
        return await layout.use(_listed)


async def protect_snapshot(path: Path, at: str, *, protected: bool, observer: Observer = ignore) -> Snapshot:
    """Keep the snapshot that `at` means from retention, or no longer; return it.

    :raises ConfigError: if `at` means none, or one whose content was removed.
    :raises LockHeld: if a run writes to the mirror.
    :raises StoreError: if the disk fails.
    """

    def protect(storage: Storage, state: State) -> Snapshot:
        snapshot = find_snapshot(state.snapshots(), at)
        if protected:
            _check_kept(snapshot)

        changed = replace(snapshot, protected=protected)
        change(storage, state, changed)
        return changed

    return await _write(path, protect, observer)


def diff_snapshots(path: Path, a: str = "previous", b: str = "latest") -> tuple[Snapshot, Snapshot, Difference]:
    """Return the snapshots that `a` and `b` mean, and the difference from the first to the second. It blocks.

    :raises ConfigError: if one of them means none.
    :raises StoreError: if the disk fails.
    """
    (first, then), (second, now) = snapshot_images(path, a), snapshot_images(path, b)
    digests = [{record.name: str(record.root.digest) for record in records} for records in (then, now)]
    return first, second, difference(*digests)


def snapshot_source(mirror: str, at: str, options: Options) -> SourceAddress:
    """Return `mirror`, a path or an address, as the source of the images of the snapshot that `at` means. It blocks.

    :raises ConfigError: if no mirror is there, or `at` means no snapshot of it, or one whose content was removed.
    :raises StoreError: if the disk or the object store fails.
    """
    address = parse_layout(mirror if is_layout(mirror) else f"ocidir://{mirror}")
    if Path(address.path).is_file():
        raise ConfigError(f"{address.path} is a file: only mirrors have snapshots")

    snapshot, _ = snapshot_images(layout_path(address.path, options), at)
    _check_kept(snapshot)
    return replace(address, at=snapshot.id)


async def roll_back(
    path: Path, to: str, select: Sequence[str] = (), *, reason: str = "", observer: Observer = ignore
) -> Rollback:
    """Return the images of the mirror at `path` to those of the snapshot that `to` means, and hold their names.

    With patterns in `select`, only names that match. Images that the snapshot does not have are removed. A new snapshot
    has the result. Content that changes is verified before.

    :raises ConfigError: if `to` means no snapshot, or one whose content was removed, or if no name matches.
    :raises MirrorDamaged: if content of the snapshot is missing or damaged: then nothing changes.
    :raises LockHeld: if a run writes to the mirror.
    :raises StoreError: if the disk fails.
    """
    async with OCILayout.open(path, observer=observer) as layout:
        plan = await layout.use(partial(_planned, to=to, select=select))
        await _verify(path, layout, plan)
        why = reason or f"rollback to {plan.of.id}"
        return await layout.use(partial(_carry_out, plan=plan, reason=why))


async def hold_names(
    path: Path, patterns: Sequence[str], *, reason: str = "", observer: Observer = ignore
) -> list[str]:
    """Hold the images of the mirror whose names match, and return the names.

    :raises ConfigError: if none matches.
    :raises LockHeld: if a run writes to the mirror.
    :raises StoreError: if the disk fails.
    """

    def hold(storage: Storage, state: State) -> list[str]:
        visible = visible_versions(state, _NOTE)
        names = _matching(patterns, visible, "image")
        _hold(state, {name: visible[name] for name in names}, reason)
        write_holds(storage, state)
        return names

    return await _write(path, hold, observer)


async def unhold_names(path: Path, patterns: Sequence[str], *, observer: Observer = ignore) -> list[str]:
    """Hold the names that match no longer, and return them.

    :raises ConfigError: if no held name matches.
    :raises LockHeld: if a run writes to the mirror.
    :raises StoreError: if the disk fails.
    """

    def unhold(storage: Storage, state: State) -> list[str]:
        names = _matching(patterns, [hold.name for hold in state.holds()], "held name")
        state.unhold(names)
        write_holds(storage, state)
        return names

    return await _write(path, unhold, observer)


async def held_names(path: Path) -> list[Hold]:
    """Return the held names of the mirror at `path`.

    :raises StoreError: if the disk fails.
    """
    async with OCILayout.inspect(path) as layout:
        return await layout.use(lambda _, state: state.holds())


@dataclass(frozen=True, slots=True)
class _Plan:
    """The versions that names shall have, None to remove them, by name; `moved` have another one now."""

    of: Snapshot
    versions: Mapping[str, int | None]
    moved: tuple[str, ...]


async def _write(path: Path, function: Callable[[Storage, State], T], observer: Observer) -> T:
    async with OCILayout.open(path, observer=observer) as layout:
        return await layout.use(function)


def _listed(_storage: Storage, state: State) -> list[ListedSnapshot]:
    snapshots, spans = state.snapshots(), state.spans()
    kept = [each.number for each in snapshots if each.dropped is None]
    latest = state.member_versions(snapshots[-1].number) if snapshots else {}
    is_ahead = bool(snapshots) and state.image_versions() != latest
    numbers = [*kept, snapshots[-1].number + 1] if is_ahead else kept
    sizes = usage(spans, numbers)
    return [ListedSnapshot(each, sizes.get(each.number, Usage())) for each in snapshots]


def _planned(_storage: Storage, state: State, *, to: str, select: Sequence[str]) -> _Plan:
    snapshot = find_snapshot(state.snapshots(), to)
    _check_kept(snapshot)
    wanted, present = state.member_versions(snapshot.number), visible_versions(state, _NOTE)
    names: Collection[str] = wanted.keys() | present.keys()
    if select:
        names = _matching(select, names, "image")

    versions = {name: wanted.get(name) for name in sorted(names)}
    moved = tuple(name for name, version in versions.items() if present.get(name) != version)
    return _Plan(snapshot, versions, moved)


async def _verify(path: Path, layout: OCILayout, plan: _Plan) -> None:
    """Read all content of the images that move."""
    members = await layout.use(lambda _, state: state.members(plan.of.number))
    moving = [record for record in members if record.name in plan.moved]
    result = await verify_storage(with_index(open_storage(path), documents.project(None, moving)))
    if result.damages:
        first = result.damages[0]
        what = f"{first.kind} {first.digest}, needed by {', '.join(first.images)}"
        more = f", and {len(result.damages) - 1:,} more" if len(result.damages) > 1 else ""
        raise MirrorDamaged(f"snapshot {shown(plan.of)} has damaged content: {what}{more}; nothing was changed")


def _carry_out(storage: Storage, state: State, *, plan: _Plan, reason: str) -> Rollback:
    changed = visible_versions(state, _NOTE) | {name: v for name, v in plan.versions.items() if v is not None}
    remaining = {name: version for name, version in changed.items() if plan.versions.get(name, 0) is not None}
    with state.transaction():
        _hold(state, plan.versions, reason)
        new = take_snapshot(storage, state, _NOTE, versions=remaining, writes_file=False)

    if new is not None:
        write_snapshot(storage, state, new)

    write_holds(storage, state)
    update_index(storage, state)
    return Rollback(plan.of, new, tuple(plan.versions), plan.moved)


def _hold(state: State, versions: Mapping[str, int | None], reason: str) -> None:
    """Hold names at these versions, also if a run that published nothing has recorded others."""
    with state.transaction():
        state.hold(versions, reason, time.time())
        recorded = state.image_versions()
        state.replace_images({name: version for name, version in versions.items() if recorded.get(name) != version})


def _check_kept(snapshot: Snapshot) -> None:
    if snapshot.dropped is not None:
        raise ConfigError(f"the content of snapshot {shown(snapshot)} was removed by retention")


def _matching(patterns: Sequence[str], names: Iterable[str], noun: str) -> list[str]:
    known = list(names)
    found = match_names(patterns, known)
    if not found:
        from difflib import get_close_matches

        close = get_close_matches(patterns[0], known, n=1) if patterns else []
        hint = f"; did you mean {close[0]}?" if close else f": the mirror has {counted(len(known), noun)}"
        raise ConfigError(f"no {noun} matches {', '.join(patterns)}{hint}")

    return found
