"""The stages of a run, and the streams between them.

    list_candidates  --candidates-->  confirm x N  --images-->  work x N  -->  outcomes

Both streams are bounded, so that a listing of any length fits into memory. The first one is long: the listing runs
ahead of the checks, since only who has all of it knows how much there is to do, and for how long. A stream that is
closed is how the stage before says that it is done.
"""

from __future__ import annotations

from dataclasses import replace

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..discovery.hints import no_such_tag
from ..discovery.pipeline import Candidate, Image, check, confirm, list_candidates, list_pinned
from ..discovery.tag_cache import TagMemory
from ..errors import QuaymirrorError, Scope, SelectionEmpty, StoreError
from ..events import CandidateSkipped, ImageStarted, Outcome, StopRequested
from ..oci import Reference
from ..selection.selection import Selection
from ..tasks import from_group
from ..transfer.image import Transfers
from ..transfer.single_flight import SingleFlight
from ..transfer.target import Target
from .context import Run
from .mirror_image import ImageMirror
from .run_history import RunMemory
from .shared import Engine
from .wiring import Services

# How many tags are checked at a time. The API's gate decides how many requests really are under way.
_CHECKERS = 16
# For each image that is fetched so many at most are under way: the others wait for layers that are on their way.
_WAITING = 4
# So many repositories of the listing may wait to be checked: all of most organizations, in a few megabytes.
_LISTED = 10_000


async def run_stages(run: Run, engine: Engine, target: Target, memory: RunMemory) -> None:
    """Run all stages to their end, or to where somebody asks to stop.

    :raises BaseExceptionGroup: when there is a bug in here; everything else ends up in the tally.
    """
    services = engine.services(run.settings, run.observer)
    discovery = anyio.CancelScope()
    async with anyio.create_task_group() as watchers:
        watchers.start_soon(_watch, run, discovery)
        watchers.start_soon(_watch_clock, run)
        try:
            async with anyio.create_task_group() as tasks:
                watchers.start_soon(_watch_at_once, run, tasks.cancel_scope)
                images = _start_workers(run, engine, services, target, tasks)
                with images, discovery:
                    await _discover(run, services, memory, images)
        except BaseExceptionGroup as group:
            run.abort(_ours(group))

        watchers.cancel_scope.cancel()


def _start_workers(
    run: Run, engine: Engine, services: Services, target: Target, tasks: TaskGroup
) -> MemoryObjectSendStream[Image]:
    """Start the workers; return the stream that they live from."""

    async def look_again(reference: Reference) -> Image | CandidateSkipped:
        if any(selection.pinned for selection in run.selections):
            return Image(reference)  # exactly that one was asked for

        selection = Selection(reference.repository.name.partition("/")[0], tag=reference.tag or "")
        found = await check(
            Candidate(reference.repository),
            api=services.api,
            lookup=services.lookup(selection),
            selection=selection,
        )
        return found if isinstance(found, CandidateSkipped) else found[0]

    transfers = Transfers(
        source=services.source,
        target=target,
        flights=SingleFlight(tasks),
        slots=engine.slots,
        pool=engine.pool,
        meters=run.meters,
        observer=run.observer,
        platforms=run.settings.platforms,
        run_id=run.run_id,
    )
    bringer = ImageMirror(transfers, look_again, run.settings.dry_run, engine.counted)
    found, images = anyio.create_memory_object_stream[Image](run.settings.concurrency)
    with images:
        for _ in range(_workers(run.settings.concurrency, target)):
            tasks.start_soon(_work, run, images.clone(), bringer, engine.images)

    return found


def _workers(concurrency: int, target: Target) -> int:
    """Return how many images may be under way. Who wants one at a time gets one at a time."""
    return concurrency * _WAITING if target.is_final and concurrency > 1 else concurrency


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


async def _discover(run: Run, services: Services, memory: RunMemory, found: MemoryObjectSendStream[Image]) -> None:
    """Find the images of each selection. What breaks here ends the run, but not the images that are in flight.

    That one selection has no images does not end the others.
    """
    for selection in run.selections:
        try:
            await _find(run, selection, services, memory.tags, found)
        except SelectionEmpty as error:
            run.tally.empty = run.tally.empty or error
        except QuaymirrorError as error:
            run.abort(error)

    try:
        await memory.keep_tags()
    except StoreError as error:
        run.abort(error)


async def _find(
    run: Run, selection: Selection, services: Services, memory: TagMemory, found: MemoryObjectSendStream[Image]
) -> None:
    if selection.pinned:
        registry = run.settings.origin.netloc
        await list_pinned(found.clone(), registry=registry, selection=selection, observer=run.observer)
        return

    tally = run.tally
    tally.missed.clear()
    before = tally.found + len(tally.failed_checks)
    listed, candidates = anyio.create_memory_object_stream[Candidate](_LISTED)
    try:
        async with anyio.create_task_group() as stages:
            with candidates:
                for _ in range(_CHECKERS):
                    stages.start_soon(_confirm, run, selection, services, memory, candidates.clone(), found.clone())

            stages.start_soon(_list, run, selection, services, listed)
    except BaseExceptionGroup as group:
        raise _ours(group) from None

    if tally.missed and tally.found + len(tally.failed_checks) == before:
        raise await no_such_tag(services.api, tally.missed, selection)


async def _watch(run: Run, discovery: anyio.CancelScope) -> None:
    await run.stop.wait()
    run.observer(StopRequested(run.stop.reason or ""))
    discovery.cancel()


async def _watch_clock(run: Run) -> None:
    if run.settings.max_duration is not None:
        await anyio.sleep(run.settings.max_duration)
        run.stop.request("the time it may take is up")


async def _watch_at_once(run: Run, everything: anyio.CancelScope) -> None:
    await run.stop.wait_at_once()
    everything.cancel()


def _ours(group: BaseExceptionGroup[BaseException]) -> QuaymirrorError:
    error = from_group(group)
    if error is None:
        raise group

    return error


async def _list(run: Run, selection: Selection, services: Services, outbox: MemoryObjectSendStream[Candidate]) -> None:
    await list_candidates(
        outbox,
        api=services.api,
        registry=run.settings.origin.netloc,
        selection=selection,
        observer=run.observer,
    )


async def _confirm(
    run: Run,
    selection: Selection,
    services: Services,
    memory: TagMemory,
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
) -> None:
    await confirm(
        inbox,
        outbox,
        api=services.api,
        lookup=services.lookup(selection),
        selection=selection,
        memory=memory,
        observer=run.observer,
        is_new=run.take,
    )


async def _work(
    run: Run, inbox: MemoryObjectReceiveStream[Image], bringer: ImageMirror, places: anyio.CapacityLimiter
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

                run.observer(ImageStarted(image.reference))
                outcome = _collapse_repeated_error(run, await bringer.outcome(image.reference, place.leave))

            run.finish(outcome)
            if outcome.error is not None and outcome.error.scope is Scope.RUN:
                run.abort(outcome.error)


def _collapse_repeated_error(run: Run, outcome: Outcome) -> Outcome:
    """A disk that is full fails every image in flight: the first one says why, the others that they ended with it."""
    error = outcome.error
    if not isinstance(error, StoreError) or error.scope is not Scope.RUN or run.tally.fatal is None:
        return outcome

    return replace(outcome, error=StoreError("stopped with the run", scope=Scope.IMAGE, phase=error.phase))
