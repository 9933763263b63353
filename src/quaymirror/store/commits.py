"""Group commit: images that are complete at about the same time share syncs and a transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio

from ..errors import QuaymirrorError, StoreError
from ..values import dataclass
from .executor import SerialExecutor
from .records import Attachment, ImageRecord

Record = ImageRecord | Attachment
Commit = Callable[[Sequence[Record]], Sequence[QuaymirrorError | None]]
"""Commits images together, in a thread; returns the error of each, None for those that are durable."""


@dataclass(slots=True, eq=False)
class _Pending:
    record: Record
    error: QuaymirrorError | None = None
    is_decided: bool = False


class GroupCommit:
    """Collects images while the executor is busy, and commits them together after it."""

    def __init__(self, executor: SerialExecutor, commit: Commit) -> None:
        self._executor = executor
        self._commit = commit
        self._pending: deque[_Pending] = deque()

    async def add(self, record: Record) -> None:
        """Commit an image, or the referrers of one, and wait for it.

        :raises QuaymirrorError: the error of this image.
        :raises StoreError: if the commit that it was part of broke off.
        """
        mine = _Pending(record)
        self._pending.append(mine)
        # The first of several calls commits the images of all, also those of callers that are cancelled now.
        with anyio.CancelScope(shield=True):
            await self._executor.run(self._commit_pending)

        if mine.error is not None:
            raise mine.error

        if not mine.is_decided:
            # The call that committed the group raises the reason.
            raise StoreError(f"{record.name}: its commit broke off")

    def _commit_pending(self) -> None:
        group = [self._pending.popleft() for _ in range(len(self._pending))]
        if group:
            for pending, error in zip(group, self._commit([one.record for one in group]), strict=True):
                pending.error, pending.is_decided = error, True
