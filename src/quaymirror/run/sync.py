"""One run, from its options to its report."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from ..catalog.kinds import check_selection
from ..errors import ConfigError, LockHeld, QuaymirrorError, StoreError
from ..events import Notice, Observer, RunFinished, RunStarted, ignore
from ..progress.run import RunProgress
from ..referrers.choice import ReferrerMode
from ..selection.selection import Selection
from ..selection.source import distinct
from ..settings import Options
from ..shards.plan import Division, PlanDraft
from ..store.records import ImageRecord, Usage
from ..store.state import State
from ..store.storage import Storage
from ..targets.kinds import TargetContext, common_target
from ..targets.layout import LayoutSpec
from ..tasks import background
from ..text import counted
from ..transfer.target import Capabilities, PrunableTarget, Target
from . import listing, pruning
from .accepted import read_accepted
from .context import Run, Stop
from .exact_names import check_names
from .publication import Publication, may_publish, obstacle
from .report import Report, make_report
from .run_history import RunHistory, open_history
from .shared import Engine, open_engine
from .signatures import make_judge
from .stages import Stages
from .wiring import Accounts, OpenSources, check_credentials, connect_target

if TYPE_CHECKING:
    from .cluster_blobs import BlobWorkers

T = TypeVar("T")

_TIME_IS_UP = "the time limit was reached"
# A run ends this much after its time limit at the latest.
_OVERTIME_SHARE = 0.1
_MOST_OVERTIME_SECONDS = 600.0
# Names that one notice has.
_SHOWN = 5


async def run_sync(
    selection: Selection | Sequence[Selection],
    target: str | Path,
    options: Options,
    *,
    observer: Observer = ignore,
    progress: RunProgress | None = None,
    stop: Stop | None = None,
    jobs: Sequence[str] = (),
    engine: Engine | None = None,
    division: Division | None = None,
) -> Report:
    """Mirror `selection` to `target`, a path or an address as `--to` takes it, and return the report.

    Several selections are one run, in which an image that two of them select is mirrored once; `jobs` are their names.
    Concurrent runs to different targets share an `engine` that was opened for their options. With a `division`, only
    the share of one shard is mirrored; `selection` is that of its plan. `progress` shows the run while it goes on.
    Failures during the run are in the report. If the caller is cancelled, finished images stay.

    :raises ConfigError: if `target` or `options` are invalid, before any request.
    :raises LockHeld: if another run works on the target.
    :raises StoreError: if the target can't be opened.
    """
    selections = (selection,) if isinstance(selection, Selection) else tuple(selection)
    run = make_run(selections, target, options, jobs, engine, division=division)
    run.listener, run.progress, run.stop = observer, progress or run.progress, stop or run.stop
    return await mirror(run)


def make_run(
    selections: tuple[Selection, ...],
    target: str | Path,
    options: Options,
    jobs: Sequence[str] = (),
    engine: Engine | None = None,
    *,
    division: Division | None = None,
    draft: PlanDraft | None = None,
) -> Run:
    """Return the run that `mirror` carries out; see `run_sync`. With a `draft` it only makes that.

    :raises ConfigError: if the selections, the target and the options contradict each other.
    """
    spec = LayoutSpec(target) if isinstance(target, Path) else common_target(target, selections, options)
    capabilities = spec.capabilities
    if division is not None or draft is not None:
        spec.check_shards()
        capabilities = replace(capabilities, prunable=False)

    if options.limits.cluster is not None:
        spec.check_cluster()
        if division is not None:
            raise ConfigError("--cluster and --shard contradict each other: the workers divide the blobs themselves")

    for selection in selections:
        check_selection(selection, options.discovery.discovery)
        if spec.is_source(options.source.address_of(selection)):
            raise ConfigError(f"{spec} is the source of the images: name another target")

    selections = tuple(selection.in_repository(spec.repository) for selection in selections)
    check_credentials(selections, options)
    check_names(selections, options)
    _check_publishing(capabilities, options)
    pruning.check(selections, options, is_prunable=capabilities.prunable)
    listing.check(selections, options)
    wanted = options.replace(platforms=spec.wanted_platforms(options))
    run = Run(selections, wanted, spec, engine, tuple(jobs))
    run.accepted = read_accepted(options.discovery.accept_failed)
    run.division, run.draft = division, draft
    run.judge = make_judge(options)
    return run


def _check_publishing(capabilities: Capabilities, options: Options) -> None:
    """Check that a target with these `capabilities` can publish as the options say.

    :raises ConfigError: otherwise.
    """
    publishing = options.publishing
    if publishing.dated_tags is not None and not capabilities.adds_tags:
        raise ConfigError("--dated-tags needs a registry as target; a layout keeps earlier images as snapshots")

    if publishing.at_end and not capabilities.publishes_at_end:
        raise ConfigError("--publish end needs a layout (PATH) or a registry as target: other images appear one by one")

    if publishing.refuse_older and not capabilities.prunable:
        raise ConfigError("--refuse-older needs a layout (PATH) as target: its snapshots show the earlier images")


async def mirror(run: Run) -> Report:
    """Mirror the images of `run`; see `run_sync`."""
    begun, history, usage = time.monotonic(), None, None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background(partial(_watch_clock, run)))
        try:
            workers = await stack.enter_async_context(_opened(run, _workers(run)))
            async with _opened(run, _open(run)) as target:
                opening = open_history(
                    run.state_directory, run.selections, run.options, run.emit, keeps_tags=run.draft is not None
                )
                history = await stack.enter_async_context(opening)
                await history.begin(run)
                run.emit(_started(run))
                if run.options.target.dry_run:
                    _show_readings(run)

                accounts = Accounts(run.options, run.emit)
                if note := await listing.anonymous(run.selections, run.options, accounts):
                    run.emit(Notice(note, lasting=True))

                history.tags.repositories |= await _mirrored_repositories(target)
                layout = target.prunable()
                publication = None if layout is None else await Publication.begin(run, layout)
                async with _shared(run, target, accounts) as (engine, sources):
                    await Stages(run, engine, sources, target, history, publication, workers).run_all()

                await history.save_tags()
                if layout is not None and publication is not None and not run.options.target.dry_run:
                    await _settle(run, layout, publication, history, accounts)
                elif run.options.publishing.at_end and not run.options.target.dry_run:
                    await _publish(run, target, history)

                usage = await _measure(target)
                run.pushed = await _pushed(run, target)
        except (LockHeld, _StoppedEarly):
            if run.stop.reason is None:
                raise
        except StoreError as error:
            if history is None:
                raise

            # The final write failed: committed images are safe, and the next run writes it first.
            run.abort(error)

        report = make_report(run, history.earlier if history else None, time.monotonic() - begun, usage)
        _note_results(run, report)
        if history is not None:
            await history.record(report)

    totals, changes = run.progress.totals(), report.change_counts
    run.emit(RunFinished(report.elapsed, int(report.exit_code), report.fatal, report.complete, totals, changes))
    return report


async def _watch_clock(run: Run) -> None:
    """Start nothing new after the time limit; some time later, drop the transfers that are still in flight, too."""
    limit = run.options.limits.max_duration
    if limit is not None:
        await anyio.sleep(limit)
        run.stop.request(_TIME_IS_UP)
        await anyio.sleep(min(_MOST_OVERTIME_SECONDS, limit * _OVERTIME_SHARE))
        run.stop.at_once(_TIME_IS_UP)


def _note_results(run: Run, report: Report) -> None:
    """Report which failures are accepted, and which accepted ones did not happen."""
    file = run.accepted.file
    if report.accepted_failures:
        run.emit(Notice(f"{counted(report.accepted_failures, 'failure')} accepted: see {file}", lasting=True))

    if recovered := run.accepted.recovered(report.outcomes):
        more = f" and {len(recovered) - _SHOWN:,} more" if len(recovered) > _SHOWN else ""
        names = ", ".join(recovered[:_SHOWN])
        run.emit(Notice(f"no failure any more: {names}{more}; remove from {file}", lasting=True))


async def _mirrored_repositories(target: Target) -> set[str]:
    """Return the repositories, with their registries, that the images of a layout are from."""
    layout = target.prunable()
    return set() if layout is None else await layout.use(lambda _, state: state.repositories())


@asynccontextmanager
async def _workers(run: Run) -> AsyncIterator[BlobWorkers | None]:
    """Connect to the cluster that fetches the blobs of a run; None without one."""
    address = run.options.limits.cluster
    if address is None or run.options.target.dry_run:
        yield None
        return

    from .cluster import Cluster

    async with Cluster.open(address, run.run_id) as cluster:
        yield cluster


class _StoppedEarly(Exception):
    """The run was asked to stop while its cluster or its target was being opened."""


@asynccontextmanager
async def _opened(run: Run, opening: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Open the cluster or the target of the run. A request to stop ends that, however long it takes.

    :raises _StoppedEarly: in this case.
    """
    is_open = False
    with anyio.CancelScope() as scope:

        async def watch() -> None:
            await run.stop.wait()
            if not is_open:
                scope.cancel()

        async with background(watch), opening as opened:
            is_open = True
            yield opened

    if scope.cancelled_caught:
        raise _StoppedEarly


def _open(run: Run) -> AbstractAsyncContextManager[Target]:
    is_local = all(run.options.source.address_of(selection).is_layout for selection in run.selections)
    context = TargetContext(run.options, connect_target, run.emit, run.wait_for_lock, is_local, run.division)
    return run.spec.inspect(context) if run.options.target.dry_run else run.spec.open(context)


@asynccontextmanager
async def _shared(run: Run, target: Target, accounts: Accounts) -> AsyncIterator[tuple[Engine, OpenSources]]:
    """Take part in the engine of the run, or in a new one, and provide the sources of the run."""
    async with AsyncExitStack() as stack:
        engine = run.engine
        if engine is None:
            engine = await stack.enter_async_context(open_engine([run.options]))

        engine.observers.append(run.emit)
        stack.callback(engine.observers.remove, run.emit)
        if target.capabilities.shares_blobs:
            engine.sharing.register(target)

        yield engine, OpenSources(run.options, run.emit, engine.sources, stack, accounts)


async def _settle(
    run: Run, layout: PrunableTarget, publication: Publication, history: RunHistory, accounts: Accounts
) -> None:
    """Record the images that are gone from the source, publish the set, and prune if the options say so."""
    report = make_report(run, history.earlier, 0.0)
    found = report.outcomes if report.is_whole else None
    try:
        is_certain = await pruning.record_absences(
            layout, run.selections, run.options, run.emit, found=found, accounts=accounts
        )
        if is_certain and not obstacle(run, report):
            # New and removed images are one snapshot.
            plan = await pruning.carry_out(layout, run.options.prune, publication.snapshot_note(report))
            run.emit(Notice(f"pruned: {pruning.summary(plan, done=True)}"))
            return
    except LockHeld as error:
        run.emit(Notice(f"nothing is pruned: {error.message}"))
    except QuaymirrorError as error:
        run.fail(error)
        report = make_report(run, history.earlier, 0.0)

    await publication.publish(report)


async def _publish(run: Run, target: Target, history: RunHistory) -> None:
    """Give the images of a run to a registry their names, if there is no obstacle."""
    if may_publish(run, make_report(run, history.earlier, 0.0)):
        try:
            await target.publish()
        except QuaymirrorError as error:
            run.fail(error)


async def _pushed(run: Run, target: Target) -> list[ImageRecord]:
    """Return the images of a share that are in the state of this shard."""
    shared, division = target.shared(), run.division
    if shared is None or division is None:
        return []

    names = {division.reference_at_target(planned).name for planned in division.images}
    return [record for record in await shared.records() if record.name in names]


async def _measure(target: Target) -> Usage | None:
    """Return the usage of a target, None if it is not known."""
    prunable = target.prunable()
    try:
        return None if prunable is None else await prunable.use(_usage)
    except StoreError:
        return None  # the run itself reports a failing disk


def _usage(storage: Storage, state: State) -> Usage:
    images, size = state.usage()
    space = storage.free_space()
    return Usage(images, size, None if space is None else space[0])


def _show_readings(run: Run) -> None:
    """Say how names with a dot were read."""
    for reading in dict.fromkeys(selection.reading for selection in run.selections if selection.reading):
        run.emit(Notice(reading))


def _started(run: Run) -> RunStarted:
    selection, limits = run.selections[0], run.options.limits
    addresses = distinct(run.options.source.address_of(each) for each in run.selections)
    return RunStarted(
        run_id=run.run_id,
        server=", ".join(address.host or str(address) for address in addresses),
        organization=selection.organization,
        glob=selection.names,
        tag=selection.tag_names,
        target=str(run.spec),
        started=run.started,
        dry_run=run.options.target.dry_run,
        jobs=run.jobs,
        selections=len(run.selections),
        limit_rate=limits.limit_rate,
        max_requests_per_second=limits.max_requests_per_second,
        planning=run.draft is not None,
        takes_referrers=run.judge is not None or run.options.discovery.referrers is not ReferrerMode.NONE,
    )
