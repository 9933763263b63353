"""The stages of a run: discovery, and the workers that mirror what it finds, one image at a time each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..catalog.base import PinnedImage
from ..discovery.checks import check_again
from ..errors import Failure, QuaymirrorError, Scope, SelectionEmpty, Side, StoreError
from ..events import (
    HELD_MOVED,
    CandidateChecked,
    CandidateSkipped,
    ImageFinished,
    ImageQueued,
    ImagesMoved,
    ImageStarted,
    ListingFinished,
    Notice,
    Outcome,
    PageListed,
    Status,
    StopRequested,
    TagChecked,
)
from ..http.retry import before_waits
from ..oci import Digest
from ..referrers.find import ReferrerFinder
from ..selection.rename import Renames
from ..selection.source import SourceAddress
from ..shards.plan import Division
from ..tasks import from_group
from ..transfer.image import ImageTransfer, TransferContext
from ..transfer.single_flight import SingleFlight
from ..transfer.slots import ImageSlot
from ..transfer.target import Target
from ..values import dataclass
from .consistency import Relisting
from .context import Run
from .finding import by_source, find_in_sources
from .image_config import platform_of
from .mirror_image import ImageMirror
from .publication import Publication
from .referrers import RunReferrers
from .run_history import RunHistory
from .shard_blobs import ShardBlobs
from .shared import Engine
from .signatures import open_gate
from .wiring import OpenSources

if TYPE_CHECKING:
    from .cluster_blobs import BlobWorkers, ClusterBlobs

# Images in progress per fetch slot; the extra ones only wait for layers that are already being fetched.
_WAITING = 4
# Images that wait for another attempt have their place taken, unless they are so many that memory matters.
_MOST_REPLACED = 1000


def worker_count(concurrency: int, target: Target) -> int:
    """Return the number of images in progress. With a concurrency of 1, images are mirrored one after the other."""
    return concurrency if target.capabilities.staging or concurrency == 1 else concurrency * _WAITING


@dataclass(slots=True)
class _Waiting:
    """An image in progress: its slot, and whether another worker has taken its place."""

    slot: ImageSlot
    is_replaced: bool = False
    is_over: bool = False


class Stages:
    """Discovery and workers of a run whose target and history are open."""

    def __init__(
        self,
        run: Run,
        engine: Engine,
        sources: OpenSources,
        target: Target,
        history: RunHistory,
        publication: Publication | None = None,
        workers: BlobWorkers | None = None,
    ) -> None:
        self._run = run
        self._publication = publication
        self._engine = engine
        self._sources = sources
        self._target = target
        self._history = history
        self._renames = Renames(run.options.target.renames)
        self._known: dict[str, Digest | None] = {}
        self._has_other_platform = False
        self._contexts: dict[SourceAddress | None, TransferContext] = {}
        self._replaced = self._unstarted = 0
        self._blobs: ShardBlobs | None = None
        self._cluster: ClusterBlobs | None = None
        if workers is not None:
            from .cluster_blobs import ClusterBlobs  # not by runs of one machine

            self._cluster = ClusterBlobs(run, workers, target, engine.sources.limiters)

        self._referrers = RunReferrers(
            run.options.discovery, run.selections, run.emit, are_judged=run.judge is not None
        )
        self._opening = anyio.Lock()

    async def run_all(self) -> None:
        """Run discovery and workers to their end, or until the run is asked to stop.

        :raises BaseExceptionGroup: for a bug in here; every other failure is recorded in the run.
        """
        run = self._run
        relisting = Relisting(run, self._sources, self._history.tags)
        discovery = anyio.CancelScope()
        async with anyio.create_task_group() as watchers:
            watchers.start_soon(self._watch, discovery)
            try:
                if run.division is None:
                    await relisting.settle()

                async with anyio.create_task_group() as tasks:
                    with self._start_workers(tasks, watchers) as images, discovery:
                        await self._find(images)

                if run.division is None:
                    await self._follow_moves(watchers, relisting)
                await self._referrers.finish(self._target)
                if self._cluster is not None and (summary := self._cluster.summary()):
                    run.emit(Notice(summary, lasting=True))
            except QuaymirrorError as error:
                self._run.abort(error)
            except BaseExceptionGroup as group:
                failure = from_group(group)
                if failure is None:
                    raise

                self._run.abort(failure)

            watchers.cancel_scope.cancel()

    async def _follow_moves(self, watchers: TaskGroup, relisting: Relisting) -> None:
        """List again after a run that mirrored something, and mirror the images that moved, until none has."""
        run, clock = self._run, self._run.options.client.retry.clock
        deadline = clock() + run.options.publishing.settle_timeout
        while run.progress.images[Status.MIRRORED] and run.stop.reason is None and not run.options.target.dry_run:
            try:
                moved = await relisting.moved(self._known)
            except QuaymirrorError as error:
                run.emit(Notice(f"can't tell which tags moved during the run: {error.message}"))
                if run.options.publishing.at_end:
                    run.fail(error)  # the set may be a mixture

                return

            if not moved:
                return

            is_left = clock() >= deadline
            run.emit(ImagesMoved(tuple(image.reference.full_name for image in moved), is_left))
            if is_left:
                return

            feeding = anyio.CancelScope()
            watchers.start_soon(self._cancel_on_stop, feeding)
            async with anyio.create_task_group() as tasks:
                with self._start_workers(tasks, watchers) as images, feeding:
                    await self._send(moved, images)

    async def _send(self, found: Sequence[PinnedImage], images: MemoryObjectSendStream[PinnedImage]) -> None:
        for image in found:
            self._known[image.reference.full_name] = image.digest
            await images.send(image)
            self._run.emit(ImageQueued(image.reference))

    async def _find(self, images: MemoryObjectSendStream[PinnedImage]) -> None:
        if self._run.division is None:
            await self._discover(images)
        else:
            await self._send_share(self._run.division, images)

    async def _send_share(self, division: Division, images: MemoryObjectSendStream[PinnedImage]) -> None:
        """Send the images of a share to the workers; the plan has found them."""
        run, count = self._run, len(division.images)
        for place, _ in enumerate(run.selections):
            run.emit(PageListed(1, count, count) if not place else PageListed(1, 0, 0))
            run.emit(ListingFinished(1, complete=True))

        for planned in division.images:
            run.emit(CandidateChecked(planned.image.reference.repository.name, 1))
            run.emit(TagChecked(planned.image.reference))

        await self._send([planned.image for planned in division.images], images)

    async def _discover(self, images: MemoryObjectSendStream[PinnedImage]) -> None:
        """Send the images of all selections to the workers. A failure ends the run, but not the images in flight."""
        run = self._run
        history = self._history
        found = find_in_sources(
            self._sources,
            run.selections,
            run.options,
            cache=history.tags,
            observer=run.emit,
            verdicts=history.labels,
        )
        try:
            async with aclosing(found):
                async for image in found:
                    if run.draft is not None:
                        run.draft.found(image)

                    self._known[image.reference.full_name] = image.digest
                    await images.send(image)
                    run.emit(ImageQueued(image.reference))
        except SelectionEmpty as error:
            run.empty = Failure.of(error)
        except QuaymirrorError as error:
            self._end(error)

        try:
            await self._history.save_tags()
        except StoreError as error:
            run.abort(error)

    def _start_workers(self, tasks: TaskGroup, watchers: TaskGroup) -> MemoryObjectSendStream[PinnedImage]:
        """Start the workers and return the stream of images for them."""
        watchers.start_soon(self._watch_at_once, tasks.cancel_scope)
        self._contexts.clear()  # their flights end with the tasks
        options = self._run.options
        self._tasks = tasks
        self._flights: SingleFlight[Hashable] = SingleFlight(tasks)
        division = self._run.division
        if division is not None and not options.target.dry_run:
            most = self._engine.slots.blobs
            self._blobs = ShardBlobs(self._run, division, self._target, self._flights, self._context, most)
            tasks.start_soon(self._blobs.bring_all)

        found, images = anyio.create_memory_object_stream[PinnedImage](options.limits.concurrency)
        with images:
            self._unstarted = worker_count(options.limits.concurrency, self._target)
            self._start_worker(images)

        return found

    def _start_worker(self, inbox: MemoryObjectReceiveStream[PinnedImage]) -> None:
        """Start another worker, unless all are: each is started when the one before it has got an image."""
        if self._unstarted:
            self._unstarted -= 1
            self._tasks.start_soon(self._work, inbox.clone())

    async def _work(self, inbox: MemoryObjectReceiveStream[PinnedImage]) -> None:
        """Mirror images as they come, taking turns with other runs. Failures of single images are outcomes."""
        run = self._run
        with inbox:
            async for image in inbox:
                self._start_worker(inbox)
                context = await self._context(image.source)
                # Each image has a slot of its own: a blob that it began may go on after it has failed.
                async with ImageSlot(context.slots) as slot:
                    if run.stop.reason is not None:
                        return

                    judged = await self._judge(image)
                    if judged is not None:
                        self._finish(judged)
                        continue

                    run.emit(ImageStarted(image.reference))
                    mirror = ImageMirror(image)
                    waiting = _Waiting(slot)
                    with before_waits(partial(self._give_way, waiting, inbox)):
                        async for transfer in mirror.transfers(context, slot, self._check_again):
                            with mirror.recording(transfer):
                                await transfer.run()
                                mirror.remark = await self._platform_remark(transfer)
                                self._draft(transfer)

                self._finish(await self._noted(mirror.outcome()), mirror.mirrored)
                if waiting.is_replaced:
                    waiting.is_over = True
                    self._replaced -= 1
                    return

                waiting.is_over = True

    def _give_way(self, image: _Waiting, inbox: MemoryObjectReceiveStream[PinnedImage]) -> None:
        """Let another image begin while this one waits for another attempt: healthy images wait for none that fails."""
        image.slot.release()
        if not image.is_over and not image.is_replaced and self._replaced < _MOST_REPLACED:
            image.is_replaced = True
            self._replaced += 1
            self._tasks.start_soon(self._work, inbox.clone())

    async def _context(self, source: SourceAddress | None) -> TransferContext:
        """Return the context of all transfers from `source`, which discovery has opened."""
        async with self._opening:
            if source not in self._contexts:
                run, engine, options = self._run, self._engine, self._run.options
                services = await self._sources.open(source)
                context = TransferContext(
                    source=services.source,
                    target=self._target,
                    flights=self._flights,
                    slots=engine.slots,
                    meters=run.progress.meters,
                    observer=run.emit,
                    sharing=engine.sharing,
                    platforms=options.discovery.platforms,
                    renames=self._renames,
                    run_id=run.run_id,
                    counted=engine.counted if options.target.dry_run else None,
                    elsewhere=self._cluster.of_source(source, self._flights) if self._cluster else self._blobs,
                )
                finder = ReferrerFinder(services.source, services.catalog)
                referrers = await self._referrers.of(finder, context)
                gate = open_gate(run, services, self._target, engine.sources, finder)
                self._contexts[source] = replace(context, referrers=referrers, gate=gate)

        return self._contexts[source]

    async def _judge(self, image: PinnedImage) -> Outcome | None:
        """Return the outcome of an image that must not be mirrored, None for all others."""
        if self._publication is None:
            return None

        try:
            return await self._publication.judge(image.reference)
        except QuaymirrorError as error:
            return Outcome(image.reference, Status.FAILED, error=Failure.of(error))

    async def _noted(self, outcome: Outcome) -> Outcome:
        if self._publication is None or self._run.options.target.dry_run:
            return outcome

        try:
            return await self._publication.note(outcome)
        except StoreError:
            return outcome  # the image is committed; the next call that needs the disk reports it

    async def _platform_remark(self, transfer: ImageTransfer) -> str | None:
        """Return a remark about a new single-arch image that is for none of the wanted platforms; the first is shown.

        The config is read again for that, since it is small, and only if platforms are wanted.
        """
        wanted, plan, image = self._run.options.discovery.platforms, transfer.plan, transfer.image
        if not wanted or plan is None or self._target.capabilities.staging:
            return None

        source = (await self._sources.open(image.source)).source
        found = await platform_of(image, plan.graph.root, source)
        if found is None or any(found.matches(platform) for platform in wanted):
            return None

        names = ", ".join(map(str, wanted))
        if not self._has_other_platform:
            self._has_other_platform = True
            self._run.emit(Notice(f"{image.reference.name} is for {found} only, not for {names}: mirrored as it is"))

        return f"for {found} only, not for {names}"

    def _draft(self, transfer: ImageTransfer) -> None:
        if self._run.draft is not None:
            self._run.draft.read(transfer.image, None if transfer.plan is None else transfer.plan.blobs)

    async def _check_again(self, image: PinnedImage) -> PinnedImage | CandidateSkipped:
        services = await self._sources.open(image.source)
        return await check_again(image, self._run.selections, services.catalog)

    def _finish(self, outcome: Outcome, mirrored: Digest | None = None) -> None:
        """Report an outcome; `mirrored` is the digest that its tag had, if it is not that of the outcome."""
        run, outcome = self._run, self._collapse_repeated_error(outcome)
        run.emit(ImageFinished(outcome))
        if outcome.status in (Status.MIRRORED, Status.UNCHANGED) and outcome.reason != HELD_MOVED:
            self._known[outcome.reference.full_name] = mirrored or outcome.reference.digest

        for failure in (outcome.error, *outcome.referrer_failures):
            if failure is not None and failure.scope is Scope.RUN:
                self._end(failure.error())

    def _end(self, error: QuaymirrorError) -> None:
        """End the run because of `error`; if that is one of several sources, the images of the others go on."""
        if error.side is Side.SOURCE and len(by_source(self._run.selections)) > 1:
            self._run.fail(error)
        else:
            self._run.abort(error)

    def _collapse_repeated_error(self, outcome: Outcome) -> Outcome:
        """Shorten a failure of the disk that has ended the run already: every image in flight fails with it."""
        failure = outcome.error
        is_fatal = failure is not None and failure.is_a(StoreError) and failure.scope is Scope.RUN
        if failure is None or not is_fatal or self._run.fatal is None:
            return outcome

        return replace(outcome, error=replace(failure, message="stopped with the run", scope=Scope.IMAGE))

    async def _watch(self, discovery: anyio.CancelScope) -> None:
        stop = self._run.stop
        await stop.wait()
        self._run.emit(StopRequested(stop.reason or "", stop.exit_code is not None))
        discovery.cancel()

    async def _cancel_on_stop(self, feeding: anyio.CancelScope) -> None:
        await self._run.stop.wait()
        feeding.cancel()

    async def _watch_at_once(self, everything: anyio.CancelScope) -> None:
        await self._run.stop.wait_at_once()
        everything.cancel()
