"""Snapshots of a mirror: they are taken, found by id or date, and written to one small file each.

The state has them as intervals. The files, of which every 32nd has the whole set and the others the changes since the
one before, are the copy that rebuilds a state that was lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError
from ..events import Notice, Observer, ignore
from ..text import counted
from ..values import dataclass
from .index import index_at
from .places import open_storage
from .records import ImageRecord, Snapshot
from .snapshot_files import SNAPSHOTS, complete_files, is_rebuilt, rebuild_snapshots, write_snapshot
from .state import State
from .storage import INDEX, Storage

_STATE = Path(".quaymirror", "state.db")


def prepare_snapshots(storage: Storage, state: State, observer: Observer = ignore) -> None:
    """Make state and files of snapshots agree, and make the first snapshot of an earlier release's mirror. It blocks.

    :raises StoreError: if the disk fails.
    """
    if is_rebuilt(storage, state):
        complete_files(storage, state)
    else:
        count = rebuild_snapshots(storage, state)
        observer(Notice(f"{counted(count, 'snapshot')} of {storage} restored from {SNAPSHOTS}"))

    if state.latest_snapshot() is None:
        take_snapshot(storage, state, SnapshotNote("upgrade"))

    _check_clock(storage, state, observer)


def _check_clock(storage: Storage, state: State, observer: Observer) -> None:
    """Report a clock that shows less than the date of a snapshot: one of both is wrong."""
    now = time.time()
    if state.is_set_back(now):
        moment = state.latest_moment()
        newest = next(each for each in state.snapshots() if each.created == moment)
        clock = f"{datetime.fromtimestamp(now).astimezone():%Y-%m-%d %H:%M}"
        observer(
            Notice(
                f"the clock shows {clock}, but {storage} has snapshot {shown(newest)}: check the clock; until then, "
                "nothing new is noted as missing or unneeded, and no snapshot loses its content"
            )
        )


def hold_back(storage: Storage, state: State, *, until_end: bool) -> None:
    """Let readers see the present set until a snapshot is made if `until_end`, otherwise each image. It blocks.

    :raises StoreError: if the disk fails.
    """
    if not until_end:
        state.publish(None)
    elif state.published() is None:
        # An earlier run that was killed may have published more than its last snapshot has.
        take_snapshot(storage, state, SnapshotNote("interrupted run", complete=False))
        latest = state.latest_snapshot()
        state.publish(latest.number if latest else 0)


@dataclass(frozen=True, slots=True)
class SnapshotNote:
    """The description of a snapshot that may be made: its cause, the run, its label, and if that mirrored everything.

    If `of_images`, it has the recorded images, also if readers see an earlier set.
    """

    cause: str
    run: str = ""
    label: str = ""
    complete: bool = True
    of_images: bool = False


def visible_versions(state: State, note: SnapshotNote) -> dict[str, int]:
    """Return the versions by name of the set that readers see, or of the recorded images if `note` says so."""
    number = None if note.of_images else state.published()
    return state.image_versions() if number is None else state.member_versions(number)


def take_snapshot(
    storage: Storage,
    state: State,
    note: SnapshotNote,
    *,
    versions: Mapping[str, int] | None = None,
    writes_file: bool = True,
) -> Snapshot | None:
    """Make a snapshot of `versions`, by default of the recorded images, which readers see from now on. It blocks.

    Return None if it would be the same as the latest one, which then gets the label if it has none. Within a
    transaction its file is not written.

    :raises StoreError: if the disk fails.
    """
    recorded, latest = state.image_versions(), state.latest_snapshot()
    wanted = recorded if versions is None else versions
    is_ahead = wanted != recorded
    if wanted == (state.member_versions(latest.number) if latest else {}):
        state.publish((latest.number if latest else 0) if is_ahead else None)
        if latest is not None and note.label and not latest.label:
            change(storage, state, replace(latest, label=note.label))

        return None

    unnumbered = Snapshot(
        id=secrets.token_hex(4),
        number=0,
        created=time.time(),
        images=0,
        cause=note.cause,
        run=note.run,
        label=note.label,
        complete=note.complete,
    )
    snapshot = state.add_snapshot(unnumbered, wanted, publishes=is_ahead)
    if writes_file:
        write_snapshot(storage, state, snapshot)

    return snapshot


def change(storage: Storage, state: State, *snapshots: Snapshot) -> None:
    """Record new labels, protections and times of drops of `snapshots`. It blocks.

    :raises StoreError: if the disk fails.
    """
    state.update_snapshots(snapshots)
    for snapshot in snapshots:
        write_snapshot(storage, state, snapshot)


def find_snapshot(snapshots: Sequence[Snapshot], at: str, *, now: float | None = None) -> Snapshot:
    """Return the one of `snapshots`, the oldest first, that `at` means.

    `at` is `latest`, `previous`, the beginning of an id, a date (the set at the end of that day in the local time
    zone), or a time with zone such as `2026-03-03T06:00+01:00` (the set at that instant).

    :raises ConfigError: if none is meant, or several; the nearest one is named.
    """
    if not snapshots:
        raise ConfigError("the mirror has no snapshots yet: each sync that changes something makes one")

    names = {"latest": snapshots[-1:], "previous": snapshots[-2:-1]}
    if at in names:
        found = names[at]
    elif (moment := _moment(at)) is not None:
        found = _at(snapshots, moment, at, time.time() if now is None else now)
    else:
        found = [each for each in snapshots if each.id.startswith(at)] if at else []

    if len(found) == 1:
        return found[0]

    if found:
        raise ConfigError(f"{at[:50]!r} begins {counted(len(found), 'id')} of snapshots: {shown(found[0], found[1])}")

    if at == "previous":
        raise ConfigError(f"there is no snapshot before the first one, {shown(snapshots[0])}")

    nearest = _similar(snapshots, at)
    raise ConfigError(f"no snapshot {at[:50]!r}: the nearest is {shown(nearest)}; see quaymirror snapshots")


def open_at(path: Path, at: str | None) -> Storage:
    """Return the storage of the layout at `path`; its index is that of the snapshot that `at` means, if one is given.

    All that reads a layout through its storage reads the snapshot then: `LayoutReader`, `verify_layout`, a push. It
    blocks. For the meaning of `at` see `find_snapshot`.

    :raises ConfigError: if `at` means no snapshot, or one whose content was removed.
    :raises TargetRefused: if something else is at `path`.
    :raises StoreError: if the disk fails.
    """
    if at is None:
        return open_storage(path)

    storage = open_storage(path)
    with _reading(storage, path) as state:
        snapshot = find_snapshot(state.snapshots(), at)
        if snapshot.dropped is not None:
            raise ConfigError(f"the content of snapshot {shown(snapshot)} was removed on {_day(snapshot.dropped)}")

        return with_index(storage, index_at(storage, state, snapshot.number))


def snapshot_images(path: Path, at: str) -> tuple[Snapshot, list[ImageRecord]]:
    """Return the snapshot of the layout at `path` that `at` means, and its images, sorted by name. It blocks.

    Its content may be removed: see `Snapshot.dropped`.

    :raises ConfigError: if `at` means no snapshot; see `find_snapshot`.
    :raises TargetRefused: if something else is at `path`.
    :raises StoreError: if the disk fails.
    """
    with _reading(open_storage(path), path) as state:
        snapshot = find_snapshot(state.snapshots(), at)
        return snapshot, state.members(snapshot.number)


@contextmanager
def _reading(storage: Storage, path: Path) -> Iterator[State]:
    """Open the state of the layout at `path` for reading, if one is there."""
    storage.exists()
    state, _ = State.open(path / _STATE, read_only=True)
    with closing(state):
        yield state


def with_index(storage: Storage, index: bytes) -> Storage:
    """Return `storage` for reading with another index: that of a snapshot."""
    return cast("Storage", _Indexed(storage, index))


class _Indexed:
    """A storage with another index; everything else is that of `storage`."""

    def __init__(self, storage: Storage, index: bytes) -> None:
        self._storage = storage
        self._index = index

    def __str__(self) -> str:
        return str(self._storage)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of an object; the index is that of the snapshot."""
        if key != INDEX:
            return self._storage.read(key, limit)

        return self._index if limit < 0 else self._index[:limit]


def _moment(text: str) -> float | None:
    """Return the end of the day or the instant that `text` names, None if it is neither."""
    try:
        day = date.fromisoformat(text) if len(text) == len("2026-03-03") else None
        if day is not None:
            return datetime.combine(day + timedelta(days=1), datetime.min.time()).astimezone().timestamp()

        moment = datetime.fromisoformat(text) if "-" in text else None
    except (ValueError, OverflowError, OSError):
        return None

    if moment is not None and moment.tzinfo is None:
        raise ConfigError(f"{text!r} has no time zone: write {text[:19]}Z, or {text[:19]}+01:00")

    return None if moment is None else moment.timestamp()


def _at(snapshots: Sequence[Snapshot], moment: float, text: str, now: float) -> Sequence[Snapshot]:
    before = [each for each in snapshots if each.created < moment or (each.created == moment and "T" in text)]
    # A clock that was set back does not make a snapshot one of the future.
    latest = max(now, *(each.created for each in snapshots))
    is_future = moment > latest + (0 if "T" in text else 86_400)
    return [] if is_future else before[-1:]


def _similar(snapshots: Sequence[Snapshot], at: str) -> Snapshot:
    """Return the snapshot nearest in time, or else the one whose id is the most similar."""
    from difflib import get_close_matches

    moment = _moment(at)
    if moment is not None:
        return min(snapshots, key=lambda each: abs(each.created - moment))

    ids = {each.id: each for each in snapshots}
    close = get_close_matches(at[:50], ids, n=1, cutoff=0.5)
    return ids[close[0]] if close else snapshots[-1]


def shown(*snapshots: Snapshot) -> str:
    """Return ids and dates for messages."""
    return ", ".join(
        f"{each.id} of {datetime.fromtimestamp(each.created).astimezone():%Y-%m-%d %H:%M}" for each in snapshots
    )


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d}"
