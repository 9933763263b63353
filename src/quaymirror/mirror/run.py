"""One run: the stages, the streams between them, and when to stop.

    list_candidates  --candidates-->  confirm x N  --images-->  work x N  -->  outcomes

Both streams are bounded, so that a listing of any length is in memory a page at a time. A stream that is closed is how
the stage before says that it is done.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import DiscoveryIncomplete, LockHeld, QuaymirrorError, Scope, SelectionEmpty, StoreError
from ..events import (
    CandidateSkipped,
    CheckFailed,
    Event,
    HostPaused,
    ImageDerived,
    ImageFinished,
    ImageStarted,
    ListingFinished,
    Meters,
    Notice,
    Observer,
    Outcome,
    PageListed,
    RetryScheduled,
    RunFinished,
    RunStarted,
    StopRequested,
    TagChecked,
    ignore,
)
from ..oci import Reference
from ..quay.check import refuse_impossible
from ..quay.discovery import NO_SUCH_TAG, Candidate, Image, check, confirm, list_candidates, list_pinned
from ..quay.memory import TagMemory
from ..quay.selection import Selection
from ..quay.tags import no_such_tag
from ..store.layout import OCILayout
from ..transfer.flight import SingleFlight
from ..transfer.image import Transfers
from ..transfer.target import Target
from ..transfer.together import foremost
from . import pruning
from .bring import Bringer
from .changes import check_expected, compare
from .memory import RunMemory, open_memory
from .report import HostTrouble, Report, graver
from .services import Services, connect
from .settings import Settings
from .target import LayoutTarget, TargetSpec, common_target, home_of, open_target, wanted_platforms

# How many tags are checked at a time. The API's gate decides how many requests really are under way.
_CHECKERS = 16
# A page of the listing waits here while the next one is on its way.
_PAGE = 100
# How often to look whether another run has ended.
_LOCK_SECONDS = 0.5
# Of so many repositories without the tag the names are kept, to ask what tags they have.
_MISSED = 10


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
    failed_checks: list[CheckFailed] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hosts: defaultdict[str, HostTrouble] = field(default_factory=lambda: defaultdict(HostTrouble))
    repositories: int = 0
    matched: int = 0
    listings: int = 0
    """How many selections were listed to their end."""
    found: int = 0
    fatal: QuaymirrorError | None = None
    empty: SelectionEmpty | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case PageListed():
                self.repositories += event.repositories
                self.matched += event.matched
            case ListingFinished():
                self.listings += event.complete
            case CandidateSkipped():
                self._skip(event)
            case CheckFailed():
                self.failed_checks.append(event)
            case RetryScheduled() | HostPaused():
                self._note_trouble(event)
            case TagChecked():
                self.found += 1
            case ImageDerived():
                self.findings[event.reference.full_name] = event.findings
            case ImageFinished():
                self.outcomes.append(event.outcome)
            case _:
                pass

    def _skip(self, event: CandidateSkipped) -> None:
        self.skipped[event.reason] += 1
        if event.reason == NO_SUCH_TAG and len(self.missed) < _MISSED:
            self.missed.append(event.repository)

    def _note_trouble(self, event: RetryScheduled | HostPaused) -> None:
        trouble = self.hosts[event.host]
        if isinstance(event, RetryScheduled):
            trouble.retries += 1
            trouble.retry_wait_s += event.wait
        else:
            trouble.pauses += 1
            trouble.paused_s += event.seconds


@dataclass(slots=True)
class _Run:
    """What the tasks of one run share."""

    selections: tuple[Selection, ...]
    settings: Settings
    observer: Observer
    tally: _Tally
    meters: Meters
    stop: Stop
    run_id: str
    started: float
    jobs: tuple[str, ...] = ()
    taken: set[str] = field(default_factory=set)
    waits: bool = False

    @property
    def namespace(self) -> str:
        """What the images' names begin with, if that is the same for all."""
        organizations = {selection.organization for selection in self.selections}
        return organizations.pop() if len(organizations) == 1 else ""

    def take(self, reference: Reference) -> bool:
        """Tell whether no other selection of this run had this image before."""
        is_new = reference.full_name not in self.taken
        self.taken.add(reference.full_name)
        return is_new

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
    selection: Selection | Sequence[Selection],
    target: str | Path,
    settings: Settings,
    *,
    observer: Observer = ignore,
    meters: Meters | None = None,
    stop: Stop | None = None,
    jobs: Sequence[str] = (),
) -> Report:
    """Mirror `selection` to `target`, which is a path or what `--to` takes, and report on it.

    Several selections are one run: they share everything, and an image that two of them select is mirrored once. `jobs`
    are what they are called. What goes wrong during the run is in the report. If the caller is cancelled, what was
    complete is there to stay.

    :raises ConfigError: when `target` can't be what images land in, before any request.
    :raises LockHeld: when another run is at work there.
    :raises StoreError: when it can't be opened.
    """
    selections = (selection,) if isinstance(selection, Selection) else tuple(selection)
    for each in selections:
        refuse_impossible(settings.discovery, each)

    spec = LayoutTarget(target) if isinstance(target, Path) else common_target(target, selections, settings)
    pruning.check(selections, settings, is_layout=isinstance(spec, LayoutTarget))
    settings = replace(settings, platforms=wanted_platforms(spec, settings))
    clock, tally = time.monotonic(), _Tally()

    def tell(event: Event) -> None:
        tally(event)
        observer(event)

    run = _Run(
        selections=selections,
        settings=settings,
        observer=tell,
        tally=tally,
        meters=meters or Meters(),
        stop=stop or Stop(),
        run_id=secrets.token_hex(4),
        started=time.time(),
        jobs=tuple(jobs),
    )
    async with AsyncExitStack() as stack:
        memory = await _mirror(run, spec, stack)
        report = _report(run, spec, memory, time.monotonic() - clock)
        if memory is not None:
            await memory.record(report)

    tell(RunFinished(report.elapsed, int(report.exit_code), report.fatal))
    return report


async def _mirror(run: _Run, spec: TargetSpec, stack: AsyncExitStack) -> RunMemory | None:
    """Do it all, and return the memory, which stays open as long as `stack`; None if nobody wanted to wait for it."""
    settings, tell = run.settings, run.observer
    memory: RunMemory | None = None
    try:
        async with open_target(spec, settings, tell, patience=run.wait_for_lock) as target:
            home = home_of(spec, settings)
            memory = await stack.enter_async_context(open_memory(home, run.selections, settings, tell))
            tell(_started(run, spec))
            async with connect(settings, tell, namespace=run.namespace) as services:
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

    found = pruning.seen(_report(run, spec, memory, 0.0))
    try:
        await pruning.settle(target, run.selections, run.settings, run.observer, found=found)
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
        if any(selection.pinned for selection in run.selections):
            return Image(reference)  # exactly that one was asked for

        selection = Selection(run.selections[0].organization, tag=reference.tag or "")
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
    """Find the images of each selection. What breaks here ends the run, but not the images that are in flight.

    That one selection has no images does not end the others.
    """
    for selection in run.selections:
        try:
            await _find(run, selection, services, memory.tags, found)
        except SelectionEmpty as error:
            run.tally.empty = run.tally.empty or error
        except QuaymirrorError as error:
            run.doom(error)

    try:
        await memory.keep_tags()
    except StoreError as error:
        run.doom(error)


async def _find(
    run: _Run, selection: Selection, services: Services, memory: TagMemory, found: MemoryObjectSendStream[Image]
) -> None:
    if selection.pinned:
        registry = run.settings.origin.netloc
        await list_pinned(found.clone(), registry=registry, selection=selection, observer=run.observer)
        return

    tally = run.tally
    tally.missed.clear()
    before = tally.found + len(tally.failed_checks)
    listed, candidates = anyio.create_memory_object_stream[Candidate](_PAGE)
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


async def _list(run: _Run, selection: Selection, services: Services, outbox: MemoryObjectSendStream[Candidate]) -> None:
    await list_candidates(
        outbox,
        api=services.api,
        registry=run.settings.origin.netloc,
        selection=selection,
        observer=run.observer,
    )


async def _confirm(
    run: _Run,
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
    selection = run.selections[0]
    return RunStarted(
        run_id=run.run_id,
        server=run.settings.origin.netloc,
        organization=selection.organization,
        glob=selection.glob,
        tag=selection.tag,
        target=str(target),
        started=run.started,
        dry_run=run.settings.dry_run,
        jobs=run.jobs,
        selections=len(run.selections),
    )


def _report(run: _Run, target: TargetSpec, memory: RunMemory | None, elapsed: float) -> Report:
    report, earlier = _bare_report(run, target, elapsed), memory.earlier if memory else None
    if not report.complete or run.tally.fatal is not None:
        return report

    unchecked = {failed.repository for failed in report.failed_checks}
    changes = compare(earlier, report.outcomes, unchecked) if earlier else None
    report = replace(report, changes=changes)
    try:
        check_expected(
            len(report.outcomes), changes, at_least=run.settings.expect_at_least, max_missing=run.settings.max_missing
        )
    except DiscoveryIncomplete as error:
        return replace(report, fatal=error)

    return report


def _bare_report(run: _Run, target: TargetSpec, elapsed: float) -> Report:
    tally, images = run.tally, run.tally.outcomes
    return Report(
        run_id=run.run_id,
        selections=run.selections,
        server=str(run.settings.origin),
        target=str(target),
        started=run.started,
        elapsed=elapsed,
        outcomes=tally.outcomes,
        failed_checks=tally.failed_checks,
        jobs=run.jobs,
        repositories=tally.repositories,
        matched=tally.matched,
        skipped=tally.skipped,
        findings=tally.findings,
        hosts=tally.hosts,
        bytes_fetched=sum(o.bytes_fetched for o in images) if run.settings.dry_run else run.meters.fetched_bytes,
        complete=tally.listings == len(run.selections) and run.stop.reason is None and len(images) >= tally.found,
        fatal=tally.fatal or tally.empty,
        stopped=run.stop.reason if tally.fatal is None else None,
        dry_run=run.settings.dry_run,
        allow_empty=run.settings.allow_empty,
    )
