"""Single flight: what several want at the same time is done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from ..errors import QuaymirrorError

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended for one who waited: whether it was begun for them, and what went wrong, if anything."""

    led: bool
    error: QuaymirrorError | None


@dataclass(slots=True, eq=False)
class _Flight:
    landed: anyio.Event = field(default_factory=anyio.Event)
    error: QuaymirrorError | None = None


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

    async def run(self, key: K, operation: Callable[[], Awaitable[None]]) -> Landing:
        """Wait until `operation` has been done for `key`, by whoever came first.

        The error of the operation is returned, not raised: it is one object for all who waited.
        """
        flight = self._flights.get(key)
        led = flight is None
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._tasks.start_soon(self._fly, key, flight, operation)

        await flight.landed.wait()
        return Landing(led, flight.error)

    async def _fly(self, key: K, flight: _Flight, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except QuaymirrorError as error:
            flight.error = error
        finally:
            # Before anybody wakes up: a waiter that tries again must not find this flight.
            del self._flights[key]
            flight.landed.set()
