"""Single flight: concurrent callers that need the same operation share one execution of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import Failure, QuaymirrorError

K = TypeVar("K", bound=Hashable)


class SingleFlight(Generic[K]):
    """Runs operations in `tasks`, at most one per key at a time, so that they can outlive the caller that started them.

    A finished flight is forgotten. A later caller starts a new one, so an operation must be idempotent.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._flights: dict[K, _Flight[K]] = {}

    def is_under_way(self, key: K) -> bool:
        """Return True if an operation is running for `key`."""
        return key in self._flights

    def start(self, operations: Mapping[K, Callable[[], Awaitable[None]]]) -> Batch[K]:
        """Start the operations, in order, whose keys have none yet; return all of them to wait for."""
        batch = Batch[K]()
        for key, operation in operations.items():
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight(key, operation, self._flights)
                self._tasks.start_soon(flight.run)

            flight.batches.append(batch)
            batch.flying.add(key)

        batch.check()
        return batch

    async def run(self, key: K, operation: Callable[[], Awaitable[None]]) -> Failure | None:
        """Wait until `operation` has been done for `key`, by whichever caller came first; return its failure, if any.

        Every caller raises an error of its own: an exception shared by all would collect their tracebacks.
        """
        batch = self.start({key: operation})
        await batch.settled.wait()
        return batch.ended[key]


class Batch(Generic[K]):
    """Flights that one caller waits for."""

    def __init__(self) -> None:
        self.flying: set[K] = set()
        self.ended: dict[K, Failure | None] = {}
        """The failures of the flights that have ended, None for a success."""
        self.settled = anyio.Event()
        """Set once all flights have ended, or one has failed."""

    def check(self) -> None:
        """Set `settled` if it is time."""
        if not self.flying or any(self.ended.values()):
            self.settled.set()


@dataclass(slots=True, eq=False)
class _Flight(Generic[K]):
    key: K
    operation: Callable[[], Awaitable[None]]
    under_way: dict[K, _Flight[K]]
    batches: list[Batch[K]] = field(default_factory=list)

    async def run(self) -> None:
        failure: Failure | None = None
        try:
            await self.operation()
        except QuaymirrorError as error:
            failure = Failure.of(error)
        finally:
            # Before any caller wakes up: one that tries again must not find this flight.
            del self.under_way[self.key]
            for batch in self.batches:
                batch.flying.discard(self.key)
                batch.ended[self.key] = failure
                batch.check()
