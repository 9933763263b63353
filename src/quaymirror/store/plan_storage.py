"""The storage of a layout in an object store that all shards of one plan write to at the same time.

Blobs are named by their content, so that it does not matter which shard stores one, or that two do. `index.json` is
replaced only over the version that was read before, so that no shard loses the images of another one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from . import documents
from .bucket import BucketStorage
from .bucket_lock import BucketLock
from .objects import Conflict, Objects
from .plan_lock import PlanLock
from .storage import INDEX, MARKER, IndexMoved, ObjectInfo

_LONGEST_PAUSE = 0.5


class PlanStorage(BucketStorage):
    """A layout in an object store, for one of the writers of `plan`; see `BucketStorage`.

    `role` tells writers apart whose state directories are copies of one. If it `keeps_state`, the state in `root` is
    that of the whole mirror, whose copy is in the store; otherwise it is that of one shard, and stays here.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        plan: str,
        role: str,
        keeps_state: bool = False,
        endpoint: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(root, objects, endpoint=endpoint, clock=clock, monotonic=monotonic)
        self._keeps_state = keeps_state

        def new_lock(writer: str) -> PlanLock:
            return PlanLock(objects, f"{role}-{writer}", plan=plan, clock=clock, monotonic=monotonic)

        self._new_lock = new_lock

    def find(self, key: str) -> ObjectInfo | None:
        """Return the properties of an object that another writer may have stored, None if it does not exist."""
        if self._cache.info(key) is None and (found := self._objects.head(key)) is not None:
            self._cache.add(key, found.size, found.modified, found.tag)

        return self._cache.info(key)

    def read(self, key: str, limit: int = -1) -> bytes | None:
        """Return the content of an object; the index as it is now."""
        if key != INDEX or self._lock is None:
            return super().read(key, limit)

        found = self._objects.get(INDEX)
        if found is None:
            self._cache.remove(INDEX)
            return None

        content, tag = found
        self._stored(INDEX, content, tag)
        return content if limit < 0 else content[:limit]

    def replace(self, key: str, content: bytes) -> None:
        """Replace or create an object; the index only over the version that was read last.

        :raises IndexMoved: if another writer has replaced it.
        """
        if key != INDEX:
            super().replace(key, content)
            return

        self._ensure_lock()
        try:
            tag = self._objects.put(INDEX, content, tag=self._cache.tag(INDEX))
        except Conflict:
            # The others are as likely to try again at once.
            time.sleep(_LONGEST_PAUSE * secrets.randbelow(1000) / 1000)
            raise IndexMoved(f"{self}/{INDEX} was changed by other writers again and again: run it again") from None

        self._stored(INDEX, content, tag)
        self._is_changed = True

    def _begin(self) -> None:
        """Take part in the lock, so that nothing is deleted from now on, and list the objects."""
        assert self._lock is not None
        self._is_changed = self._is_doubtful = False
        self._cache.load()
        self._ensure_lock()
        self._cache.replace(self._objects.list())
        if self._keeps_state:
            self._update_state(self._lock.found)

        if not self.exists():
            self.put(MARKER, documents.OCI_LAYOUT)

    def _end(self, lock: BucketLock) -> None:
        """Store a copy of the state if this is that of the mirror and has changed, and end the lease."""
        if not lock.is_held:
            return

        lock.release(copy=self._copy_state(lock.session) if self._keeps_state else "")
        self._cache.probed = self._endpoint
        # Otherwise others have stored objects, too.
        was_alone = cast("PlanLock", lock).was_alone and not self._is_doubtful
        self._cache.save(lock.session if was_alone else "")
