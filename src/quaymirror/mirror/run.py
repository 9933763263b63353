"""One run: the stages, the streams between them, and when to stop.

    list_candidates  --candidates-->  confirm x N  --images-->  work x N  -->  outcomes

Both streams are bounded, so that a listing of any length is in memory a page at a time. A stream that is closed is how
the stage before says that it is done.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import PlatformNotFound, QuaymirrorError, Scope, StoreError
from ..events import (
    CandidateSkipped,
    Event,
    ImageDerived,
    ImageFinished,
    ImageStarted,
    ListingFinished,
    Meters,
    Observer,
    Outcome,
    PageListed,
    RunFinished,
    RunStarted,
    Status,
    StopRequested,
    TagChecked,
    ignore,
)
from ..oci import Digest
from ..quay.check import Candidate, Image, refuse_impossible
from ..quay.discovery import confirm, list_candidates
from ..quay.selection import Selection
from ..transfer.flight import SingleFlight
from ..transfer.image import ImagePlan, Transfers, mirror_image, plan_image, platforms_key
from ..transfer.target import Target
from ..transfer.together import foremost
from .report import Report, graver
from .services import Services, connect
from .settings import Settings
from .target import LayoutTarget, TargetSpec, open_target, parse_target, wanted_platforms

# How many tags are checked at a time. The API's gate decides how many requests really are under way.
_CHECKERS = 16
# A page of the listing waits here while the next one is on its way.
_PAGE = 100


class Stop:
    """How a run is asked from outside to end early. Either way, what was complete is there to stay."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._asked = anyio.Event()
        self._at_once = anyio.Event()

    def request(self, reason: str) -> None:
        """Ask to begin nothing new and to finish what is in flight; `reason` is for people, the first one counts."""
        if self.reason is None:
            self.reason = reason
            self._asked.set()

    def at_once(self, reason: str) -> None:
        """Ask to drop what is in flight, too: the next run resumes it."""
        self.request(reason)
        self._at_once.set()

    async def wait(self) -> None:
        """Wait until somebody asks."""
        await self._asked.wait()

    async def wait_at_once(self) -> None:
        """Wait until somebody can't wait."""
        await self._at_once.wait()


@dataclass(slots=True)
class _Tally:
    """What the report will say, gathered from the events as they pass."""

    outcomes: list[Outcome] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    repositories: int = 0
    matched: int = 0
    listed: bool = False
    found: int = 0
    would_fetch: set[Digest] = field(default_factory=set)
    """For a dry run: what it has counted already, as every blob is fetched once."""
    fatal: QuaymirrorError | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case PageListed():
                self.repositories += event.repositories
                self.matched += event.matched
            case ListingFinished():
                self.listed = event.complete
            case CandidateSkipped():
                self.skipped[event.reason] += 1
            case TagChecked():
                self.found += 1
            case ImageDerived():
                self.findings[event.reference.full_name] = event.findings
            case ImageFinished():
                self.outcomes.append(event.outcome)
            case _:
                pass


@dataclass(slots=True)
class _Run:
    """What the tasks of one run share."""

    selection: Selection
    settings: Settings
    observer: Observer
    tally: _Tally
    meters: Meters
    stop: Stop
    run_id: str

    def doom(self, error: QuaymirrorError) -> None:
        """Note what makes going on pointless, and begin nothing new. The gravest such error is the one to tell."""
        self.tally.fatal = graver(self.tally.fatal, error)
        self.stop.request(error.message)

    def finish(self, outcome: Outcome) -> None:
        """An image has its outcome."""
        self.meters.reused_bytes += outcome.bytes_reused
        self.observer(ImageFinished(outcome))


async def run_sync(
    selection: Selection,
    target: str | Path,
    settings: Settings,
    *,
    observer: Observer = ignore,
    meters: Meters | None = None,
    stop: Stop | None = None,
) -> Report:
    """Mirror `selection` to `target`, which is a path or what `--to` takes, and report on it.

    What goes wrong during the run is in the report. If the caller is cancelled, what was complete is there to stay.

    :raises ConfigError: when `target` can't be what images land in, before any request.
    :raises LockHeld: when another run is at work there.
    :raises StoreError: when it can't be opened.
    """
    refuse_impossible(settings.discovery, selection)
    spec = LayoutTarget(target) if isinstance(target, Path) else parse_target(target, selection, settings)
    settings = replace(settings, platforms=wanted_platforms(spec, settings))
    started, clock = time.time(), time.monotonic()
    tally = _Tally()

    def tell(event: Event) -> None:
        tally(event)
        observer(event)

    run = _Run(selection, settings, tell, tally, meters or Meters(), stop or Stop(), secrets.token_hex(4))
    is_open = False
    try:
        async with open_target(spec, settings, tell) as opened:
            is_open = True
            tell(_started(run, spec, started))
            async with connect(settings, tell) as services:
                await _run_stages(run, services, opened)
    except StoreError as error:
        if not is_open:
            raise

        # The last words could not be written: what is committed is safe, the next run writes them first thing.
        run.doom(error)

    report = _report(run, spec, started, time.monotonic() - clock)
    tell(RunFinished(report.elapsed, int(report.exit_code)))
    return report


async def _run_stages(run: _Run, services: Services, target: Target) -> None:
    """Run all stages to their end, or to where somebody asks to stop.

    :raises BaseExceptionGroup: when there is a bug in here; everything else ends up in the tally.
    """
    discovery = anyio.CancelScope()
    async with anyio.create_task_group() as watchers:
        watchers.start_soon(_watch, run, discovery)
        try:
            async with anyio.create_task_group() as tasks:
                watchers.start_soon(_watch_at_once, run, tasks.cancel_scope)
                await _stages(run, services, target, tasks, discovery)
        except BaseExceptionGroup as group:
            run.doom(_ours(group))

        watchers.cancel_scope.cancel()


async def _stages(
    run: _Run, services: Services, target: Target, tasks: TaskGroup, discovery: anyio.CancelScope
) -> None:
    transfers = Transfers(
        source=services.source,
        target=target,
        flights=SingleFlight(tasks),
        slots=anyio.CapacityLimiter(run.settings.layer_concurrency),
        meters=run.meters,
        observer=run.observer,
        platforms=run.settings.platforms,
        run_id=run.run_id,
    )
    found, images = anyio.create_memory_object_stream[Image](run.settings.concurrency)
    with images:
        for _ in range(run.settings.concurrency):
            tasks.start_soon(_work, run, images.clone(), transfers)

    with found, discovery:
        await _discover(run, services, found)


async def _discover(run: _Run, services: Services, found: MemoryObjectSendStream[Image]) -> None:
    """List and confirm. What breaks here ends the run, but not the images that are in flight."""
    listed, candidates = anyio.create_memory_object_stream[Candidate](_PAGE)
    try:
        async with anyio.create_task_group() as stages:
            with candidates:
                for _ in range(_CHECKERS):
                    stages.start_soon(_confirm, run, services, candidates.clone(), found.clone())

            stages.start_soon(_list, run, services, listed)
    except BaseExceptionGroup as group:
        run.doom(_ours(group))


async def _watch(run: _Run, discovery: anyio.CancelScope) -> None:
    await run.stop.wait()
    run.observer(StopRequested(run.stop.reason or ""))
    discovery.cancel()


async def _watch_at_once(run: _Run, everything: anyio.CancelScope) -> None:
    await run.stop.wait_at_once()
    everything.cancel()


def _ours(group: BaseExceptionGroup[BaseException]) -> QuaymirrorError:
    error = foremost(group)
    if error is None:
        raise group

    return error


async def _list(run: _Run, services: Services, outbox: MemoryObjectSendStream[Candidate]) -> None:
    await list_candidates(
        outbox,
        api=services.api,
        registry=run.settings.origin.netloc,
        selection=run.selection,
        observer=run.observer,
    )


async def _confirm(
    run: _Run,
    services: Services,
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
) -> None:
    await confirm(
        inbox,
        outbox,
        checker=services.checker(run.selection),
        selection=run.selection,
        observer=run.observer,
        failed=run.finish,
    )


async def _work(run: _Run, inbox: MemoryObjectReceiveStream[Image], transfers: Transfers) -> None:
    """Take images as they come and bring each to its outcome. A worker never raises for one image."""
    with inbox:
        async for image in inbox:
            if run.stop.reason is not None:
                return

            outcome = await _outcome(run, image, transfers)
            run.finish(outcome)
            if outcome.error is not None and outcome.error.scope is Scope.RUN:
                run.doom(outcome.error)


async def _outcome(run: _Run, image: Image, transfers: Transfers) -> Outcome:
    reference, began = image.reference, time.monotonic()
    run.observer(ImageStarted(reference))
    try:
        if await transfers.target.holds(reference, platforms_key(transfers.platforms)):
            return Outcome(reference, Status.UNCHANGED, elapsed=time.monotonic() - began)

        if run.settings.dry_run:
            plan = await plan_image(reference, transfers)
            fetched = _would_fetch(plan, run.tally.would_fetch)
        else:
            plan, progress = await mirror_image(reference, transfers)
            fetched = progress.bytes
    except PlatformNotFound as error:
        return Outcome(reference, Status.SKIPPED, reason=error.message, elapsed=time.monotonic() - began)
    except QuaymirrorError as error:
        return Outcome(reference, Status.FAILED, error=error, elapsed=time.monotonic() - began)

    reused = plan.total_bytes - fetched
    return Outcome(reference, Status.MIRRORED, fetched, reused, time.monotonic() - began)


def _would_fetch(plan: ImagePlan, counted: set[Digest]) -> int:
    new = [node for node in plan.missing if node.digest not in counted]
    counted.update(node.digest for node in new)
    return sum(node.size for node in new)


def _started(run: _Run, target: TargetSpec, started: float) -> RunStarted:
    selection = run.selection
    return RunStarted(
        run_id=run.run_id,
        server=run.settings.origin.netloc,
        organization=selection.organization,
        glob=selection.glob,
        tag=selection.tag,
        target=str(target),
        started=started,
        dry_run=run.settings.dry_run,
    )


def _report(run: _Run, target: TargetSpec, started: float, elapsed: float) -> Report:
    tally = run.tally
    images = [outcome for outcome in tally.outcomes if outcome.status is not Status.FAILED or outcome.reference.digest]
    return Report(
        run_id=run.run_id,
        selection=run.selection,
        server=str(run.settings.origin),
        target=str(target),
        started=started,
        elapsed=elapsed,
        outcomes=tally.outcomes,
        repositories=tally.repositories,
        matched=tally.matched,
        skipped=tally.skipped,
        findings=tally.findings,
        bytes_fetched=sum(o.bytes_fetched for o in images) if run.settings.dry_run else run.meters.fetched_bytes,
        complete=tally.listed and run.stop.reason is None and len(images) >= tally.found,
        fatal=tally.fatal,
        stopped=run.stop.reason if tally.fatal is None else None,
        dry_run=run.settings.dry_run,
        allow_empty=run.settings.allow_empty,
    )
