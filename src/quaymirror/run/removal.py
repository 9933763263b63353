"""Removal of images from a mirror on purpose, and the images that no job of a configuration selects any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..errors import ConfigError
from ..events import Observer, ignore
from ..selection.names import match_names
from ..selection.rename import Renames
from ..store.index import update_index
from ..store.layout import OCILayout
from ..store.records import Snapshot
from ..store.snapshot_files import write_snapshot
from ..store.snapshots import SnapshotNote, take_snapshot, visible_versions
from ..store.state import State
from ..store.storage import Storage
from ..text import counted
from ..values import dataclass
from .jobs import Job

_NOTE = SnapshotNote("remove")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Removal:
    """The result of `remove_images`: the names, those that jobs would mirror again, and the new snapshot.

    `snapshot` is None in a dry run.
    """

    names: tuple[str, ...]
    again: tuple[str, ...]
    snapshot: Snapshot | None = None


async def remove_images(
    path: Path, patterns: Sequence[str], *, jobs: Sequence[Job] = (), dry_run: bool = False, observer: Observer = ignore
) -> Removal:
    """Remove the images of the mirror at `path` whose names match, or find them in a dry run.

    A new snapshot has the rest; the content stays as long as an earlier snapshot needs it, and until a prune. `jobs`
    are asked if they would mirror the images again.

    :raises ConfigError: if no image matches, or one of them is held: then nothing changes.
    :raises LockHeld: if a run writes to the mirror.
    :raises StoreError: if the disk fails.
    """
    if dry_run:
        async with OCILayout.inspect(path) as layout:
            names = await layout.use(partial(_matching, patterns=patterns))

        return Removal(tuple(names), _selected(names, jobs, path))

    async with OCILayout.open(path, observer=observer) as layout:
        names, snapshot = await layout.use(partial(_remove, patterns=patterns))

    return Removal(tuple(names), _selected(names, jobs, path), snapshot)


def unselected_names(path: Path, names: Iterable[str], jobs: Sequence[Job]) -> list[str]:
    """Return those of `names`, images of the mirror at `path`, that none of `jobs` selects.

    Dates and labels of selections don't count, nor registries: such images are selected.

    :raises ConfigError: if none of `jobs` mirrors to `path`.
    """
    here = _jobs_of(jobs, path)
    if not here:
        raise ConfigError(f"no job has {path} as its target: every image would be unselected")

    return [name for name in names if not any(_selects(job, name) for job in here)]


def _jobs_of(jobs: Iterable[Job], path: Path) -> list[Job]:
    return [job for job in jobs if _is_at(job.target, path)]


def _is_at(target: str | Path, path: Path) -> bool:
    text = str(target).removeprefix("ocidir://")
    return "://" not in text and Path(text).expanduser().resolve() == path.resolve()


def _selected(names: Iterable[str], jobs: Sequence[Job], path: Path) -> tuple[str, ...]:
    here = _jobs_of(jobs, path)
    return tuple(name for name in names if any(_selects(job, name) for job in here))


def _selects(job: Job, name: str) -> bool:
    """Return True if `job` may mirror an image under `name`."""
    renames = Renames(job.options.target.renames)
    for selection in job.selections:
        registry = job.options.source.address_of(selection).registry_name
        original = renames.restore(registry, name) if renames else name
        if original is None:
            continue

        if selection.pinned:
            full, mark, rest = original.partition("@")
            repository, tag = (full, rest) if mark else full.rpartition(":")[::2]
            words = {(f"{selection.prefix}{pin.repository}", pin.tag or str(pin.digest)) for pin in selection.pinned}
            if (repository, tag) in words:
                return True
        elif selection.covers(original):
            return True

    return False


def _matching(_storage: Storage, state: State, *, patterns: Sequence[str]) -> list[str]:
    present = visible_versions(state, _NOTE)
    names = match_names(patterns, present)
    if not names:
        raise ConfigError(f"no image matches {', '.join(patterns)}{_similar(patterns[0], present)}")

    held = sorted({hold.name for hold in state.holds()}.intersection(names))
    if held:
        more = f" and {len(held) - _SHOWN:,} more" if len(held) > _SHOWN else ""
        raise ConfigError(f"held: {', '.join(held[:_SHOWN])}{more}; nothing is removed: use quaymirror unhold first")

    return names


def _similar(pattern: str, present: Mapping[str, int]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(pattern, present, n=1)
    return f"; did you mean {close[0]}?" if close else f": the mirror has {counted(len(present), 'image')}"


def _remove(storage: Storage, state: State, *, patterns: Sequence[str]) -> tuple[list[str], Snapshot | None]:
    names = _matching(storage, state, patterns=patterns)
    left_out = set(names)
    remaining = {name: version for name, version in visible_versions(state, _NOTE).items() if name not in left_out}
    with state.transaction():
        state.untag(names)
        snapshot = take_snapshot(storage, state, _NOTE, versions=remaining, writes_file=False)

    if snapshot is not None:
        write_snapshot(storage, state, snapshot)

    update_index(storage, state)
    return names, snapshot
