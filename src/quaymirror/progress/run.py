"""The progress of a run: its events folded into numbers."""

from __future__ import annotations

import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import field, fields
from typing import assert_never

from .. import events
from ..events import Event, Outcome, Status
from ..text import escape_controls, one_line
from ..values import dataclass
from .failed import FailedImage
from .hosts import Hosts
from .images import FinishedImages, ImageWork, new_samples
from .meters import Meters

LAST_KEPT = 10
FAILURES_KEPT = 20
_MAX_REASONS = 20
_OTHER = "other reasons"


@dataclass(slots=True)
class RunProgress:
    """All that is known of a run. The run applies each of its events once, and everything else reads.

    `outcomes`, `failed_checks` and `findings` are the results, for the report; the rest is of bounded size.
    Texts are safe to print, except those of `run`, `finished` and the results, which are the events' own.
    """

    clock: Callable[[], float] = time.monotonic
    meters: Meters = field(default_factory=Meters)
    run: events.RunStarted | None = None
    began: float | None = None
    """The time of the start by `clock`."""
    finished: events.RunFinished | None = None
    stop_reason: str | None = None

    outcomes: list[Outcome] = field(default_factory=list)
    failed_checks: list[events.CheckFailed] = field(default_factory=list)
    unmatched: list[events.NameUnmatched] = field(default_factory=list)
    """Names of the selections that matched nothing."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The findings of occystrap's check of each derived image, by its full name."""

    pages: int = 0
    listed: int = 0
    """Repositories on the pages so far."""
    matched: int = 0
    rejected: int = 0
    """Entries of the listing that could not be read."""
    listings: int = 0
    """Selections whose listing ended, of which `complete_listings` did not break off."""
    complete_listings: int = 0
    candidates_checked: int = 0
    """Repositories with a selected tag; `tags_expected` are their images, `tags_found` the ones reported so far."""
    tags_expected: int = 0
    tags_found: int = 0
    checks_failed: int = 0
    candidates_skipped: int = 0
    candidates_ruled_out: int = 0
    """Skipped repositories that needed no check, so that they say nothing about the others."""
    skip_reasons: Counter[str] = field(default_factory=Counter)
    """The reasons of skipped repositories; `image_skip_reasons` are those of images."""
    image_skip_reasons: Counter[str] = field(default_factory=Counter)

    queued: int = 0
    """Images that ever were in the queue; `left_queue` were skipped without being started."""
    left_queue: int = 0
    started: int = 0
    began_working: float | None = None
    """The time of the first started image by `clock`."""
    images: Counter[Status] = field(default_factory=Counter)
    """Outcomes so far; a failed check counts as a failed image."""
    in_work: int = 0
    planned_in_work: int = 0
    """Images in work whose missing bytes are known: `missing_in_work` in all."""
    missing_in_work: int = 0
    fetched_by_images: int = 0
    """Bytes that finished images fetched, or would fetch in a dry run; `bytes_reused` they did not have to fetch."""
    bytes_reused: int = 0

    moved_in_run: dict[str, None] = field(default_factory=dict)
    """The images, by full name, whose tags moved during the run; those in `left_moved` had moved at its end."""
    left_moved: dict[str, None] = field(default_factory=dict)
    digest_tags: int = 0
    """Tags that name digests, on the pages of tags that were read anyway."""
    referrers: int = 0
    """Referrers that were found in this run and are at the target; `referrer_failures` are those that are not."""
    referrer_failures: int = 0
    incomplete: list[str] = field(default_factory=list)
    """The first failures of referrers, each with its image."""

    held: int = 0
    """Images whose names are held; of `held_moved` the source has another image."""
    held_moved: int = 0

    hosts: Hosts = field(default_factory=Hosts)
    worker_blobs: Counter[str] = field(default_factory=Counter)
    """The blobs that each worker of a cluster brought; `worker_bytes` are those it fetched."""
    worker_bytes: Counter[str] = field(default_factory=Counter)
    failures: list[FailedImage] = field(default_factory=list)
    """The first failed images by name, independent of the order of events."""
    refusals: list[tuple[str, str]] = field(default_factory=list)
    """The first images by name that the signature policy refused, with the reasons."""
    advice: Counter[str] = field(default_factory=Counter)
    """Advice about the failures, with the number of failures it is for."""
    retryable: int = 0
    """Failures that another run may not have."""
    last_failures: deque[FailedImage] = field(default_factory=lambda: deque(maxlen=LAST_KEPT))
    notes: list[str] = field(default_factory=list)
    """Notices that belong to the result."""
    last_notices: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_KEPT))

    work: dict[str, ImageWork] = field(default_factory=dict)
    """The images in work by full name, the first to be started first."""
    finished_images: FinishedImages = field(default_factory=FinishedImages)
    by_signal: bool = False
    """True if a signal stops the run."""
    samples: deque[int] = field(default_factory=new_samples)
    """Bytes that were to be fetched for the last images."""

    def apply(self, event: Event) -> None:  # noqa: C901  (a flat table, one entry per class of event)
        """Fold `event` into the numbers."""
        match event:
            case events.RunStarted():
                self.run, self.began = event, self.clock()
            case events.PageListed():
                self.pages += 1
                self.listed += event.repositories
                self.matched += event.matched
                self.rejected += event.rejected
            case events.ListingFinished():
                self.listings += 1
                self.complete_listings += event.complete
            case events.TagChecked():
                self.tags_found += 1
            case events.CandidateChecked():
                self.candidates_checked += 1
                self.tags_expected += event.images
            case events.CheckFailed():
                self._fail_check(event)
            case events.TagsRejected():
                self.rejected += event.rejected
            case events.DigestTagsSeen():
                self.digest_tags += event.tags
            case events.CandidateSkipped():
                self.candidates_skipped += 1
                self.candidates_ruled_out += not event.looked_at
                _count_reason(self.skip_reasons, event.reason)
            case events.NameUnmatched():
                self.unmatched.append(event)
            case events.ImageQueued():
                self.queued += 1
            case events.ImageStarted():
                self._start(event)
            case events.ImagePlanned():
                self._plan(event)
            case events.BlobFinished():
                self._fetch(event)
            case events.WorkerReported(worker, size, is_brought):
                self.worker_blobs[one_line(worker)] += is_brought
                self.worker_bytes[one_line(worker)] += size
            case events.ImageDerived():
                self.findings[event.reference.full_name] = event.findings
            case events.ImageFinished():
                self._finish(event.outcome)
            case events.RetryScheduled() | events.HostPaused() | events.HostResumed() | events.HostPaced():
                self.hosts.apply(event, self.clock())
            case events.ImagesMoved():
                (self.left_moved if event.is_left else self.moved_in_run).update(dict.fromkeys(event.names))
            case events.Notice():
                self._notice(event)
            case events.StopRequested():
                self.stop_reason, self.by_signal = one_line(event.reason), event.by_signal
            case events.RunFinished():
                self.finished = event
            case _:
                assert_never(event)

    @property
    def bytes_fetched(self) -> int:
        """Bytes received so far, kept ones of failed images included; in a dry run those that would be fetched."""
        return self.fetched_by_images if self.is_dry_run else self.meters.fetched_bytes

    @property
    def is_dry_run(self) -> bool:
        """True if the run writes nothing."""
        return self.run is not None and self.run.dry_run

    @property
    def listing_ended(self) -> bool:
        """True if the listings of all selections have ended."""
        return self.listings >= (self.run.selections if self.run else 1)

    @property
    def listing_broke_off(self) -> bool:
        """True if a listing ended early, so that images may be missing."""
        return self.complete_listings < self.listings

    @property
    def complete(self) -> bool:
        """True if everything selected was found and processed."""
        is_listed = self.run is not None and self.listing_ended and not self.listing_broke_off
        return is_listed and self.stop_reason is None and self.done - self.checks_failed >= self.tags_found

    @property
    def done(self) -> int:
        """Images that have their outcome."""
        return self.images.total()

    @property
    def failed(self) -> int:
        """Failed images and failed checks of repositories."""
        return self.images[Status.FAILED]

    @property
    def refused(self) -> int:
        """Images that the signature policy refused."""
        return self.images[Status.REFUSED]

    @property
    def skipped(self) -> int:
        """Repositories and images that were left out without an error."""
        return self.candidates_skipped + self.images[Status.SKIPPED]

    @property
    def checked(self) -> int:
        """Repositories whose tags have been checked, with any result."""
        return self.candidates_checked + self.candidates_skipped + self.checks_failed

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return max(0, self.queued - self.started - self.left_queue)

    @property
    def known_images(self) -> int:
        """Images found so far: finished, in work or to come."""
        found = max(self.tags_expected, self.tags_found, self.queued, self.started) + self.checks_failed
        return max(found, self.done + self.in_work)

    def count(self, status: Status) -> int:
        """Return how many images have `status`; skipped repositories count as skipped images."""
        return self.skipped if status is Status.SKIPPED else self.images[status]

    def totals(self) -> events.Totals:
        """Return the totals so far."""
        counts = {status.value: self.count(status) for status in Status}
        return events.Totals(**counts, bytes_fetched=self.bytes_fetched, bytes_reused=self.bytes_reused)

    def elapsed(self, now: float) -> float:
        """Return the seconds that the run took, or has taken until `now` (a time of `clock`)."""
        if self.finished is not None:
            return self.finished.elapsed

        return 0.0 if self.began is None else max(0.0, now - self.began)

    def _notice(self, event: events.Notice) -> None:
        text = one_line(event.message)
        self.last_notices.append(text)
        if event.lasting and text not in self.notes and len(self.notes) < LAST_KEPT:
            self.notes.append(text)

    def _start(self, event: events.ImageStarted) -> None:
        self.started += 1
        self.in_work += 1
        self.work[event.reference.full_name] = ImageWork(escape_controls(event.reference.name))
        if self.began_working is None:
            self.began_working = self.clock()

    def _plan(self, event: events.ImagePlanned) -> None:
        image = self.work.get(event.reference.full_name)
        if image is not None:
            is_again = image.missing is not None
            self._unplan(image)
            image.plan(event)
            self.planned_in_work += 1
            self.missing_in_work += image.missing or 0
            if not is_again:
                self.samples.append(image.bytes)

    def _fetch(self, event: events.BlobFinished) -> None:
        # The meters have the bytes of all blobs.
        image = self.work.get(event.layer_of.full_name) if event.layer_of is not None else None
        if image is not None:
            image.layers_done += 1
            image.bytes_done += event.size

    def _unplan(self, image: ImageWork) -> None:
        if image.missing is not None:
            self.planned_in_work -= 1
            self.missing_in_work -= image.missing

    def _record(self, outcome: Outcome) -> None:
        """Record the outcome of an image, instead of an earlier one if its tag moved during the run."""
        name = outcome.reference.full_name
        if name in self.moved_in_run:
            places = enumerate(self.outcomes)
            place = next((place for place, each in places if each.reference.full_name == name), None)
            if place is not None:
                self.images[self.outcomes.pop(place).status] -= 1
                self.failures = [failure for failure in self.failures if failure.name != name]
                self.refusals = [refusal for refusal in self.refusals if refusal[0] != name]

        self.outcomes.append(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._record(outcome)
        self.images[outcome.status] += 1
        self.held += outcome.reason in (events.HELD, events.HELD_MOVED)
        self.held_moved += outcome.reason == events.HELD_MOVED
        self.fetched_by_images += outcome.bytes_fetched
        self.bytes_reused += outcome.bytes_reused
        # By name, since the digest of an image may have changed after it was started.
        image = self.work.pop(outcome.reference.full_name, None)
        if image is not None:
            self.in_work -= 1
            self._unplan(image)
        else:
            self.left_queue += 1

        if image is None or image.missing is None:
            self.samples.append(outcome.bytes_fetched)

        self.finished_images.add(outcome)
        self._count_referrers(outcome)

        if outcome.status is Status.FAILED:
            self._fail(outcome)
        elif outcome.status is Status.REFUSED:
            insort(self.refusals, (escape_controls(outcome.reference.name), one_line(outcome.reason or "")))
            del self.refusals[FAILURES_KEPT:]
        elif outcome.status is Status.SKIPPED:
            _count_reason(self.image_skip_reasons, outcome.reason or "no reason given")

    def _count_referrers(self, outcome: Outcome) -> None:
        self.referrers += outcome.referrers
        self.referrer_failures += len(outcome.referrer_failures)
        room = FAILURES_KEPT - len(self.incomplete)
        name = escape_controls(outcome.reference.name)
        self.incomplete += [f"{name}: {one_line(each.message)}" for each in outcome.referrer_failures[:room]]
        self.advice.update(each.advice for each in outcome.referrer_failures if each.advice)

    def _fail_check(self, event: events.CheckFailed) -> None:
        self.failed_checks.append(event)
        self.checks_failed += 1
        self.images[Status.FAILED] += 1
        self._fail(event)

    def _fail(self, failed: Outcome | events.CheckFailed) -> None:
        failure = FailedImage.of(failed)
        self.last_failures.append(failure)
        self.retryable += failed.error is None or not failed.error.is_lasting
        if failed.error is not None and failed.error.advice:
            self.advice[failed.error.advice] += 1

        insort(self.failures, failure)
        del self.failures[FAILURES_KEPT:]


def _count_reason(reasons: Counter[str], reason: str) -> None:
    reason = one_line(reason)
    reasons[reason if reason in reasons or len(reasons) < _MAX_REASONS else _OTHER] += 1


COUNTERS = tuple(each.name for each in fields(RunProgress) if each.type == "int" or each.type.startswith("Counter["))
"""The fields that add up over several runs."""
