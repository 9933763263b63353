"""Single flight: concurrent callers that need the same operation share one execution of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import Failure, QuaymirrorError

K = TypeVar("K", bound=Hashable)


class SingleFlight(Generic[K]):
    """Runs operations in `tasks`, at most one per key at a time, so that they can outlive the caller that started them.

    A finished operation is forgotten. A later caller starts a new one, so it must be idempotent.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._waiting: dict[K, list[Batch[K]]] = {}

    def is_under_way(self, key: K) -> bool:
        """Return True if an operation is running for `key`."""
        return key in self._waiting

    def start(self, operations: Mapping[K, Callable[[], Awaitable[None]]]) -> Batch[K]:
        """Start the operations, in order, whose keys have none yet; return all of them to wait for."""
        batch = Batch(set(operations))
        for key, operation in operations.items():
            if key not in self._waiting:
                self._waiting[key] = []
                self._tasks.start_soon(_run, operation, partial(self._end, key))

            self._waiting[key].append(batch)

        batch.check()
        return batch

    async def run(self, key: K, operation: Callable[[], Awaitable[None]]) -> Failure | None:
        """Wait until `operation` has been done for `key`, by whichever caller came first; return its failure, if any.

        Every caller raises an error of its own: an exception shared by all would collect their tracebacks.
        """
        batch = self.start({key: operation})
        await batch.settled.wait()
        return batch.ended[key]

    def _end(self, key: K, failure: Failure | None) -> None:
        # Before any caller wakes up: one that tries again must not find this operation.
        for batch in self._waiting.pop(key):
            batch.end(key, failure)


class Batch(Generic[K]):
    """Operations that one caller waits for."""

    def __init__(self, keys: set[K]) -> None:
        self._running = keys
        self.ended: dict[K, Failure | None] = {}
        """The failures of the operations that have ended, None for a success."""
        self.settled: anyio.Event = anyio.Event()
        """Set once all operations have ended, or one has failed."""

    def end(self, key: K, failure: Failure | None) -> None:
        """Record the end of an operation."""
        self._running.discard(key)
        self.ended[key] = failure
        self.check()

    def check(self) -> None:
        """Set `settled` if it is time."""
        if not self._running or any(self.ended.values()):
            self.settled.set()


async def _run(operation: Callable[[], Awaitable[None]], end: Callable[[Failure | None], None]) -> None:
    failure: Failure | None = None
    try:
        await operation()
    except QuaymirrorError as error:
        failure = Failure.of(error)
    finally:
        end(failure)
