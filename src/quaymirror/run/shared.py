"""Resources shared by concurrent runs: connections, limiters, slots, and blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from ..events import Event, Observer
from ..oci import Digest
from ..settings import Options
from ..transfer.sharing import BlobSharing
from ..transfer.slots import FetchSlots
from .wiring import Connection, Services, connect_source


class FanOut:
    """An observer that passes every event to each run, since the pause of a host affects all of them."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def __call__(self, event: Event) -> None:
        """Pass on `event`."""
        for observer in tuple(self._observers):
            observer(event)

    @contextmanager
    def observed_by(self, observer: Observer) -> Iterator[None]:
        """Pass events to `observer` as well while the context lasts."""
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)


@dataclass(frozen=True, slots=True)
class Engine:
    """The shared part of runs. `slots` limit the images and blobs in flight over all of them.

    `counted` holds the blobs that dry runs have counted, since every blob is fetched once.
    """

    source: Connection
    slots: FetchSlots
    fan_out: FanOut
    sharing: BlobSharing = field(default_factory=BlobSharing)
    counted: set[Digest] = field(default_factory=set)

    def services(self, options: Options, observer: Observer) -> Services:
        """Return the services of the source for a run with `options`; `observer` gets its retries."""
        return self.source.services(options, observer)


@asynccontextmanager
async def open_engine(options: Sequence[Options]) -> AsyncIterator[Engine]:
    """Open the resources of runs with these `options`, one at least, which have the same `connection`.

    The largest `concurrency` and `layer_concurrency` among them apply to all runs together.

    :raises ConfigError: if a file of certificates is invalid.
    """
    fan_out = FanOut()
    images = max(each.limits.concurrency for each in options)
    slots = max(each.limits.layer_concurrency for each in options)
    async with connect_source(options[0], fan_out) as source:
        yield Engine(source, FetchSlots(images, slots), fan_out)
