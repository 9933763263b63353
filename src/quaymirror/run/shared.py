"""Resources shared by concurrent runs: connections, limiters, slots, and blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import field

from ..errors import Side
from ..events import Event, Observer
from ..oci import Digest
from ..settings import Options
from ..transfer.sharing import BlobSharing
from ..transfer.slots import FetchSlots
from ..values import dataclass
from .wiring import Connection, open_connection


@dataclass(frozen=True, slots=True)
class Engine:
    """The shared part of runs. `slots` limit the images and blobs in flight over all of them.

    The `observers` of all runs get the pauses of hosts. `counted` holds the blobs that dry runs have counted, since
    every blob is fetched once.
    """

    source: Connection
    slots: FetchSlots
    observers: list[Observer]
    sharing: BlobSharing = field(default_factory=BlobSharing)
    counted: set[Digest] = field(default_factory=set)


@asynccontextmanager
async def open_engine(options: Sequence[Options]) -> AsyncIterator[Engine]:
    """Open the resources of runs with these `options`, one at least, which have the same `connection`.

    The largest `concurrency` and `layer_concurrency` among them apply to all runs together.

    :raises ConfigError: if a file of certificates is invalid.
    """
    observers: list[Observer] = []

    def fan_out(event: Event) -> None:
        for observer in tuple(observers):
            observer(event)

    images = max(each.limits.concurrency for each in options)
    slots = max(each.limits.layer_concurrency for each in options)
    async with open_connection(options[0].source.origin, options[0], fan_out, side=Side.SOURCE) as source:
        yield Engine(source, FetchSlots(images, slots), observers)
