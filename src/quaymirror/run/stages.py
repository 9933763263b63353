"""The stages of a run, and the streams between them.

    list_candidates  --candidates-->  confirm x N  --images-->  work x N  -->  outcomes

Both streams are bounded, so that a listing of any length fits into memory. The first one is long: the listing runs
ahead of the checks, since only who has all of it knows how much there is to do, and for how long. A stream that is
closed is how the stage before says that it is done.
"""

from __future__ import annotations

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..discovery.hints import no_such_tag
from ..discovery.pipeline import Candidate, Image, confirm, list_candidates, list_pinned
from ..discovery.tag_cache import TagMemory
from ..errors import Failure, QuaymirrorError, SelectionEmpty, StoreError
from ..events import StopRequested
from ..selection.selection import Selection
from ..tasks import from_group
from ..transfer.target import Target
from .context import Run
from .run_history import RunMemory
from .shared import Engine
from .wiring import Services
from .workers import start_workers

# How many tags are checked at a time. The API's gate decides how many requests really are under way.
_CHECKERS = 16
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
                images = start_workers(run, engine, services, target, tasks)
                with images, discovery:
                    await _discover(run, services, memory, images)
        except BaseExceptionGroup as group:
            run.abort(_ours(group))

        watchers.cancel_scope.cancel()


async def _discover(run: Run, services: Services, memory: RunMemory, found: MemoryObjectSendStream[Image]) -> None:
    """Find the images of each selection. What breaks here ends the run, but not the images that are in flight.

    That one selection has no images does not end the others.
    """
    for selection in run.selections:
        try:
            await _find(run, selection, services, memory.tags, found)
        except SelectionEmpty as error:
            run.tally.empty = run.tally.empty or Failure.of(error)
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
        registry = run.settings.source.origin.netloc
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
    if run.settings.limits.max_duration is not None:
        await anyio.sleep(run.settings.limits.max_duration)
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
        registry=run.settings.source.origin.netloc,
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
