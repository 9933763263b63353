"""Resources shared by concurrent runs: connections, limiters, slots, and blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field

from ..events import Event, Observer
from ..oci import Digest
from ..settings import Options
from ..transfer.sharing import BlobSharing
from ..transfer.slots import FetchSlots
from ..values import dataclass
from .wiring import SourceConnections


@dataclass(frozen=True, slots=True)
class Engine:
    """The shared part of runs. `slots` limit the images and blobs in flight over all of them.

    The `observers` of all runs get the pauses of hosts. `counted` holds the blobs that dry runs have counted, since
    every blob is fetched once.
    """

    sources: SourceConnections
    slots: FetchSlots
    observers: list[Observer]
    sharing: BlobSharing = field(default_factory=BlobSharing)
    counted: set[Digest] = field(default_factory=set)


@asynccontextmanager
async def open_engine(options: Sequence[Options]) -> AsyncIterator[Engine]:
    """Open the resources of runs with these `options`, one at least, which have the same `connection`.

    The largest `concurrency` and `layer_concurrency` among them apply to all runs together.

    :raises ConfigError: if the file of certificates is invalid.
    """
    observers: list[Observer] = []

    def fan_out(event: Event) -> None:
        for observer in tuple(observers):
            observer(event)

    images = max(each.limits.concurrency for each in options)
    slots = max(each.limits.layer_concurrency for each in options)
    async with AsyncExitStack() as stack:
        sources = SourceConnections(options[0], fan_out, stack)
        if options[0].client.cafile is not None:
            # Before any run begins. Otherwise a connection is opened when a source needs it: that takes 50 ms.
            await sources.get(options[0].source.origin)

        yield Engine(sources, FetchSlots(images, slots), observers)
