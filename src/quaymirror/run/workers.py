"""The workers of a run: each takes images from a stream and mirrors them, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..catalog.base import PinnedImage
from ..discovery.checks import check_again
from ..errors import Scope, StoreError
from ..events import CandidateSkipped, ImageFinished, ImageStarted, Outcome
from ..transfer.image import TransferContext
from ..transfer.single_flight import SingleFlight
from ..transfer.slots import ImageSlot
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
    """Start the workers and return the stream of images for them."""
    options = run.options
    context = TransferContext(
        source=services.source,
        target=target,
        flights=SingleFlight(tasks),
        slots=engine.slots,
        meters=run.progress.meters,
        observer=run.emit,
        sharing=engine.sharing,
        platforms=options.discovery.platforms,
        run_id=run.run_id,
        counted=engine.counted if options.target.dry_run else None,
    )
    workers = Workers(run, services, context)
    found, images = anyio.create_memory_object_stream[PinnedImage](options.limits.concurrency)
    with images:
        for _ in range(worker_count(options.limits.concurrency, target)):
            tasks.start_soon(workers.work, images.clone())

    return found


def worker_count(concurrency: int, target: Target) -> int:
    """Return the number of images in progress. With a concurrency of 1, images are mirrored one after the other."""
    return concurrency if target.capabilities.staging or concurrency == 1 else concurrency * _WAITING


@dataclass(frozen=True, slots=True)
class Workers:
    """The tasks that mirror the images of one run."""

    run: Run
    services: Services
    context: TransferContext

    async def work(self, inbox: MemoryObjectReceiveStream[PinnedImage]) -> None:
        """Mirror images as they come, taking turns with other runs. Failures of single images are outcomes."""
        run = self.run
        with inbox:
            async for image in inbox:
                # Each image has a slot of its own: a blob that it began may go on after it has failed.
                async with ImageSlot(self.context.slots) as slot:
                    if run.stop.reason is not None:
                        return

                    run.emit(ImageStarted(image.reference))
                    mirror = ImageMirror(image)
                    async for transfer in mirror.transfers(self.context, slot, self._check_again):
                        with mirror.recording(transfer):
                            await transfer.run()

                self._finish(mirror.outcome())

    async def _check_again(self, image: PinnedImage) -> PinnedImage | CandidateSkipped:
        return await check_again(image, self.run.selections, self.services.catalog)

    def _finish(self, outcome: Outcome) -> None:
        outcome = self._collapse_repeated_error(outcome)
        self.run.emit(ImageFinished(outcome))
        if outcome.error is not None and outcome.error.scope is Scope.RUN:
            self.run.abort(outcome.error.error())

    def _collapse_repeated_error(self, outcome: Outcome) -> Outcome:
        """Shorten a failure of the disk that has ended the run already: every image in flight fails with it."""
        failure = outcome.error
        is_fatal = failure is not None and failure.is_a(StoreError) and failure.scope is Scope.RUN
        if failure is None or not is_fatal or self.run.fatal is None:
            return outcome

        return replace(outcome, error=replace(failure, message="stopped with the run", scope=Scope.IMAGE))
