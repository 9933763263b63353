"""The lock of a mirror in an object store as the shards of one plan hold it: all of them at the same time.

Each has a lease of its own in the lock. The shards that live keep other writers out, and one that was killed is
forgotten when its lease has expired.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from ..errors import BucketFailed, QuaymirrorError, StoreError
from .bucket_lock import RENEW_SECONDS, STALE_SECONDS, BucketLock, LockRecord
from .objects import Objects

# Each failed attempt is one in which another shard succeeded.
_ATTEMPTS = 200
_LONGEST_PAUSE = 0.5


class PlanLock(BucketLock):
    """The lock of one mirror, held by all writers of `plan`. `member` is the name of the state directory. It blocks."""

    def __init__(
        self,
        objects: Objects,
        member: str,
        *,
        plan: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(objects, f"plan {plan}", clock=clock, monotonic=monotonic)
        self._name = member
        self._session = ""
        self.was_alone: bool = False
        """True as long as no other writer of the plan has held the lock since this one took it."""

    @property
    def session(self) -> str:
        """The session of this process, "" if it did not take the lock yet."""
        return self._session

    def take(self, *, is_probed: bool) -> None:
        """Take part in the lock, unless this process does; see `BucketLock.take`."""
        with self._turn:
            if self._mine is not None:
                self._check()
                return

            if not is_probed:
                self._probe()

            self._session = secrets.token_hex(8)
            self._change(self._joined)
            self.was_alone = len(self.found.members) == 1

    def renew(self) -> None:
        """Renew the lease of this process if it is due; see `BucketLock.renew`."""
        with self._turn:
            if self._mine is None or self._lost or self._monotonic() - self._renewed < RENEW_SECONDS:
                return

            try:
                self._change(self._extended)
            except BucketFailed:
                return
            except QuaymirrorError:
                self._lost = "another run took its lock"

    def release(self, *, copy: str = "") -> None:
        """End the lease of this process; the lock is released if no other has one. See `BucketLock.release`."""
        with self._turn:
            if self._mine is None:
                return

            self._check()
            self._change(lambda found: self._left(found, copy))
            self._mine = None

    def _change(self, change: Callable[[LockRecord], LockRecord]) -> None:
        """Write what `change` makes of the lock, over the version of another shard if that was faster.

        :raises LockHeld: if another writer holds the lock.
        :raises StoreError: if the store fails, or the lease has expired.
        """
        for _ in range(_ATTEMPTS):
            begun, record = self._monotonic(), change(self.found)
            if self._write(record):
                self.found = self._mine = record
                self._renewed = begun
                return

            time.sleep(_LONGEST_PAUSE * secrets.randbelow(1000) / 1000)
            self.look()

        raise BucketFailed(f"{self._objects}: other shards changed the lock {_ATTEMPTS} times meanwhile")

    def _joined(self, found: LockRecord) -> LockRecord:
        now = self._clock()
        is_first = found.writer != self._writer
        return replace(
            found,
            session=self._session,
            writer=self._writer,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=now if is_first else found.started,
            renewed=now,
            members={**({} if is_first else found.members), self._name: now},
        )

    def _extended(self, found: LockRecord) -> LockRecord:
        self._check_lease(found)
        now = self._clock()
        members = {**found.members, self._name: now}
        return replace(found, host=socket.gethostname(), pid=os.getpid(), renewed=now, members=members)

    def _left(self, found: LockRecord, copy: str) -> LockRecord:
        self._check_lease(found)
        now = self._clock()
        members = {
            member: renewed
            for member, renewed in found.members.items()
            if member != self._name and now - renewed < STALE_SECONDS
        }
        return replace(
            found,
            copy=copy or found.copy,
            writer=self._writer if members else "",
            renewed=max(members.values(), default=now),
            members=members,
        )

    def _check_lease(self, found: LockRecord) -> None:
        self.was_alone = self.was_alone and found.session == self._session
        if found.writer != self._writer or self._name not in found.members:
            raise StoreError(f"{self._objects}: another run took the lock of this one")
