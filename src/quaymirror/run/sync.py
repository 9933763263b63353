"""One run, from what is asked for to its report."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from ..catalog.kinds import check_selection
from ..errors import DiscoveryIncomplete, Failure, LockHeld, QuaymirrorError, StoreError
from ..events import Event, Notice, Observer, RunFinished, RunStarted, ignore
from ..progress.meters import Meters
from ..selection.selection import Selection
from ..settings import Options
from ..targets.kinds import TargetContext, TargetSpec, common_target
from ..targets.layout import LayoutSpec
from ..transfer.target import Target
from . import pruning
from .changes import check_expected, compare
from .context import Run, Stop, Tally
from .report import Report
from .run_history import RunMemory, open_memory
from .shared import Engine, open_engine
from .stages import run_stages
from .wiring import connect_target


async def run_sync(
    selection: Selection | Sequence[Selection],
    target: str | Path,
    settings: Options,
    *,
    observer: Observer = ignore,
    meters: Meters | None = None,
    stop: Stop | None = None,
    jobs: Sequence[str] = (),
    engine: Engine | None = None,
) -> Report:
    """Mirror `selection` to `target`, which is a path or what `--to` takes, and report on it.

    Several selections are one run: they share everything, and an image that two of them select is mirrored once. `jobs`
    are what they are called. Several runs, to targets of their own, share an `engine`, which was opened for their
    settings. What goes wrong during the run is in the report. If the caller is cancelled, what was
    complete is there to stay.

    :raises ConfigError: when `target` can't be what images land in, before any request.
    :raises LockHeld: when another run is at work there.
    :raises StoreError: when it can't be opened.
    """
    selections = (selection,) if isinstance(selection, Selection) else tuple(selection)
    for each in selections:
        check_selection(each, settings.discovery.discovery)

    spec = LayoutSpec(target) if isinstance(target, Path) else common_target(target, selections, settings)
    pruning.check(selections, settings, is_prunable=spec.capabilities.prunable)
    settings = settings.replace(platforms=spec.wanted_platforms(settings))
    clock, tally = time.monotonic(), Tally()

    def tell(event: Event) -> None:
        tally(event)
        observer(event)

    run = Run(
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
        memory = await _mirror(run, spec, engine, stack)
        report = _report(run, spec, memory, time.monotonic() - clock)
        if memory is not None:
            await memory.record(report)

    tell(RunFinished(report.elapsed, int(report.exit_code), report.fatal))
    return report


async def _mirror(run: Run, spec: TargetSpec, engine: Engine | None, stack: AsyncExitStack) -> RunMemory | None:
    """Do it all, and return the memory, which stays open as long as `stack`; None if nobody wanted to wait for it."""
    settings, tell = run.settings, run.observer
    memory: RunMemory | None = None
    try:
        async with _open(spec, run) as target:
            home = spec.state_directory(settings)
            memory = await stack.enter_async_context(open_memory(home, run.selections, settings, tell))
            tell(_started(run, spec))
            async with _shared(engine, run, target) as shared:
                await run_stages(run, shared, target, memory)

            await memory.keep_tags()
            await _settle(run, spec, target, memory)
    except LockHeld:
        if run.stop.reason is None:
            raise
    except StoreError as error:
        if memory is None:
            raise

        # The last words could not be written: what is committed is safe, the next run writes them first thing.
        run.abort(error)

    return memory


def _open(spec: TargetSpec, run: Run) -> AbstractAsyncContextManager[Target]:
    context = TargetContext(run.settings, connect_target, run.observer, run.wait_for_lock)
    return spec.inspect(context) if run.settings.target.dry_run else spec.open(context)


@asynccontextmanager
async def _shared(engine: Engine | None, run: Run, target: Target) -> AsyncIterator[Engine]:
    """Take part in `engine`, or in one of our own."""
    async with AsyncExitStack() as stack:
        if engine is None:
            engine = await stack.enter_async_context(open_engine([run.settings]))

        stack.enter_context(engine.tellers.telling(run.observer))
        if target.capabilities.shares_blobs:
            engine.pool.register(target)

        yield engine


async def _settle(run: Run, spec: TargetSpec, target: Target, memory: RunMemory) -> None:
    """Remember what was not found any more, and prune it if that is wanted and if this run can be believed."""
    prunable = target.prunable()
    if prunable is None or run.settings.target.dry_run:
        return

    found = pruning.seen(_report(run, spec, memory, 0.0))
    try:
        await pruning.record_absences(prunable, run.selections, run.settings, run.observer, found=found)
    except LockHeld as error:
        run.observer(Notice(f"nothing is pruned: {error.message}"))
    except QuaymirrorError as error:
        run.tally.fail(error)


def _started(run: Run, target: TargetSpec) -> RunStarted:
    selection = run.selections[0]
    return RunStarted(
        run_id=run.run_id,
        server=run.settings.source.origin.netloc,
        organization=selection.organization,
        glob=",".join(selection.globs),
        tag=",".join(selection.tags),
        target=str(target),
        started=run.started,
        dry_run=run.settings.target.dry_run,
        jobs=run.jobs,
        selections=len(run.selections),
        limit_rate=run.settings.limits.limit_rate,
        max_requests_per_second=run.settings.limits.max_requests_per_second,
    )


def _report(run: Run, target: TargetSpec, memory: RunMemory | None, elapsed: float) -> Report:
    report, earlier = _bare_report(run, target, elapsed), memory.earlier if memory else None
    if not report.complete or run.tally.fatal is not None:
        return report

    unchecked = {failed.repository for failed in report.failed_checks}
    changes = compare(earlier, report.outcomes, unchecked) if earlier else None
    report = replace(report, changes=changes)
    try:
        check_expected(
            len(report.outcomes),
            changes,
            at_least=run.settings.discovery.expect_at_least,
            max_missing=run.settings.discovery.max_missing,
        )
    except DiscoveryIncomplete as error:
        return replace(report, fatal=Failure.of(error))

    return report


def _bare_report(run: Run, target: TargetSpec, elapsed: float) -> Report:
    tally, images = run.tally, run.tally.outcomes
    return Report(
        run_id=run.run_id,
        selections=run.selections,
        server=str(run.settings.source.origin),
        target=str(target),
        started=run.started,
        elapsed=elapsed,
        outcomes=tally.outcomes,
        failed_checks=tally.failed_checks,
        jobs=run.jobs,
        repositories=tally.repositories,
        matched=tally.matched,
        rejected=tally.rejected,
        skipped=tally.skipped,
        findings=tally.findings,
        hosts=tally.hosts,
        bytes_fetched=sum(o.bytes_fetched for o in images) if run.settings.target.dry_run else run.meters.fetched_bytes,
        complete=tally.listings == len(run.selections) and run.stop.reason is None and len(images) >= tally.found,
        fatal=tally.fatal or tally.empty,
        stopped=run.stop.reason if tally.fatal is None else None,
        dry_run=run.settings.target.dry_run,
        allow_empty=run.settings.discovery.allow_empty,
    )
