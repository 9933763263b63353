"""Publication of a run's set of images: its time, its snapshot, and the names that must not move."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..errors import ContentError, Failure
from ..events import HELD, HELD_MOVED, Notice, Outcome, Status
from ..oci import Digest, Reference
from ..selection.rename import Renames
from ..store.index import update_index
from ..store.snapshots import SnapshotNote, hold_back, take_snapshot
from ..store.state import State
from ..store.storage import Storage
from ..text import counted
from ..transfer.target import PrunableTarget
from .context import Run
from .report import Report

WENT_BACK = "went back to an image that the mirror held before"


class OlderImage(ContentError):
    """A tag went back to an image that the mirror held before, and `--refuse-older` keeps the newer one."""


class Publication:
    """The set of images of one run in a layout."""

    def __init__(self, run: Run, layout: PrunableTarget, held: Mapping[str, Digest | None]) -> None:
        self._run = run
        self._layout = layout
        self._held = held
        self._renames = Renames(run.options.target.renames)

    @classmethod
    async def begin(cls, run: Run, layout: PrunableTarget) -> Publication:
        """Prepare `layout` for a run: with `--publish end`, readers see the present set until the run has ended.

        :raises StoreError: if the disk fails.
        """
        if not run.options.target.dry_run:
            await layout.use(partial(hold_back, until_end=run.options.publishing.at_end))

        return cls(run, layout, await layout.use(_held))

    async def judge(self, reference: Reference) -> Outcome | None:
        """Return the outcome of an image that the run must not mirror, None for one that it may.

        :raises StoreError: if the disk fails.
        """
        name = self._renames.apply(reference).name
        if name in self._held:
            present = self._held[name]
            reason = HELD if present == reference.digest else HELD_MOVED
            return Outcome(reference, Status.SKIPPED if present is None else Status.UNCHANGED, reason=reason)

        if not self._run.options.publishing.refuse_older or not await self._layout.use(
            partial(_is_older, reference, name)
        ):
            return None

        error = OlderImage("the tag went back to an earlier image: the newer one stays because of --refuse-older")
        return Outcome(reference, Status.FAILED, error=Failure.of(error))

    async def note(self, outcome: Outcome) -> Outcome:
        """Return `outcome` with a remark if its tag went back to an earlier image."""
        if outcome.status is not Status.MIRRORED or outcome.reason is not None:
            return outcome

        name = self._renames.apply(outcome.reference).name
        went_back = await self._layout.use(partial(_is_older, outcome.reference, name))
        return outcome.remarked(WENT_BACK) if went_back else outcome

    def snapshot_note(self, report: Report) -> SnapshotNote:
        """Return the description of the snapshot that the run makes."""
        label = self._run.options.publishing.snapshot_label or ""
        is_complete = report.complete and not report.progress.failed and not report.progress.refused
        return SnapshotNote("sync", self._run.run_id, label, is_complete, of_images=True)

    async def publish(self, report: Report) -> bool:
        """Let readers see the set of the run, and make a snapshot of it; return False if there is an obstacle.

        :raises StoreError: if the disk fails.
        """
        if not may_publish(self._run, report):
            return False

        await self._layout.use(partial(_publish, note=self.snapshot_note(report)))
        return True


def obstacle(run: Run, report: Report) -> str:
    """Return the reason why readers must not see the set of the run, "" if they may."""
    options = run.options.publishing
    if not options.at_end:
        return ""

    if report.fatal is not None:
        return "the run failed"

    if not report.complete:
        return "the run did not see everything"

    failed, refused = report.progress.failed - report.accepted_failures, report.progress.refused
    if failed + refused <= options.max_failed:
        return ""

    words = "failed or were refused" if refused else "failed"
    return f"{counted(failed + refused, 'image')} {words}, more than --max-failed"


def may_publish(run: Run, report: Report) -> bool:
    """Return True if readers may see the set of the run; otherwise say why not."""
    reason = obstacle(run, report)
    if reason:
        run.emit(Notice(f"nothing was published, the last complete set stays: {reason}"))

    return not reason


def _publish(storage: Storage, state: State, *, note: SnapshotNote) -> None:
    take_snapshot(storage, state, note)
    update_index(storage, state)


def _held(_storage: Storage, state: State) -> dict[str, Digest | None]:
    """Return the held names, with the digest at the source of the image that the mirror has."""
    names = [hold.name for hold in state.holds()]
    sources = {record.name: record.source for record in state.images()} if names else {}
    return {name: sources.get(name) for name in names}


def _is_older(reference: Reference, name: str, _storage: Storage, state: State) -> bool:
    assert reference.digest is not None
    return state.held_before(name, reference.digest)
