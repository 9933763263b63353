"""The workers of a run: each takes images from a stream and mirrors them, one at a time."""

from __future__ import annotations

from dataclasses import replace

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..catalog.base import PinnedImage
from ..discovery.checks import check_again
from ..errors import Scope, StoreError
from ..events import CandidateSkipped, ImageFinished, ImageStarted, Outcome
from ..oci import Reference
from ..transfer.image import Transfers
from ..transfer.single_flight import SingleFlight
from ..transfer.target import Target
from .context import Run
from .mirror_image import ImageMirror
from .shared import Engine
from .wiring import Services

# Images in progress per fetch slot; the extra ones only wait for layers that are already being fetched.
_WAITING = 4


def start_workers(
    run: Run, engine: Engine, services: Services, target: Target, tasks: TaskGroup
) -> MemoryObjectSendStream[PinnedImage]:
    """Start the workers; return the stream that they live from."""

    async def look_again(reference: Reference) -> PinnedImage | CandidateSkipped:
        return await check_again(PinnedImage(reference), run.selections, services.catalog)

    transfers = Transfers(
        source=services.source,
        target=target,
        flights=SingleFlight(tasks),
        slots=engine.slots,
        pool=engine.pool,
        meters=run.progress.meters,
        observer=run.emit,
        platforms=run.settings.discovery.platforms,
        run_id=run.run_id,
    )
    bringer = ImageMirror(transfers, look_again, run.settings.target.dry_run, engine.counted)
    found, images = anyio.create_memory_object_stream[PinnedImage](run.settings.limits.concurrency)
    with images:
        for _ in range(_workers(run.settings.limits.concurrency, target)):
            tasks.start_soon(_work, run, images.clone(), bringer, engine.images)

    return found


def _workers(concurrency: int, target: Target) -> int:
    """Return how many images may be under way. Who wants one at a time gets one at a time."""
    return concurrency if target.capabilities.staging or concurrency == 1 else concurrency * _WAITING


class _Place:
    """An image's place among those who fetch, of all runs: given back as soon as it has nothing left to begin.

    Images share most of their layers: else all places would be taken by those that wait for the same few, or for the
    last layer of each, while nobody fetches what else there is.
    """

    def __init__(self, places: anyio.CapacityLimiter) -> None:
        self._places = places
        self._is_taken = False

    async def __aenter__(self) -> None:
        await self._places.acquire_on_behalf_of(self)
        self._is_taken = True

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let somebody else have the place, if it was not left already."""
        if self._is_taken:
            self._is_taken = False
            self._places.release_on_behalf_of(self)


async def _work(
    run: Run, inbox: MemoryObjectReceiveStream[PinnedImage], bringer: ImageMirror, places: anyio.CapacityLimiter
) -> None:
    """Take images as they come and bring each to its outcome, in turn with other runs.

    A worker never raises for one image.
    """
    with inbox:
        async for image in inbox:
            place = _Place(places)  # its own: what was begun for an image that failed may go on, and leave late
            async with place:
                if run.stop.reason is not None:
                    return

                run.emit(ImageStarted(image.reference))
                outcome = _collapse_repeated_error(run, await bringer.outcome(image.reference, place.leave))

            run.emit(ImageFinished(outcome))
            if outcome.error is not None and outcome.error.scope is Scope.RUN:
                run.abort(outcome.error.error())


def _collapse_repeated_error(run: Run, outcome: Outcome) -> Outcome:
    """A disk that is full fails every image in flight: the first one says why, the others that they ended with it."""
    failure = outcome.error
    if failure is None or not failure.is_a(StoreError) or failure.scope is not Scope.RUN or run.fatal is None:
        return outcome

    return replace(outcome, error=replace(failure, message="stopped with the run", scope=Scope.IMAGE))
