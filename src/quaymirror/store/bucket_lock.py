"""The lock of a mirror in an object store: an object that names its holder; the holder renews it.

The object stays when the lock is released. It names the last session, that is the last writer: a machine that knows
this session knows everything that is in the mirror.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, field, replace

from ..errors import BucketFailed, ConfigError, LockHeld, StoreError, TargetRefused
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .objects import Conflict, Objects

LOCK = ".quaymirror/lock"
_PROBE = ".quaymirror/probe"
_VERSION = 1
# The lock is taken over if it was not renewed for so long. Clocks of machines may differ by a part of it.
STALE_SECONDS = 600.0
RENEW_SECONDS = 30.0
# A writer that could not renew for so long writes nothing any more: before another one can take over.
_SAFE_SECONDS = 300.0
_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class LockRecord:
    """The content of the lock: the last `session`, the one that wrote the `copy` of the state, and the holder.

    `writer` is the state directory that the holder has; a released lock has none. Shards of one plan hold the lock
    together: the plan is the writer, and `members` are their state directories, with the time at which each renewed it.
    """

    session: str = ""
    copy: str = ""
    writer: str = ""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    renewed: float = 0.0
    members: Mapping[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the content of the object."""
        return json.dumps({"lock_version": _VERSION, **asdict(self)}).encode() + b"\n"


class BucketLock:
    """The lock of one mirror. `writer` is the name of the state directory, which only one process uses. It blocks.

    Without `locks`, nothing is written under a condition: the user answers for there being one writer.
    """

    def __init__(
        self,
        objects: Objects,
        writer: str,
        *,
        locks: bool = True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects = objects
        self._writer = writer
        # The state directory of this process.
        self._name = writer
        self._locks = locks
        self._clock = clock
        self._monotonic = monotonic
        self._turn = threading.Lock()
        self.found: LockRecord = LockRecord()
        """The lock as it was found."""
        self._tag = ""
        self._mine: LockRecord | None = None
        self._renewed = 0.0
        self._lost = ""

    @property
    def is_held(self) -> bool:
        """True if this process holds the lock."""
        return self._mine is not None

    @property
    def is_current(self) -> bool:
        """True if this process holds the lock and may write; `take` would not do anything. It does not block."""
        return self._mine is not None and not self._lost and not self._is_overdue

    @property
    def session(self) -> str:
        """The session of this process, "" if it wrote nothing yet."""
        return self._mine.session if self._mine else ""

    def look(self) -> LockRecord:
        """Read the lock, by one request.

        :raises LockHeld: if another writer holds it.
        :raises TargetRefused: if a newer release wrote it.
        :raises StoreError: if the store fails.
        """
        found = self._objects.get(LOCK, _MAX_BYTES)
        self.found, self._tag = (LockRecord(), "") if found is None else (self._parsed(found[0]), found[1])
        record = self.found
        age = self._clock() - record.renewed
        if record.writer and record.writer != self._writer and age < STALE_SECONDS:
            user = "the shards of a plan" if record.members else "another run"
            raise LockHeld(
                f"{self._objects} is in use by {user} (process {record.pid} on {record.host!r}, "
                f"seen {max(0, round(age)):,} s ago; a run that ended is replaced after {STALE_SECONDS:.0f} s)"
            )

        return record

    def take(self, *, is_probed: bool) -> None:
        """Take the lock that `look` found, unless this process holds it.

        :raises ConfigError: if the store ignores conditions, so that it can't have a lock.
        :raises LockHeld: if another writer was faster.
        :raises StoreError: if the store fails, or the lock was lost.
        """
        with self._turn:
            if self._mine is not None:
                self._check()
                return

            if self._locks and not is_probed:
                self._probe()

            now = self._clock()
            mine = replace(
                self.found,
                session=secrets.token_hex(8),
                writer=self._writer,
                host=socket.gethostname(),
                pid=os.getpid(),
                started=now,
                renewed=now,
                members={},
            )
            begun = self._monotonic()
            if not self._write(mine):
                raise LockHeld(f"{self._objects} was changed by another run: try again")

            self._mine, self._renewed = mine, begun

    def renew(self) -> None:
        """Renew the lock if it is held and due; a failure is tolerated as long as nothing else can take it."""
        with self._turn:
            begun = self._monotonic()
            if self._mine is None or self._lost or begun - self._renewed < RENEW_SECONDS:
                return

            renewed = replace(self._mine, renewed=self._clock())
            try:
                if not self._write(renewed):
                    self._lost = "another run took its lock"
                    return
            except BucketFailed:
                return

            self._mine, self._renewed = renewed, begun

    def release(self, *, copy: str = "") -> None:
        """Release the lock, with the session that wrote the `copy` of the state, if this one did.

        :raises StoreError: if the store fails, or the lock was lost.
        """
        with self._turn:
            if self._mine is None:
                return

            self._check()
            left = replace(self._mine, writer="", copy=copy or self._mine.copy)
            self._mine = None
            if not self._write(left):
                raise StoreError(f"{self._objects}: another run took the lock of this one")

            self.found = left

    @property
    def _is_overdue(self) -> bool:
        return self._monotonic() - self._renewed >= _SAFE_SECONDS

    def _check(self) -> None:
        if not self._lost and self._is_overdue:
            self._lost = f"its lock could not be renewed for {_SAFE_SECONDS:.0f} s"

        if self._lost:
            raise StoreError(f"{self._objects}: {self._lost}: nothing is written any more, run it again")

    def _write(self, record: LockRecord) -> bool:
        """Write the lock over the version that is known; return False if it is another one."""
        if not self._locks:
            self._objects.put(LOCK, record.to_bytes())
            return True

        content = record.to_bytes()
        try:
            self._tag = self._objects.put(LOCK, content, tag=self._tag)
        except Conflict:
            # The request was repeated after an answer got lost?
            found = self._objects.get(LOCK, _MAX_BYTES)
            if found is None or found[0] != content:
                return False

            self._tag = found[1]

        return True

    def _probe(self) -> None:
        """Check that the store refuses to create an object twice, and to replace another version than the named one."""
        # Each writer has a key of its own: two of them may try it at the same time.
        objects, key = self._objects, f"{_PROBE}-{self._name}"
        objects.is_refused(key)
        with ThreadPoolExecutor(1) as beside:
            other_version = beside.submit(objects.is_refused, key, tag='"0123456789abcdef0123456789abcdef"')
            is_observed = objects.is_refused(key) and other_version.result()

        if not is_observed:
            raise ConfigError(
                f"{objects}: this object store ignores conditions (If-None-Match, If-Match), so two runs could "
                "overwrite each other; if only one run ever writes there, append ?locks=none to the address"
            )

        objects.delete(key)

    def _parsed(self, content: bytes) -> LockRecord:
        try:
            document = parse_object(content, limit=_MAX_BYTES)
            version = int(document["lock_version"])
            if version <= _VERSION:
                texts = {name: str(document[name])[:200] for name in ("session", "copy", "writer", "host")}
                started, renewed = float(document["started"]), float(document["renewed"])
                members = {str(name)[:200]: float(seen) for name, seen in document.get("members", {}).items()}
                return LockRecord(**texts, pid=int(document["pid"]), started=started, renewed=renewed, members=members)
        except (InvalidDocument, LookupError, AttributeError, TypeError, ValueError, OverflowError):
            raise TargetRefused(
                f"{self._objects}/{LOCK} is no lock of quaymirror: delete it if no run uses it"
            ) from None

        raise TargetRefused(f"{self._objects} was written by a newer quaymirror (lock version {version}): update")
