"""One or several runs, one after the other, under one pair of eyes, to one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError, QuaymirrorError
from ..events import Meters, Observer
from ..mirror import pruning
from ..mirror.lockfile import read_lock
from ..mirror.report import ExitCode, Report, exit_code_of
from ..mirror.run import run_sync
from ..mirror.running import Stop
from ..mirror.settings import Settings
from ..mirror.target import LayoutTarget, TargetSpec, common_target, home_of
from ..quay.selection import Selection
from ..ui.summary import summary_lines
from ..ui.text import plain
from ..ui.timeline import Timeline
from .options import make_selection, make_settings
from .outputs import Outputs
from .watching import watched_run

# Of several runs the gravest code counts: what a person has to look at, before what the next night mends.
_GRAVITY = (1, 143, 130, 8, 6, 4, 5, 7, 2, 3, 9, 0)
_SELECTION = ("organization", "glob", "tag", "globs", "tags", "exclude", "since")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run to come: what, where to, how. `jobs` are the names it is known by.

    :raises ConfigError: when the parts make no sense together.
    """

    selections: tuple[Selection, ...]
    target: str
    settings: Settings
    jobs: tuple[str, ...] = ()
    verify_target: bool = False

    def __post_init__(self) -> None:
        spec = common_target(self.target, self.selections, self.settings)
        pruning.check(self.selections, self.settings, is_layout=isinstance(spec, LayoutTarget))

    def joined(self, other: Plan) -> Plan | None:
        """Return both as one run if they can share one: the same target, and the same settings."""
        alike = (other.settings, other.target, other.verify_target) == (self.settings, self.target, self.verify_target)
        # Credentials may be kept for an organization alone.
        if not alike or other.selections[0].organization != self.selections[0].organization:
            return None

        try:
            return replace(self, selections=self.selections + other.selections, jobs=self.jobs + other.jobs)
        except ConfigError:
            return None


def make_plan(
    *,
    target: str,
    from_lock: Path | None = None,
    server_is_given: bool = True,
    jobs: tuple[str, ...] = (),
    verify_target: bool = False,
    **options: Any,
) -> Plan:
    """Return the run that the options of `sync` mean.

    :raises ConfigError: when they make no sense.
    """
    words = {name: options.pop(name) for name in _SELECTION}
    if from_lock is None:
        selections: tuple[Selection, ...] = (make_selection(**words),)
    else:
        if any(words.values()):
            raise ConfigError(
                "--from-lock says which images: no organization, glob, tag, --exclude or --since beside it"
            )

        server, selections = read_lock(from_lock)
        if not server_is_given:
            options["server"] = server

    return Plan(selections, target, make_settings(**options), jobs, verify_target)


def execute(plans: Sequence[Plan], outputs: Outputs) -> int:
    """Run `plans` and return the exit code.

    :raises QuaymirrorError: when the only run can't begin, or an output can't be written.
    """
    return anyio.run(_execute, plans, outputs)


async def _execute(plans: Sequence[Plan], outputs: Outputs) -> int:
    await outputs.ping("/start")
    done: list[tuple[Report, int, Timeline]] = []
    try:
        code = await _run_all(plans, outputs, done)
    except QuaymirrorError as error:
        await outputs.ping("/fail", plain(error.message))
        raise

    outputs.write(done)
    lines = [line for _, _, timeline in done for line in summary_lines(timeline.state)]
    await outputs.ping("" if code == 0 else "/fail", "\n".join([*lines, f"exit code {code}"]))
    return code


async def _run_all(plans: Sequence[Plan], outputs: Outputs, done: list[tuple[Report, int, Timeline]]) -> int:
    codes = [0]
    for plan in plans:
        try:
            report, code, timeline = await _run(plan, outputs)
        except QuaymirrorError as error:
            if len(plans) == 1:
                raise

            click.echo(f"quaymirror: {', '.join(plan.jobs)}: {plain(error.message)}", err=True)
            codes.append(int(exit_code_of(error)))
            continue

        done.append((report, int(code), timeline))
        codes.append(int(code))
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            break

    return min(codes, key=_GRAVITY.index)


async def _run(plan: Plan, outputs: Outputs) -> tuple[Report, ExitCode, Timeline]:
    async def run(observer: Observer, meters: Meters, stop: Stop) -> Report:
        return await run_sync(
            plan.selections, plan.target, plan.settings, observer=observer, meters=meters, stop=stop, jobs=plan.jobs
        )

    spec = common_target(plan.target, plan.selections, plan.settings)
    report, code, timeline = await watched_run(run, outputs=outputs, home=home_of(spec, plan.settings))
    if plan.verify_target and report.fatal is None and not plan.settings.dry_run:
        # Damage is graver than anything that a run which ended by itself can say.
        code = await _verified(spec, plan.settings) or code

    return report, code, timeline


async def _verified(spec: TargetSpec, settings: Settings) -> ExitCode:
    from ..mirror import recheck
    from .verify import show_damages, show_verdict

    result = await recheck.verify_target(spec, settings)
    show_damages(result)
    return show_verdict(result)
