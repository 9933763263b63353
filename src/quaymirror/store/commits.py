"""Group commit: images that are complete at about the same time share syncs and a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from ..errors import QuaymirrorError
from .executor import SerialExecutor
from .records import ImageRecord

Commit = Callable[[Sequence[ImageRecord]], Sequence[QuaymirrorError | None]]
"""Commits images together, in a thread; returns the error of each, None for those that are durable."""


@dataclass(slots=True, eq=False)
class _Pending:
    record: ImageRecord
    done: bool = False
    error: QuaymirrorError | None = None


class GroupCommit:
    """Collects images while a commit is running, and commits them together after it."""

    def __init__(self, executor: SerialExecutor, commit: Commit) -> None:
        self._executor = executor
        self._commit = commit
        self._lock = anyio.Lock()
        self._pending: list[_Pending] = []

    async def add(self, record: ImageRecord) -> None:
        """Commit an image, and wait for it.

        :raises QuaymirrorError: the error of this image.
        """
        mine = _Pending(record)
        self._pending.append(mine)
        async with self._lock:
            if not mine.done:
                group, self._pending = self._pending, []
                with anyio.CancelScope(shield=True):
                    await self._executor.run(self._run, group)

        if mine.error is not None:
            raise mine.error

    def _run(self, group: Sequence[_Pending]) -> None:
        errors = self._commit([pending.record for pending in group])
        for pending, error in zip(group, errors, strict=True):
            pending.error, pending.done = error, True
