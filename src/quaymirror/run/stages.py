"""The stages of a run: discovery, and the workers that mirror what it finds."""

from __future__ import annotations

from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ..catalog.base import PinnedImage
from ..discovery.discover import discover
from ..errors import Failure, QuaymirrorError, SelectionEmpty, StoreError
from ..events import ImageQueued, StopRequested
from ..tasks import from_group
from ..transfer.target import Target
from .context import Run
from .run_history import RunHistory
from .shared import Engine
from .wiring import Services
from .workers import start_workers


async def run_stages(run: Run, engine: Engine, target: Target, history: RunHistory) -> None:
    """Run discovery and workers to their end, or until the run is asked to stop.

    :raises BaseExceptionGroup: for a bug in here; every other failure is recorded in the run.
    """
    services, discovery = engine.source.services(run.options, run.emit), anyio.CancelScope()
    async with anyio.create_task_group() as watchers:
        watchers.start_soon(_watch, run, discovery)
        watchers.start_soon(_watch_clock, run)
        try:
            async with anyio.create_task_group() as tasks:
                watchers.start_soon(_watch_at_once, run, tasks.cancel_scope)
                images = start_workers(run, engine, services, target, tasks)
                with images, discovery:
                    await _discover(run, services, history, images)
        except BaseExceptionGroup as group:
            error = from_group(group)
            if error is None:
                raise

            run.abort(error)

        watchers.cancel_scope.cancel()


async def _discover(
    run: Run, services: Services, history: RunHistory, images: MemoryObjectSendStream[PinnedImage]
) -> None:
    """Send the images of all selections to the workers. A failure ends the run, but not the images in flight."""
    registry = run.options.source.origin.netloc
    found = discover(run.selections, services.catalog, registry, cache=history.tags, observer=run.emit)
    try:
        async with aclosing(found):
            async for image in found:
                await images.send(image)
                run.emit(ImageQueued(image.reference))
    except SelectionEmpty as error:
        run.empty = Failure.of(error)
    except QuaymirrorError as error:
        run.abort(error)

    try:
        await history.save_tags()
    except StoreError as error:
        run.abort(error)


async def _watch(run: Run, discovery: anyio.CancelScope) -> None:
    await run.stop.wait()
    run.emit(StopRequested(run.stop.reason or ""))
    discovery.cancel()


async def _watch_clock(run: Run) -> None:
    if run.options.limits.max_duration is not None:
        await anyio.sleep(run.options.limits.max_duration)
        run.stop.request("the time limit was reached")


async def _watch_at_once(run: Run, everything: anyio.CancelScope) -> None:
    await run.stop.wait_at_once()
    everything.cancel()
