"""The images of a lock file: those that a run has found, with the referrers that its target has of them."""

from __future__ import annotations

from collections.abc import Sequence

from ..events import Status
from ..oci import Reference
from ..referrers.choice import ReferrerMode
from ..selection.rename import Renames
from ..selection.selection import LockedReferrer
from ..store.records import ReferrerRecord
from .jobs import Job
from .report import Report


def locked_images(job: Job, report: Report) -> dict[Reference, Sequence[LockedReferrer] | None]:
    """Return the images of the `report` of a `job`, with their referrers, None if these are not known. It blocks.

    They are not known of a dry run, of a run without referrers, and of images that the target does not have or whose
    referrers could not all be mirrored.

    :raises StoreError: if the state of the target can't be read.
    """
    images: dict[Reference, Sequence[LockedReferrer] | None] = dict.fromkeys(
        outcome.reference for outcome in report.outcomes
    )
    if report.dry_run or job.options.discovery.referrers is ReferrerMode.NONE:
        return images

    renames = Renames(job.options.target.renames)
    named = {
        renames.apply(outcome.reference): outcome.reference
        for outcome in report.outcomes
        if outcome.status in (Status.MIRRORED, Status.UNCHANGED) and not outcome.referrer_failures
    }
    for reference, records in job.spec.attached(job.options, named).items():
        images[named[reference]] = [_locked(record) for record in records]

    return images


def _locked(record: ReferrerRecord) -> LockedReferrer:
    return LockedReferrer(record.subject, record.root.digest, record.artifact_type, record.tag)
