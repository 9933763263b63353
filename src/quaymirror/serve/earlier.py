"""Earlier sets of images of a mirror in a directory, by id or date of its snapshots, and verdicts about images."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..oci import Digest
from ..store.acceptances import verdicts_by_root
from ..store.records import Acceptance, Snapshot
from ..store.snapshots import snapshot_images
from ..store.state import State
from .published import Image, image_of

_TAG_OF_DAY = re.compile(r"(?P<tag>.+)\.at\.(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})")
_STATE = Path(".quaymirror", "state.db")
_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class SnapshotChanges:
    """A snapshot, and the names of images by their change since the one before."""

    snapshot: Snapshot
    new: tuple[str, ...]
    moved: tuple[str, ...]
    removed: tuple[str, ...]


class EarlierSets:
    """The snapshots of the mirror in the directory `root`. Methods block, and raise `StoreError` if the disk fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sets: OrderedDict[tuple[str, int], Mapping[str, Image]] = OrderedDict()

    def image(self, repository: str, tag: str) -> Image | None:
        """Return the image that `TAG.at.YYYY-MM-DD` means: the one that TAG named at the end of that day.

        None if the tag has another form, or nothing of that day is known any more.
        """
        match = _TAG_OF_DAY.fullmatch(tag)
        if match is None:
            return None

        return self._images(match["day"]).get(f"{repository}:{match['tag']}")

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, the latest first."""
        state, _ = State.open(self._root / _STATE, read_only=True)
        try:
            return state.snapshots()[::-1]
        finally:
            state.close()

    def changes(self, snapshot_id: str) -> SnapshotChanges | None:
        """Return the changes of a snapshot since the one before, None if no snapshot has this id."""
        state, _ = State.open(self._root / _STATE, read_only=True)
        try:
            known = state.snapshots()
            found = next((each for each in known if each.id == snapshot_id), None)
            if found is None:
                return None

            before = [each for each in known if each.number < found.number]
            old = state.member_versions(before[-1].number) if before else {}
            new = state.member_versions(found.number)
        finally:
            state.close()

        return SnapshotChanges(
            found,
            tuple(sorted(new.keys() - old.keys())),
            tuple(sorted(name for name, version in new.items() if old.get(name, version) != version)),
            tuple(sorted(old.keys() - new.keys())),
        )

    def verdicts(self, name: str, root: Digest) -> tuple[Acceptance, ...]:
        """Return the verdicts of signature policies that accepted an image, the latest first."""
        return verdicts_by_root(self._root, {name: root}).get(name, ())

    def _images(self, day: str) -> Mapping[str, Image]:
        try:
            snapshot, records = snapshot_images(self._root, day)
        except ConfigError:
            return {}  # a day without snapshots, or no day

        if snapshot.dropped is not None:
            return {}

        key = (snapshot.id, len(records))
        found = self._sets.get(key)
        if found is None:
            images = (image_of(record.name, record.root) for record in records)
            found = self._sets[key] = {image.name: image for image in images if image is not None}
            if len(self._sets) > _REMEMBERED:
                self._sets.popitem(last=False)

        return found
