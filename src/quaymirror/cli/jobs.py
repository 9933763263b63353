"""One or several runs, at once where they can share an engine, under one pair of eyes, to one exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

import anyio
import click

from ..errors import ConfigError, ExitCode, QuaymirrorError, most_severe
from ..events import Notice
from ..progress.timeline import Timeline
from ..run import pruning
from ..run.report import Report
from ..run.shared import Engine, open_engine
from ..run.sync import run_sync
from ..selection.lockfile import read_lock
from ..selection.selection import Selection
from ..settings import DEFAULT_TARGET, Options, OutputOptions
from ..targets.kinds import TargetSpec, common_target
from ..tasks import run_all
from ..text import escape_controls
from ..ui.summary import summary_lines
from .observers import CODES, RunHandle, RunObservers, final_code, observe_runs, show_summaries
from .options import OUTPUT, SELECTION_WORDS, make_options, make_selection
from .outputs import ping, write_outputs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run to come: what, where to, how. `jobs` are the names it is known by.

    :raises ConfigError: when the parts make no sense together.
    """

    selections: tuple[Selection, ...]
    target: str
    settings: Options
    jobs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pruning.check(self.selections, self.settings, is_prunable=self.spec.capabilities.prunable)

    @property
    def spec(self) -> TargetSpec:
        """Where images land."""
        return common_target(self.target, self.selections, self.settings)

    @property
    def home(self) -> Path:
        """The directory of what is known of the target. One run at a time has it."""
        return self.spec.state_directory(self.settings)

    def joined(self, other: Plan) -> Plan | None:
        """Return both as one run if they can be one: the same target, and the same settings."""
        alike = (other.settings, other.target) == (self.settings, self.target)
        if not alike:
            return None

        try:
            return replace(self, selections=self.selections + other.selections, jobs=self.jobs + other.jobs)
        except ConfigError:
            return None


def make_plan(given: Mapping[str, Any], jobs: tuple[str, ...] = ()) -> Plan:
    """Return the run that `given`, values by the names of options, means.

    :raises ConfigError: if they are illegal.
    """
    options = make_options({name: value for name, value in given.items() if name not in OUTPUT})
    from_lock = given.get("from_lock")
    if from_lock is None:
        selections: tuple[Selection, ...] = (make_selection(given),)
    elif any(given.get(name) for name in SELECTION_WORDS):
        raise ConfigError("--from-lock is a whole selection: ORG, GLOB, TAG, --exclude and --since don't go with it")
    else:
        server, selections = read_lock(from_lock)
        options = options.replace(server=given.get("server") or server)

    return Plan(selections, given.get("target") or DEFAULT_TARGET, options, jobs)


def execute(plans: Sequence[Plan], outputs: OutputOptions) -> int:
    """Run `plans` and return the exit code.

    :raises QuaymirrorError: when the only run can't begin, or an output can't be written.
    """
    return anyio.run(_execute, plans, outputs)


async def _execute(plans: Sequence[Plan], outputs: OutputOptions) -> int:
    await ping(outputs, "/start")
    done: list[tuple[Report, int, Timeline]] = []
    try:
        code = await _run_all(plans, outputs, done)
    except QuaymirrorError as error:
        await ping(outputs, "/fail", escape_controls(error.message))
        raise

    write_outputs(outputs, done)
    lines = [line for report, _, _ in done for line in summary_lines(report.progress)]
    await ping(outputs, "" if code == 0 else "/fail", "\n".join([*lines, f"exit code {code}"]))
    return code


@dataclass(slots=True, eq=False)
class _Job:
    """A run, those who watch it, and what came of it: a report, or why there is none, or neither after a signal."""

    plan: Plan
    handle: RunHandle
    report: Report | None = None
    error: QuaymirrorError | None = None


async def _run_all(plans: Sequence[Plan], outputs: OutputOptions, done: list[tuple[Report, int, Timeline]]) -> int:
    codes = [ExitCode.OK]
    for group in _grouped(plans, lambda plan: plan.settings.connection):
        jobs, caught = await _run_together(group, outputs)
        if len(plans) == 1 and jobs[0].error is not None:
            raise jobs[0].error

        for job in jobs:
            code = await _code(job, caught)
            codes.append(code)
            if job.report is not None:
                done.append((job.report, code, job.handle.timeline))

        if caught:
            break

    return most_severe(codes)


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


async def _run_together(plans: Sequence[Plan], outputs: OutputOptions) -> tuple[list[_Job], Sequence[Signals]]:
    """Run `plans` in one engine, those of one target one after the other; return the signals that came, too."""
    async with observe_runs(outputs, [plan.home for plan in plans]) as observers:
        jobs = [_Job(plan, handle) for plan, handle in zip(plans, observers.handles, strict=True)]
        lanes = _grouped(jobs, lambda job: job.plan.home.resolve())
        try:
            async with open_engine([plan.settings for plan in plans]) as engine:
                await run_all(partial(_run_lane, lane, observers, engine) for lane in lanes)
        except QuaymirrorError as error:
            for job in jobs:
                job.error = error

    show_summaries(outputs, [job.report.progress for job in jobs if job.report is not None])
    return jobs, observers.caught


async def _run_lane(lane: Sequence[_Job], observers: RunObservers, engine: Engine) -> None:
    for job in lane:
        if observers.caught:
            return

        plan, handle = job.plan, job.handle
        try:
            job.report = await run_sync(
                plan.selections,
                plan.target,
                plan.settings,
                observer=handle.observe,
                progress=handle.progress,
                stop=handle.stop,
                jobs=plan.jobs,
                engine=engine,
            )
            await handle.progress_file.write()
        except QuaymirrorError as error:
            job.error = error
            if len(observers.handles) > 1:
                # The others may go on for hours: who watches should know now, who comes later reads it below.
                handle.observe(Notice(f"{', '.join(plan.jobs)}: {error.message}"))


async def _code(job: _Job, caught: Sequence[Signals]) -> ExitCode:
    """Return the exit code of one run, and say what ended it if its summary did not."""
    plan, report = job.plan, job.report
    if job.error is not None:
        click.echo(f"quaymirror: {', '.join(plan.jobs)}: {escape_controls(job.error.message)}", err=True)
        return job.error.exit_code

    if report is None:
        return CODES[caught[0]]

    code = final_code(report)
    if plan.settings.target.verify_target and report.fatal is None and not plan.settings.target.dry_run:
        # Damage is graver than anything that a run which ended by itself can say.
        code = await _verified(plan.spec, plan.settings) or code

    return code


async def _verified(spec: TargetSpec, settings: Options) -> ExitCode:
    from ..run import verify_target as recheck
    from .verify import show_damages, show_verdict

    result = await recheck.verify_target(spec, settings)
    show_damages(result)
    return show_verdict(result)
