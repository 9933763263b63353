"""One run: the stages, the streams between them, and when to stop.

    list_candidates  --candidates-->  confirm x N  --images-->  work x N  -->  outcomes

Both streams are bounded, so that a listing of any length is in memory a page at a time. A stream that is closed is how
the stage before says that it is done.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import DiscoveryIncomplete, LockHeld, QuaymirrorError, Scope, StoreError
from ..events import (
    CandidateSkipped,
    Event,
    ImageDerived,
    ImageFinished,
    ImageStarted,
    ListingFinished,
    Meters,
    Notice,
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
from ..oci import Reference
from ..quay.discovery import Candidate, Image, check, confirm, list_candidates
from ..quay.memory import TagMemory
from ..quay.selection import Selection
from ..store.layout import OCILayout
from ..transfer.flight import SingleFlight
from ..transfer.image import Transfers
from ..transfer.target import Target
from ..transfer.together import foremost
from . import pruning
from .bring import Bringer
from .changes import check_expected, compare
from .memory import RunMemory, open_memory
from .report import Report, graver
from .services import Services, connect
from .settings import Settings
from .target import LayoutTarget, TargetSpec, home_of, open_target, parse_target, wanted_platforms

# How many tags are checked at a time. The API's gate decides how many requests really are under way.
_CHECKERS = 16
# A page of the listing waits here while the next one is on its way.
_PAGE = 100
# How often to look whether another run has ended.
_LOCK_SECONDS = 0.5


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
    started: float
    waits: bool = False

    def doom(self, error: QuaymirrorError) -> None:
        """Note what makes going on pointless, and begin nothing new. The gravest such error is the one to tell."""
        self.tally.fatal = graver(self.tally.fatal, error)
        self.stop.request(error.message)

    async def wait_for_lock(self, held: LockHeld) -> None:
        """Be patient while another run is at work, until somebody asks to stop.

        :raises LockHeld: when nobody wants to wait.
        """
        if not self.settings.wait or self.stop.reason is not None:
            raise held

        if not self.waits:
            self.waits = True
            self.observer(Notice(f"{held.message}: waiting for it to end"))

        with anyio.move_on_after(_LOCK_SECONDS):
            await self.stop.wait()

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
    spec = LayoutTarget(target) if isinstance(target, Path) else parse_target(target, selection, settings)
    pruning.check(selection, settings, is_layout=isinstance(spec, LayoutTarget))
    settings = replace(settings, platforms=wanted_platforms(spec, settings))
    clock, tally = time.monotonic(), _Tally()

    def tell(event: Event) -> None:
        tally(event)
        observer(event)

    run = _Run(selection, settings, tell, tally, meters or Meters(), stop or Stop(), secrets.token_hex(4), time.time())
    async with AsyncExitStack() as stack:
        memory = await _mirror(run, spec, stack)
        report = _report(run, spec, memory, time.monotonic() - clock)
        if memory is not None:
            await memory.record(report)

    tell(RunFinished(report.elapsed, int(report.exit_code)))
    return report


async def _mirror(run: _Run, spec: TargetSpec, stack: AsyncExitStack) -> RunMemory | None:
    """Do it all, and return the memory, which stays open as long as `stack`; None if nobody wanted to wait for it."""
    settings, tell = run.settings, run.observer
    memory: RunMemory | None = None
    try:
        async with open_target(spec, settings, tell, patience=run.wait_for_lock) as target:
            home = home_of(spec, settings)
            memory = await stack.enter_async_context(open_memory(home, run.selection, settings, tell))
            tell(_started(run, spec))
            async with connect(settings, tell, namespace=run.selection.organization) as services:
                await _run_stages(run, services, target, memory)

            await memory.keep_tags()
            await _settle(run, spec, target, memory)
    except LockHeld:
        if run.stop.reason is None:
            raise
    except StoreError as error:
        if memory is None:
            raise

        # The last words could not be written: what is committed is safe, the next run writes them first thing.
        run.doom(error)

    return memory


async def _settle(run: _Run, spec: TargetSpec, target: Target, memory: RunMemory) -> None:
    """Remember what was not found any more, and prune it if that is wanted and if this run can be believed."""
    if not isinstance(target, OCILayout) or run.settings.dry_run:
        return

    report = _report(run, spec, memory, 0.0)
    found = pruning.seen(report.outcomes) if report.complete and report.fatal is None else None
    try:
        await pruning.settle(target, run.selection, run.settings, run.observer, found=found)
    except LockHeld as error:
        run.observer(Notice(f"nothing is pruned: {error.message}"))
    except QuaymirrorError as error:
        run.tally.fatal = graver(run.tally.fatal, error)


async def _run_stages(run: _Run, services: Services, target: Target, memory: RunMemory) -> None:
    """Run all stages to their end, or to where somebody asks to stop.

    :raises BaseExceptionGroup: when there is a bug in here; everything else ends up in the tally.
    """
    discovery = anyio.CancelScope()
    async with anyio.create_task_group() as watchers:
        watchers.start_soon(_watch, run, discovery)
        watchers.start_soon(_watch_clock, run)
        try:
            async with anyio.create_task_group() as tasks:
                watchers.start_soon(_watch_at_once, run, tasks.cancel_scope)
                images = _start_workers(run, services, target, tasks)
                with images, discovery:
                    await _discover(run, services, memory, images)
        except BaseExceptionGroup as group:
            run.doom(_ours(group))

        watchers.cancel_scope.cancel()


def _start_workers(run: _Run, services: Services, target: Target, tasks: TaskGroup) -> MemoryObjectSendStream[Image]:
    """Start the workers; return the stream that they live from."""

    async def look_again(reference: Reference) -> Image | CandidateSkipped:
        return await check(Candidate(reference.repository), api=services.api, selection=run.selection)

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
    bringer = Bringer(transfers, look_again, run.settings.dry_run)
    found, images = anyio.create_memory_object_stream[Image](run.settings.concurrency)
    with images:
        for _ in range(run.settings.concurrency):
            tasks.start_soon(_work, run, images.clone(), bringer)

    return found


async def _discover(run: _Run, services: Services, memory: RunMemory, found: MemoryObjectSendStream[Image]) -> None:
    """List and confirm. What breaks here ends the run, but not the images that are in flight."""
    listed, candidates = anyio.create_memory_object_stream[Candidate](_PAGE)
    try:
        async with anyio.create_task_group() as stages:
            with candidates:
                for _ in range(_CHECKERS):
                    stages.start_soon(_confirm, run, services, memory.tags, candidates.clone(), found.clone())

            stages.start_soon(_list, run, services, listed)
    except BaseExceptionGroup as group:
        run.doom(_ours(group))

    try:
        await memory.keep_tags()
    except StoreError as error:
        run.doom(error)


async def _watch(run: _Run, discovery: anyio.CancelScope) -> None:
    await run.stop.wait()
    run.observer(StopRequested(run.stop.reason or ""))
    discovery.cancel()


async def _watch_clock(run: _Run) -> None:
    if run.settings.max_duration is not None:
        await anyio.sleep(run.settings.max_duration)
        run.stop.request("the time it may take is up")


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
    memory: TagMemory,
    inbox: MemoryObjectReceiveStream[Candidate],
    outbox: MemoryObjectSendStream[Image],
) -> None:
    await confirm(
        inbox,
        outbox,
        api=services.api,
        selection=run.selection,
        memory=memory,
        observer=run.observer,
        failed=run.finish,
    )


async def _work(run: _Run, inbox: MemoryObjectReceiveStream[Image], bringer: Bringer) -> None:
    """Take images as they come and bring each to its outcome. A worker never raises for one image."""
    with inbox:
        async for image in inbox:
            if run.stop.reason is not None:
                return

            run.observer(ImageStarted(image.reference))
            outcome = _told_once(run, await bringer.outcome(image.reference))
            run.finish(outcome)
            if outcome.error is not None and outcome.error.scope is Scope.RUN:
                run.doom(outcome.error)


def _told_once(run: _Run, outcome: Outcome) -> Outcome:
    """A disk that is full fails every image in flight: the first one says why, the others that they ended with it."""
    error = outcome.error
    if not isinstance(error, StoreError) or error.scope is not Scope.RUN or run.tally.fatal is None:
        return outcome

    return replace(outcome, error=StoreError("stopped with the run", scope=Scope.IMAGE, phase=error.phase))


def _started(run: _Run, target: TargetSpec) -> RunStarted:
    selection = run.selection
    return RunStarted(
        run_id=run.run_id,
        server=run.settings.origin.netloc,
        organization=selection.organization,
        glob=selection.glob,
        tag=selection.tag,
        target=str(target),
        started=run.started,
        dry_run=run.settings.dry_run,
    )


def _report(run: _Run, target: TargetSpec, memory: RunMemory | None, elapsed: float) -> Report:
    report, earlier = _bare_report(run, target, elapsed), memory.earlier if memory else None
    if not report.complete or report.fatal is not None:
        return report

    changes = compare(earlier, report.outcomes) if earlier else None
    report = replace(report, changes=changes)
    try:
        found = sum(1 for outcome in report.outcomes if outcome.reference.digest)
        check_expected(found, changes, at_least=run.settings.expect_at_least, max_missing=run.settings.max_missing)
    except DiscoveryIncomplete as error:
        return replace(report, fatal=error)

    return report


def _bare_report(run: _Run, target: TargetSpec, elapsed: float) -> Report:
    tally = run.tally
    images = [outcome for outcome in tally.outcomes if outcome.status is not Status.FAILED or outcome.reference.digest]
    return Report(
        run_id=run.run_id,
        selection=run.selection,
        server=str(run.settings.origin),
        target=str(target),
        started=run.started,
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
