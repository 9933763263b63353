"""What is known of a run: events folded into numbers, and bytes sampled into rates. No I/O; every clock is injected.

Memory does not grow with the number of repositories or images: counters, the images in work (as many as there are
workers), and the last or first few of what has a text.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, assert_never

from ..events import (
    BlobFinished,
    CandidateChecked,
    CandidateSkipped,
    CheckFailed,
    Event,
    HostPaced,
    HostPaused,
    HostResumed,
    ImageDerived,
    ImageFinished,
    ImagePlanned,
    ImageQueued,
    ImageStarted,
    ListingFinished,
    Notice,
    Outcome,
    PageListed,
    RetryScheduled,
    RunFinished,
    RunStarted,
    Status,
    StopRequested,
    TagChecked,
)
from ..oci import Reference
from ..progress.meters import Progress
from ..text import one_line
from .descriptions import ImageFailure

__all__ = ["FAILURES_KEPT", "ImageFailure", "Pause", "Rates", "RunState"]

_LAST = 10
FAILURES_KEPT = 20
_MAX_REASONS = 20
_MAX_PAUSES = 32
_MAX_PACES = 96
_OTHER = "other reasons"


@dataclass(frozen=True, slots=True)
class Pause:
    """A host that asked for patience, `until` a time of the state's clock."""

    host: str
    until: float
    reason: str


class _Work(NamedTuple):
    """What is known of an image in work; nothing before it was planned."""

    missing_bytes: int = 0
    is_planned: bool = False


@dataclass(slots=True)
class RunState:
    """The counters of one run, or of `runs` that go on at once. `apply` is the only way to change them; the rest reads.

    Of several runs, `run` has what the first one said, and the jobs and selections of all that have begun.
    Texts are safe to print as they are, except those of `run` and `finished`, which are the events themselves.
    """

    clock: Callable[[], float] = time.monotonic
    runs: int = 1
    run: RunStarted | None = None
    began: float | None = None
    """When the run started, by `clock`."""
    finished: RunFinished | None = None
    """The end of the last run."""
    runs_finished: int = 0
    runs_stopping: int = 0
    stop_reason: str | None = None

    pages: int = 0
    listed: int = 0
    """Repositories of the organization seen so far."""
    matched: int = 0
    listing_ended: bool = False
    listing_complete: bool = False
    rejected: int = 0
    """Whether the listing ended, and did not break off."""
    listings: int = 0
    candidates_checked: int = 0
    """Repositories that carry a tag that is selected; `tags_expected` are their images."""
    tags_expected: int = 0
    tags_found: int = 0
    candidates_skipped: int = 0
    candidates_ruled_out: int = 0
    """Those of them that nobody had to look at: they tell nothing of how many others carry a tag."""
    skip_reasons: Counter[str] = field(default_factory=Counter)

    queued: int = 0
    """Images that ever were in the queue; `waiting` are those that still are."""
    started: int = 0
    images: Counter[Status] = field(default_factory=Counter)
    """Outcomes so far."""
    planned_bytes: int = 0
    missing_bytes: int = 0
    """What the images planned so far hold, and what of it was not there yet; shared content counts for each image."""
    blobs: int = 0
    blob_bytes: int = 0
    fetched_bytes: int = 0
    reused_bytes: int = 0
    """What the finished images caused to be fetched, and what they found here."""

    retries: int = 0
    pauses: int = 0
    paused: dict[str, Pause] = field(default_factory=dict)
    troubles: dict[str, list[int]] = field(default_factory=dict)
    """Retries and pauses of each host that there was trouble with, of the first few of them."""
    paces: dict[tuple[str, str], HostPaced] = field(default_factory=dict)
    """How much may go to each host and kind of endpoints, of the first few of them."""
    failures: list[ImageFailure] = field(default_factory=list)
    """The first of all failures by name: the same ones in whatever order they happened."""
    failure_kinds: Counter[str] = field(default_factory=Counter)
    last_failures: deque[ImageFailure] = field(default_factory=lambda: deque(maxlen=_LAST))
    last_notices: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST))

    _work: dict[str, list[_Work]] = field(default_factory=dict)
    """By name; several runs may have the same image in work."""
    _failed_checks: int = 0
    _left_queue: int = 0
    _began_working: float | None = None

    def apply(self, event: Event) -> None:  # noqa: C901  (a flat table, one line for each class of event)
        """Fold `event` into the counters."""
        match event:
            case RunStarted():
                self._begin(event)
            case PageListed():
                self._page(event)
            case ListingFinished():
                self._end_listing(event)
            case TagChecked():
                self.tags_found += 1
            case CandidateChecked():
                self.candidates_checked += 1
                self.tags_expected += event.images
            case CheckFailed():
                self._fail_check(event)
            case CandidateSkipped():
                self._skip(event)
            case ImageQueued():
                self.queued += 1
            case ImageStarted():
                self._start(event.reference)
            case ImagePlanned():
                self._plan(event)
            case BlobFinished():
                self.blobs += 1
                self.blob_bytes += event.size
            case ImageFinished():
                self._finish(event.outcome)
            case RetryScheduled():
                self.retries += 1
                self._note_trouble(event.host, 0)
            case HostPaused():
                self._pause(event)
            case HostResumed():
                self.paused.pop(one_line(event.host), None)
            case HostPaced():
                self._pace(event)
            case ImageDerived():
                pass  # what was printed is a result: it goes to stdout, and the outcome follows
            case Notice():
                self.last_notices.append(one_line(event.message))
            case StopRequested():
                self._stop(event)
            case RunFinished():
                self.runs_finished += 1
                self.finished = event if self.runs_finished >= self.runs else None
            case _:
                assert_never(event)

    @property
    def done(self) -> int:
        """Images that have their outcome."""
        return self.images.total()

    @property
    def failed(self) -> int:
        """Images that failed, and repositories that could not be checked."""
        return self.images[Status.FAILED]

    @property
    def skipped(self) -> int:
        """Repositories and images that were left out, and that is no error."""
        return self.candidates_skipped + self.images[Status.SKIPPED]

    @property
    def checked(self) -> int:
        """Candidates whose tag was looked for, found or not."""
        return self.candidates_checked + self.candidates_skipped + self._failed_checks

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return max(0, self.queued - self.started - self._left_queue)

    @property
    def in_work(self) -> int:
        """Images that a worker has."""
        return sum(map(len, self._work.values()))

    @property
    def known_images(self) -> int:
        """Images of this run as far as they were found: those with an outcome and those still to come."""
        found = max(self.tags_expected, self.tags_found, self.queued, self.started) + self._failed_checks
        return max(found, self.done + self.in_work)

    @property
    def expected_images(self) -> float | None:
        """How many images the run will have: what is known, and the usual part of what is not checked yet.

        None while candidates are still being listed, or there is nothing to tell the usual part from.
        """
        unchecked = self.matched - self.checked
        if not self.listing_ended:
            return None

        if unchecked <= 0:
            return self.known_images

        looked_at = self.checked - self.candidates_ruled_out
        return self.known_images + unchecked * self.tags_expected / looked_at if looked_at > 0 else None

    @property
    def likely_images(self) -> int:
        """How many images the run will have by what is known now: too few while it is being listed."""
        expected = self.expected_images
        return self.known_images if expected is None else max(self.known_images, round(expected))

    def total_text(self, *, more: str = "+", about: str = "~") -> str:
        """Return that number as it has to be read: `120+` while it is being listed, `~300` while some are unchecked."""
        likely, known = self.likely_images, self.known_images
        if self.expected_images is None:
            return f"{known:,}{more}"

        return f"{about}{likely:,}" if likely > known else f"{known:,}"

    def remaining_bytes(self, fetched_bytes: int) -> float | None:
        """Return how much is to be fetched still when `fetched_bytes` of the whole run were; None: can't be told yet.

        For images in work that is what they miss; for those to come, the mean of all images whose need is known.
        """
        planned = self._planned()
        missing = sum(planned)
        here = max(0, missing - max(0, fetched_bytes - self.fetched_bytes))
        to_come = self._to_come(len(planned))
        if to_come is None or to_come <= 0:
            return None if to_come is None else here

        samples = self.done - self.images[Status.SKIPPED] + len(planned)
        # Two images are no mean.
        return here + to_come * (self.fetched_bytes + missing) / samples if samples >= 3 else None

    def work_sums(self) -> tuple[int, int, int]:
        """Return how many images are in work, how many of them are planned, and what those miss in all, in bytes."""
        planned = self._planned()
        return self.in_work, len(planned), sum(planned)

    def restore_work(self, images: int, planned: int, missing_bytes: int) -> None:
        """Make it what `work_sums` told of another state; the images themselves stay unknown."""
        share = missing_bytes // planned if planned else 0
        self._work = {str(number): [_Work(share, is_planned=True)] for number in range(planned)}
        self._work |= {str(number): [_Work()] for number in range(planned, images)}

    def _planned(self) -> list[int]:
        """Return what each image in work misses, of those of which that is known."""
        return [work.missing_bytes for works in self._work.values() for work in works if work.is_planned]

    def remaining_by_pace(self) -> float | None:
        """Return how many seconds are left if images go on being finished as fast as they were."""
        left = self._to_come(0)
        if left is None or self._began_working is None or self.done < 3:
            return None

        return max(0.0, left) * (self.clock() - self._began_working) / self.done

    def elapsed(self, now: float) -> float:
        """Return the seconds that the run took, or has taken until `now` (a time of the state's clock)."""
        if self.finished is not None:
            return self.finished.elapsed

        return 0.0 if self.began is None else max(0.0, now - self.began)

    def paces_of(self, host: str) -> list[HostPaced]:
        """Return how much may go to `host`, for each kind of its endpoints."""
        return [pace for (name, _), pace in self.paces.items() if name == host]

    def throttled(self, host: str) -> int:
        """Return how often `host` has asked for less."""
        return sum(pace.throttled for pace in self.paces_of(host))

    def paused_at(self, now: float) -> list[Pause]:
        """Return the pauses that last at `now`, the longest first."""
        return sorted((pause for pause in self.paused.values() if pause.until > now), key=lambda p: -p.until)

    def _to_come(self, planned: int) -> float | None:
        """Images without an outcome, less those `planned`; after a stop those in work are the last ones."""
        if self.stop_reason is not None:
            return self.in_work - planned

        expected = self.expected_images
        return None if expected is None else expected - self.done - planned

    def _begin(self, event: RunStarted) -> None:
        if self.run is None:
            self.run, self.began = event, self.clock()
            return

        jobs, selections = self.run.jobs + event.jobs, self.run.selections + event.selections
        targets = dict.fromkeys([*self.run.target.split(", "), event.target])
        self.run = replace(self.run, jobs=jobs, selections=selections, target=", ".join(targets))
        self.listing_ended = self.listings >= selections

    def _stop(self, event: StopRequested) -> None:
        """One of several runs may end early, because its disk is full for instance, and the others go on."""
        self.runs_stopping += 1
        if self.runs_stopping + self.runs_finished >= self.runs:
            self.stop_reason = one_line(event.reason)
        else:
            self.last_notices.append(one_line(f"one of {self.runs:,} runs is stopping: {event.reason}"))

    def _page(self, event: PageListed) -> None:
        self.pages += 1
        self.listed += event.repositories
        self.matched += event.matched
        self.rejected += event.rejected

    def _end_listing(self, event: ListingFinished) -> None:
        self.listings += 1
        self.listing_complete = event.complete and (self.listing_complete or self.listings == 1)
        self.listing_ended = self.listings >= (self.run.selections if self.run else 1)

    def _skip(self, event: CandidateSkipped) -> None:
        self.candidates_skipped += 1
        self.candidates_ruled_out += not event.looked_at
        self._count_reason(event.reason)

    def _count_reason(self, reason: str) -> None:
        reason = one_line(reason)
        is_new = reason not in self.skip_reasons
        self.skip_reasons[_OTHER if is_new and len(self.skip_reasons) >= _MAX_REASONS else reason] += 1

    def _start(self, reference: Reference) -> None:
        self.started += 1
        self._work.setdefault(reference.full_name, []).insert(0, _Work())
        if self._began_working is None:
            self._began_working = self.clock()

    def _plan(self, event: ImagePlanned) -> None:
        self.planned_bytes += event.total_bytes
        self.missing_bytes += event.missing_bytes
        works = self._work.get(event.reference.full_name)
        if works:
            # Those that are not planned yet are first: of the same image in two runs, one plan is as good as the other.
            works[0] = _Work(event.missing_bytes, is_planned=True)
            works.sort(key=lambda work: work.is_planned)

    def _finish(self, outcome: Outcome) -> None:
        self.images[outcome.status] += 1
        self.fetched_bytes += outcome.bytes_fetched
        self.reused_bytes += outcome.bytes_reused
        # By name, since an image may have been pinned to a digest after it was started.
        works = self._work.get(outcome.reference.full_name, [])
        if works:
            works.pop()
        else:
            self._left_queue += 1

        if not works:
            self._work.pop(outcome.reference.full_name, None)

        if outcome.status is Status.FAILED:
            self._fail(ImageFailure.of(outcome))
        elif outcome.status is Status.SKIPPED:
            self._count_reason(outcome.reason or "no reason given")

    def _fail_check(self, event: CheckFailed) -> None:
        self._failed_checks += 1
        self.images[Status.FAILED] += 1
        self._fail(ImageFailure.of_check(event))

    def _fail(self, failure: ImageFailure) -> None:
        self.last_failures.append(failure)
        self.failure_kinds[failure.kind] += 1
        insort(self.failures, failure)
        del self.failures[FAILURES_KEPT:]

    def _note_trouble(self, host: str, kind: int) -> None:
        host = one_line(host)
        if host in self.troubles or len(self.troubles) < _MAX_PAUSES:
            self.troubles.setdefault(host, [0, 0])[kind] += 1

    def _pause(self, event: HostPaused) -> None:
        now = self.clock()
        self.pauses += 1
        self._note_trouble(event.host, 1)
        self.paused = {host: pause for host, pause in self.paused.items() if pause.until > now}
        host = one_line(event.host)
        if len(self.paused) < _MAX_PAUSES or host in self.paused:
            self.paused[host] = Pause(host, now + event.seconds, one_line(event.reason))

    def _pace(self, event: HostPaced) -> None:
        key = one_line(event.host), one_line(event.kind)
        if len(self.paces) < _MAX_PACES or key in self.paces:
            self.paces[key] = replace(event, host=key[0], kind=key[1])


class Rates:
    """How fast bytes come: `sample` looks at the meters, as often as one likes; the rest reads."""

    CURRENT_SECONDS = 8.0
    STEADY_SECONDS = 60.0
    BUCKET_SECONDS = 5.0
    # Ten samples a second are enough, and bound what is kept.
    _PERIOD = 0.1

    def __init__(self, meters: Progress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meters = meters
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(self.STEADY_SECONDS / self._PERIOD) + 2)
        self._bucket: tuple[float, int] | None = None
        self._history: deque[float] = deque(maxlen=240)

    def sample(self) -> None:
        """Take note of how many bytes have been fetched by now."""
        now, count = self._clock(), self._meters.fetched_bytes
        if self._samples and now - self._samples[-1][0] < self._PERIOD:
            return

        self._samples.append((now, count))
        # The first sample outside stays: it is the far end of the window.
        while len(self._samples) > 2 and now - self._samples[1][0] >= self.STEADY_SECONDS:
            self._samples.popleft()

        self._fill_buckets(now, count)

    @property
    def current(self) -> float | None:
        """Bytes a second over the last few seconds; None: too early to tell."""
        return self._over(self.CURRENT_SECONDS)

    @property
    def steady(self) -> float | None:
        """Bytes a second over the last minute, for looking ahead; None: too early to tell."""
        return self._over(self.STEADY_SECONDS)

    @property
    def history(self) -> tuple[float, ...]:
        """Bytes a second, a value for each five seconds of the last minutes, oldest first."""
        return tuple(self._history)

    def summary(self, state: RunState) -> dict[str, object]:
        """Return everything that is known of the rates as JSON values."""
        history = [round(value) for value in self.history]
        return {"current": self.current, "steady": self.steady, "history": history, "eta": self.eta(state)}

    def eta(self, state: RunState) -> float | None:
        """Return the seconds that are left of the run by what is known now; None where that would be a guess."""
        remaining = state.remaining_bytes(self._meters.fetched_bytes)
        if remaining is None:
            return None

        if remaining <= 0:
            return state.remaining_by_pace()

        rate = self.steady
        return remaining / rate if rate else None

    def _over(self, window: float) -> float | None:
        if not self._samples:
            return None

        now, count = self._samples[-1]
        earlier = islice(reversed(self._samples), 1, None)
        # The samples after that are older still; none is that old: the oldest has to do.
        then, before = next((sample for sample in earlier if now - sample[0] >= window), self._samples[0])
        return (count - before) / (now - then) if now - then >= 1 else None

    def _fill_buckets(self, now: float, count: int) -> None:
        start, before = self._bucket or (now, count)
        full = int((now - start) / self.BUCKET_SECONDS)
        if full:
            # After a gap the mean of the whole gap is the best that is known of each part.
            self._history.extend([(count - before) / (now - start)] * min(full, self._history.maxlen or full))
            start, before = now, count

        self._bucket = (start, before)
