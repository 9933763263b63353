"""Single flight: what several want at the same time is done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import Failure, QuaymirrorError

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Flight:
    has_landed: bool = False
    failure: Failure | None = None
    watchers: list[Callable[[_Flight], None]] = field(default_factory=list)


class SingleFlight(Generic[K]):
    """Runs operations in `tasks`, so that a flight outlives the image it was begun for; one a key at a time.

    A flight that ended is gone: who comes later begins a new one, whose operation has to see what is done already.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._flights: dict[K, _Flight] = {}

    def is_under_way(self, key: K) -> bool:
        """Tell whether somebody's operation is being done for `key`."""
        return key in self._flights

    async def run(self, key: K, operation: Callable[[], Awaitable[None]]) -> Failure | None:
        """Wait until `operation` has been done for `key`, by whichever caller came first; return its failure, if any.

        Every waiter raises an error of its own: an exception shared by all would collect their tracebacks.
        """
        return (await self.run_all({key: operation}))[key]

    async def run_all(self, operations: Mapping[K, Callable[[], Awaitable[None]]]) -> dict[K, Failure | None]:
        """Wait until each operation has been done for its key, by whoever came first, or until one of them has failed.

        They are begun in order. Those that have ended are returned, as by `run`; the others go on.
        """
        wanted = {key: self._begun(key, operation) for key, operation in operations.items()}
        left, enough = len(wanted), anyio.Event()

        def landed(flight: _Flight) -> None:
            nonlocal left
            left -= 1
            if flight.failure is not None or not left:
                enough.set()

        for flight in wanted.values():
            flight.watchers.append(landed)

        if wanted:
            await enough.wait()

        return {key: flight.failure for key, flight in wanted.items() if flight.has_landed}

    def _begun(self, key: K, operation: Callable[[], Awaitable[None]]) -> _Flight:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._tasks.start_soon(self._fly, key, flight, operation)

        return flight

    async def _fly(self, key: K, flight: _Flight, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except QuaymirrorError as error:
            flight.failure = Failure.of(error)
        finally:
            # Before anybody wakes up: a waiter that tries again must not find this flight.
            del self._flights[key]
            flight.has_landed = True
            for watcher in flight.watchers:
                watcher(flight)
