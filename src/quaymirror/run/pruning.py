"""What a discovery says about images that are not there any more, and what is done about them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import ConfigError, DiscoveryIncomplete
from ..events import Notice, Observer, Outcome
from ..selection.selection import Selection
from ..settings import Options
from ..store import prune
from ..store.layout import OCILayout
from ..store.prune import Plan
from ..store.records import DiscoverySnapshot, ImageRecord
from ..store.state import State
from ..store.storage import Storage
from ..transfer.target import PrunableTarget
from .report import Report


async def record_absences(
    layout: PrunableTarget,
    selections: Sequence[Selection],
    settings: Options,
    observer: Observer,
    *,
    found: Sequence[Outcome] | None,
) -> None:
    """Remember which images of `selections` were `found`, None if not all of them could be, and prune if so wanted.

    :raises DiscoveryIncomplete: when too much would go for it to be believed.
    :raises LockHeld: when somebody reads the mirror now.
    :raises MirrorDamaged: when nobody knows what a damaged manifest needs.
    :raises StoreError: when the disk fails.
    """
    counts = True
    for selection in filter(_sees_everything, selections):
        counts &= await layout.use(partial(_note, selection=selection, settings=settings, found=found))

    if not settings.prune.prune or not any(map(_sees_everything, selections)):
        return

    if not counts:
        why = "this discovery was not complete" if found is None else "an earlier run saw more, with an API token"
        observer(Notice(f"nothing is pruned: {why}"))
        return

    plan = await carry_out(layout, settings.prune.grace, settings.prune.max_delete)
    observer(Notice(f"pruned: {summary(plan)}"))


async def carry_out(layout: PrunableTarget, grace: float, max_delete: float) -> Plan:
    """Prune a layout that is open for writing, and return what was done.

    :raises DiscoveryIncomplete: when more than `max_delete` percent of a selection's images would go.
    :raises LockHeld, MirrorDamaged, StoreError: as `record_absences`.
    """
    with layout.alone():
        plan = await layout.use(partial(prune.make_plan, grace=grace))
        excess = plan.excess(max_delete)
        if excess is not None:
            raise DiscoveryIncomplete(excess)

        await layout.use(partial(prune.carry_out, plan=plan))

    return plan


async def plan_only(path: Path, grace: float) -> Plan:
    """Return what would be pruned of the layout at `path`; nothing is written.

    :raises MirrorDamaged, StoreError: as `record_absences`.
    """
    async with OCILayout.inspect(path) as layout:
        return await layout.use(partial(prune.make_plan, grace=grace))


def check(selections: Sequence[Selection], settings: Options, *, is_prunable: bool) -> None:
    """Refuse what can't be pruned.

    :raises ConfigError: for a selection that does not see everything, or a target that is no layout.
    """
    if settings.prune.prune and any(selection.since is not None for selection in selections):
        raise ConfigError("--prune and --since don't go together: what is old would look as if it were gone")

    if settings.prune.prune and any(selection.pinned for selection in selections):
        raise ConfigError("--prune and --from-lock don't go together: nothing is looked for")

    if settings.prune.prune and not is_prunable:
        raise ConfigError("--prune is for a mirror in an OCI image layout: other targets keep what they have")


def seen(report: Report) -> Sequence[Outcome] | None:
    """Return the outcomes of images that exist, None if that could not be told of some."""
    return report.outcomes if report.is_whole else None


def summary(plan: Plan) -> str:
    """Return in words what a plan does."""
    return (
        f"{len(plan.untag):,} images untagged, {len(plan.remove):,} blobs and {len(plan.partials):,} partial files "
        f"removed ({plan.freed_bytes:,} bytes); for later: {len(plan.waiting):,} images, {len(plan.later):,} blobs"
    )


def _sees_everything(selection: Selection) -> bool:
    """Whether what a run of it does not find is gone: what is old looks so to --since, and a lock looks for nothing."""
    return selection.since is None and not selection.pinned


def _note(
    _storage: Storage, state: State, *, selection: Selection, settings: Options, found: Sequence[Outcome] | None
) -> bool:
    registry = settings.source.origin.netloc
    there = frozenset(outcome.reference.name for outcome in found or ())
    covered = {record.name for record in state.images() if _covers(selection, registry, record)}
    return state.record_discovery(
        DiscoverySnapshot(
            scope=" ".join([registry, str(selection), *(f"!{glob}" for glob in selection.exclude)]),
            found=there & covered,
            absent=frozenset(covered - there) if found is not None else frozenset(),
            complete=found is not None,
            authenticated=settings.source.api_token is not None,
            moment=time.time(),
        )
    )


def _covers(selection: Selection, registry: str, record: ImageRecord) -> bool:
    repository, _, tag = record.name.rpartition(":")
    organization, _, name = repository.partition("/")
    return (
        (record.registry, organization) == (registry, selection.organization)
        and selection.matches_tag(tag)
        and selection.matches(name)
    )
