"""Recording of images that discovery did not find any more, and their pruning."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from ..catalog.kinds import traits_of
from ..errors import ConfigError, DiscoveryIncomplete, QuaymirrorError
from ..events import Notice, Observer, Outcome, ignore
from ..selection.rename import Renames
from ..selection.selection import Selection
from ..settings import Options, PruneOptions
from ..store.layout import OCILayout
from ..store.records import DiscoverySnapshot, ImageRecord, PastRun
from ..store.snapshots import SnapshotNote
from ..store.state import State
from ..store.storage import Storage
from ..text import counted, human_bytes
from ..transfer.target import PrunableTarget
from .wiring import Accounts

if TYPE_CHECKING:
    from ..store.prune import PrunePlan, PruneProgress

Unselected = Callable[[Iterable[str]], Collection[str]]
"""Returns those of the names of all images that no job selects."""


async def record_absences(
    layout: PrunableTarget,
    selections: Sequence[Selection],
    options: Options,
    observer: Observer,
    *,
    found: Sequence[Outcome] | None,
    accounts: Accounts,
) -> bool:
    """Record which images of `selections` were `found`, None if discovery was incomplete.

    The rights of `accounts` that list repositories may be for some only.

    Return True if the options ask for pruning, and the discovery allows it.

    :raises StoreError: if the disk fails.
    """
    counts = True
    # With --since or from a lock file a run does not see everything that exists.
    seeing = [selection for selection in selections if _sees_all(selection, options)]
    is_partial = False
    for selection in seeing:
        by_account = selection.source is None and await accounts.has(selection.organization)
        is_partial |= by_account
        seen = None if by_account else found
        record = partial(_record, selection=selection, options=options, found=seen, by_account=by_account)
        counts &= await layout.use(record)

    if not options.prune.prune or not seeing:
        return False

    if not counts:
        reason = "this discovery was not complete" if found is None else "an earlier run saw more, with an API token"
        if is_partial:
            reason = "the account may not see all repositories; a token for Quay's API would (--token-file)"

        observer(Notice(f"nothing is pruned: {reason}"))

    return counts


async def carry_out(
    layout: PrunableTarget,
    options: PruneOptions,
    note: SnapshotNote | None = None,
    progress: PruneProgress | None = None,
    unselected: Unselected | None = None,
) -> PrunePlan:
    """Prune a layout that is open for writing, and return the plan that was carried out.

    A snapshot that this makes is described by `note`.

    :raises QuaymirrorError: as `prune_layout`.
    """
    from ..store import prune

    note = note or prune.PRUNED
    with layout.alone():
        plan = await layout.use(_planning(options, note, progress, unselected))
        excess = plan.excess(options.max_delete)
        if excess is not None:
            raise DiscoveryIncomplete(excess)

        await layout.use(partial(prune.carry_out, plan=plan, note=note, progress=progress))

    return plan


async def prune_layout(
    path: Path,
    options: PruneOptions,
    *,
    dry_run: bool,
    observer: Observer = ignore,
    progress: PruneProgress | None = None,
    unselected: Unselected | None = None,
) -> PrunePlan:
    """Prune the layout at `path`, and return the plan that was carried out, or would be in a dry run.

    The images that `unselected` returns are deleted, too; see `unselected_names`. `progress` is kept up to date in the
    meantime.

    :raises DiscoveryIncomplete: if more than `max_delete` percent of a selection's images would be deleted; a dry run
        does not check that.
    :raises TargetRefused: if something else is at `path`.
    :raises LockHeld: if a run writes to the layout, or if it is being read.
    :raises MirrorDamaged: if a manifest is damaged, so that the blobs it needs are unknown.
    :raises StoreError: if the disk fails.
    """
    if dry_run:
        from ..store import prune

        async with OCILayout.inspect(path) as layout:
            return await layout.use(_planning(options, prune.PRUNED, progress, unselected))

    async with OCILayout.open(path, observer=observer) as layout:
        started = time.time()
        plan = await carry_out(layout, options, progress=progress, unselected=unselected)
        await anyio.to_thread.run_sync(partial(_record_prune, path, plan, started, observer))
        return plan


def _record_prune(path: Path, plan: PrunePlan, started: float, observer: Observer) -> None:
    """Store a prune in the history of a layout."""
    from ..store.history import History

    run = PastRun(
        id=secrets.token_hex(4),
        subject="{}",
        started=started,
        elapsed=time.time() - started,
        exit_code=0,
        complete=False,
        images={},
        bytes_fetched=0,
        kind="prune",
        remark=summary(plan, done=True),
    )
    try:
        history, _ = History.open(path / ".quaymirror")
        with closing(history):
            history.record(run, None)
    except QuaymirrorError as error:
        observer(Notice(f"this prune is not in the history: {error.message}"))


def _planning(
    options: PruneOptions, note: SnapshotNote, progress: PruneProgress | None, unselected: Unselected | None
) -> Callable[[Storage, State], PrunePlan]:
    from ..store import prune

    plan = partial(prune.make_plan, grace=options.grace, retention=options.retention, note=note, progress=progress)
    return partial(plan, unselected=unselected)


def check(selections: Sequence[Selection], options: Options, *, is_prunable: bool) -> None:
    """Check that the options allow pruning if it is requested.

    :raises ConfigError: for a selection that does not see everything, or a target that is not a layout.
    """
    if not options.prune.prune:
        return

    if any(selection.since is not None for selection in selections):
        raise ConfigError("--prune and --since exclude each other: old images would look deleted")

    if any(selection.labels for selection in selections):
        raise ConfigError("--prune and --image-label exclude each other: images without the label would look deleted")

    if all(selection.pinned for selection in selections):
        raise ConfigError("--prune and --from-lock exclude each other: a lock file does not list the source")

    for selection in selections:
        traits = traits_of(selection, options.discovery.discovery)
        if not traits.shows_absence:
            raise ConfigError(
                f"--prune does not work with {traits.name}, whose listing does not prove that an image was deleted"
            )

    if not is_prunable:
        raise ConfigError("--prune needs an OCI image layout as target")


def summary(plan: PrunePlan, *, done: bool) -> str:
    """Return the description of a plan, as carried out if `done`."""
    if not plan.is_empty:
        partials = f" and {counted(len(plan.partials), 'interrupted transfer')}" if plan.partials else ""
        text = (
            f"{'untagged' if done else 'would untag'} {counted(len(plan.untag), 'image')} and "
            f"{'deleted' if done else 'delete'} {counted(len(plan.remove), 'blob')}{partials} "
            f"({human_bytes(plan.freed_bytes)})"
        )
        if plan.referrers:
            text += f"; {'removed' if done else 'would remove'} {counted(len(plan.referrers), 'missing referrer')}"

        if plan.drop:
            text += f"; {'gave' if done else 'would give'} up the content of {counted(len(plan.drop), 'snapshot')}"
    else:
        text = "nothing to prune"

    waiting = counted(len(plan.waiting), "more image is", "more images are")
    later = counted(len(plan.later), "more blob is", "more blobs are")
    text += f"; {waiting} missing, but within the grace period or uncertain" if plan.waiting else ""
    text += f"; {later} deleted later" if plan.later else ""
    return text + (f", {human_bytes(plan.promised_bytes)} kept for an import" if plan.promised_bytes else "")


def _record(
    _storage: Storage,
    state: State,
    *,
    selection: Selection,
    options: Options,
    found: Sequence[Outcome] | None,
    by_account: bool,
) -> bool:
    registry = options.source.address_of(selection).registry_name
    renames = Renames(options.target.renames)
    present = frozenset(renames.apply(outcome.reference).name for outcome in found or ())
    covered = {record.name for record in state.images() if covers(selection, registry, record, renames)}
    return state.record_discovery(
        DiscoverySnapshot(
            scope=_scope(registry, selection),
            found=present & covered,
            absent=frozenset(covered - present) if found is not None else frozenset(),
            complete=found is not None,
            authenticated=by_account or (options.source.api_token is not None and selection.source is None),
            moment=time.time(),
        )
    )


def _scope(registry: str, selection: Selection) -> str:
    """Return the text that identifies a selection; a list is called by its hash."""
    words = str(selection)
    if selection.exact:
        pairs = " ".join(f"{repository}:{tag}" for repository, tag in selection.exact)
        words = f"{selection.prefix}{selection.names}:{selection.tag_names} {sha256(pairs.encode()).hexdigest()[:16]}"

    return " ".join([registry, words, *(f"!{glob}" for glob in selection.exclude)])


def _sees_all(selection: Selection, options: Options) -> bool:
    """Return True if the listing of `selection` shows that an image does not exist any more."""
    is_partial = selection.since is not None or bool(selection.pinned) or bool(selection.labels)
    return not is_partial and traits_of(selection, options.discovery.discovery).shows_absence


def covers(selection: Selection, registry: str, record: ImageRecord, renames: Renames) -> bool:
    """Return True if `selection` of images in `registry` selects the name of `record`."""
    name = renames.restore(registry, record.name) if renames else record.name
    return record.registry == registry and name is not None and selection.covers(name)
