"""Jobs: runs that are planned together, and share connections, limits and blobs where they can."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from ..errors import ConfigError, ExitCode, Failure, QuaymirrorError, most_severe
from ..events import Notice, Observer, ignore
from ..progress.run import RunProgress
from ..selection.selection import Selection
from ..settings import DEFAULT_TARGET, Options
from ..shards.plan import Division, PlanDraft
from ..targets.kinds import TargetSpec, common_target
from ..text import counted
from ..values import dataclass
from . import pruning
from .context import Run, Stop
from .report import Report
from .shared import Engine, open_engine
from .sync import make_run, mirror, run_sync

if TYPE_CHECKING:
    from ..store.verify import Verification

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One run to come: its selections, its target, and its options. `names` are those of the jobs it stands for.

    With a `division` it mirrors the share of one shard; if it is `planning`, it makes a plan for shards instead.

    :raises ConfigError: if the parts contradict each other.
    """

    selections: tuple[Selection, ...]
    target: str = DEFAULT_TARGET
    options: Options = field(default_factory=Options)
    names: tuple[str, ...] = ()
    division: Division | None = None
    planning: bool = False

    def __post_init__(self) -> None:
        pruning.check(self.selections, self.options, is_prunable=self.spec.capabilities.prunable)

    def __str__(self) -> str:
        return ", ".join(self.names) or self.target

    @property
    def spec(self) -> TargetSpec:
        """The parsed target."""
        return common_target(self.target, self.selections, self.options)

    @property
    def state_directory(self) -> Path:
        """The directory of the target's state. One run at a time uses it."""
        return self.spec.state_directory(self.options)

    def joined(self, other: Job) -> Job | None:
        """Return both as one job if their targets and options are the same."""
        if (other.options, other.target) != (self.options, self.target) or self.division or self.planning:
            return None

        try:
            return replace(self, selections=self.selections + other.selections, names=self.names + other.names)
        except ConfigError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHandle:
    """The observer of one job, the progress that its run keeps up to date, and the handle that stops it."""

    observe: Observer = ignore
    progress: RunProgress = field(default_factory=RunProgress)
    stop: Stop = field(default_factory=Stop)

    async def close(self) -> None:
        """Handle the end of the job, before another one begins on the same target."""


Watch = Callable[[Sequence[Job]], AbstractAsyncContextManager[Sequence[JobHandle]]]
"""Returns the handles of jobs that run at the same time; the context lasts as long as they do."""


@asynccontextmanager
async def unwatched(jobs: Sequence[Job]) -> AsyncIterator[Sequence[JobHandle]]:
    """Return handles that show nothing."""
    yield [JobHandle() for _ in jobs]


@dataclass(slots=True, eq=False)
class JobResult:
    """The result of a job: a report, or the failure that prevented one; neither if a stop came before the job began.

    `verification` is the result of `verify_target`, if that was wanted and the run got that far.
    """

    job: Job
    handle: JobHandle
    run: Run | None = field(default=None, repr=False)
    report: Report | None = None
    failure: Failure | None = None
    verification: Verification | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The most severe exit code of the report, the failure and the verification."""
        codes = [ExitCode.OK]
        if self.report is not None:
            codes.append(self.report.exit_code)
        elif self.failure is None and self.handle.stop.exit_code is not None:
            codes.append(self.handle.stop.exit_code)

        if self.failure is not None:
            codes.append(self.failure.exit_code)

        if self.verification is not None:
            codes.append(self.verification.exit_code)

        return most_severe(codes)


async def run_jobs(jobs: Iterable[Job], watch: Watch = unwatched) -> list[JobResult]:
    """Run `jobs`, and return their results in order.

    Jobs with the same target and options become one. Jobs with the same server and limits run at the same time, those
    with the same target in turn; other groups follow one after the other. A job that fails does not end the others.
    After a signal, which a stop handle has the exit code of, no further job begins.
    """
    results: list[JobResult] = []
    for group in _grouped(join_jobs(jobs), lambda job: job.options.connection):
        async with watch(group) as handles:
            together = [JobResult(job, handle) for job, handle in zip(group, handles, strict=True)]
            results += together
            reports: dict[str, Report] = {}
            try:
                async with open_engine([job.options for job in group]) as engine, anyio.create_task_group() as tasks:
                    for lane in _grouped(_begin(together, engine), lambda run: os.path.realpath(run.state_directory)):
                        tasks.start_soon(_run_lane, lane, reports, len(group) > 1)
            except QuaymirrorError as error:
                for result in together:
                    result.failure = Failure.of(error)

            for result in together:
                if result.run is not None:
                    result.report = reports.get(result.run.run_id)
                    result.failure = result.failure or result.run.failure

        await _verify(together)
        if any(handle.stop.exit_code is not None for handle in handles):
            break

    return results


def _begin(results: Iterable[JobResult], engine: Engine) -> Iterator[Run]:
    """Yield the runs of jobs; one that contradicts itself fails."""
    for result in results:
        job, handle = result.job, result.handle
        try:
            draft = PlanDraft() if job.planning else None
            result.run = make_run(
                job.selections, job.target, job.options, job.names, engine, division=job.division, draft=draft
            )
        except QuaymirrorError as error:
            result.failure = Failure.of(error)
        else:
            result.run.listener, result.run.progress, result.run.stop = handle.observe, handle.progress, handle.stop
            result.run.close = handle.close
            yield result.run


async def _run_lane(runs: Sequence[Run], reports: dict[str, Report], has_company: bool) -> None:
    """Carry out runs to one target, one after the other; `has_company` if other jobs run at the same time."""
    for run in runs:
        if run.stop.exit_code is not None:
            return

        try:
            reports[run.run_id] = await mirror(run)
            await run.close()
        except QuaymirrorError as error:
            run.failure = Failure.of(error)
            if has_company:
                # The other jobs can take hours: show the failure now.
                run.listener(Notice(f"{', '.join(run.jobs) or run.spec}: {error.message}"))


async def _verify(results: Iterable[JobResult]) -> None:
    for result in results:
        job, report = result.job, result.report
        wanted = job.options.target.verify_target and not job.options.target.dry_run
        if wanted and report is not None and report.fatal is None:
            try:
                result.verification = await _verified(job, result.handle.observe)
            except QuaymirrorError as error:
                result.failure = Failure.of(error)


async def _verified(job: Job, observer: Observer) -> Verification:
    """Verify the target of a job; run the job once more if a registry has lost images, and verify again.

    A verification puts the records of lost images in doubt, so that the next run pushes them, from its own source.
    """
    from .verify import verify_target

    found = await verify_target(job.spec, job.options)
    if not found.damages or job.spec.capabilities.repairable:
        return found

    names = {name for damage in found.damages for name in damage.images}
    observer(Notice(f"{job.spec} has lost content of {counted(len(names), 'image')}: pushing it again"))
    report = await run_sync(job.selections, job.target, job.options)
    if report.fatal is not None:
        observer(Notice(f"not all images could be pushed again: {report.fatal.message}"))

    return await verify_target(job.spec, job.options)


def join_jobs(jobs: Iterable[Job]) -> list[Job]:
    """Return `jobs`, those that can be one run joined, in the order of the first of each."""
    runs: list[Job] = []
    for job in jobs:
        for number, known in enumerate(runs):
            both = known.joined(job)
            if both is not None:
                runs[number] = both
                break
        else:
            runs.append(job)

    return runs


def _grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Return `items` in groups of the same key, in the order of the first of each."""
    groups: list[tuple[object, list[T]]] = []
    for item in items:
        same = next((group for known, group in groups if known == key(item)), None)
        if same is None:
            groups.append((key(item), [item]))
        else:
            same.append(item)

    return [group for _, group in groups]
