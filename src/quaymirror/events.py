"""Events of a run.

Events are frozen, small and made of plain values. Received bytes are no events, because an event per chunk would cost
more than the chunk: see `progress.meters`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from .errors import Failure
from .oci import Digest, Reference
from .values import dataclass


class Status(Enum):
    """The outcomes of an image."""

    MIRRORED = "mirrored"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"
    REFUSED = "refused"


HELD = "held"
"""The reason of an image whose name is held."""
HELD_MOVED = "held, and the source has another image"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one image; each selected reference has exactly one.

    `bytes_fetched` were received for this image, `bytes_reused` were there already or fetched for another image;
    `elapsed` is in seconds. `reason` explains why an image was skipped, or refused by a signature policy. `referrers`
    were found for it in this run, and are at the target; `referrer_failures` are those of others, which the next run
    tries again.
    """

    reference: Reference
    status: Status
    bytes_fetched: int = 0
    bytes_reused: int = 0
    elapsed: float = 0.0
    reason: str | None = None
    error: Failure | None = None
    referrers: int = 0
    referrer_failures: tuple[Failure, ...] = ()

    def remarked(self, reason: str) -> Outcome:
        """Return a copy with this reason."""
        return replace(self, reason=reason)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began. `started` is POSIX time, `jobs` are the names of its jobs, if any.

    Of several `selections`, organization, glob and tag are those of the first. `limit_rate` (bytes per second) and
    `max_requests_per_second` are the user's limits for the source, None without a limit.
    """

    run_id: str
    server: str
    organization: str
    glob: str
    tag: str
    target: str
    started: float
    dry_run: bool = False
    jobs: tuple[str, ...] = ()
    selections: int = 1
    limit_rate: int | None = None
    max_requests_per_second: float | None = None
    planning: bool = False
    """True if a dry run makes a plan for shards."""
    takes_referrers: bool = True
    """False if digest tags and other referrers are left at the source."""


@dataclass(frozen=True, slots=True)
class PageListed:
    """A page of the listing arrived: `matched` of its `repositories` match; `rejected` entries were unreadable."""

    number: int
    repositories: int
    matched: int
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class ListingFinished:
    """The listing ended. `complete` is false if it broke off."""

    pages: int
    complete: bool


@dataclass(frozen=True, slots=True)
class TagChecked:
    """A repository has a selected tag."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class CandidateChecked:
    """The tags of a matching repository were checked; a `TagChecked` follows for each of its selected `images`."""

    repository: str
    images: int


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """The tags of a repository could not be checked; it counts as one failed image."""

    repository: str
    tag: str
    error: Failure


@dataclass(frozen=True, slots=True)
class CandidateSkipped:
    """A matching repository is not mirrored, because it lacks the tag or is too old, for instance.

    `looked_at` is false if the listing alone was enough to decide that.
    """

    repository: str
    reason: str
    looked_at: bool = True


@dataclass(frozen=True, slots=True)
class NameUnmatched:
    """A name without wildcard matched nothing: a repository, a tag (`*:2025.1`) or an image; with the `nearest` names.

    It comes after everything else of its selection.
    """

    name: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TagsRejected:
    """Tags of a repository were left out, because no tag can have such a name."""

    repository: str
    rejected: int


@dataclass(frozen=True, slots=True)
class DigestTagsSeen:
    """A list of tags showed `tags` that name digests: they belong to images, and are no images of their own."""

    repository: str
    tags: int


@dataclass(frozen=True, slots=True)
class ImageQueued:
    """An image waits for a worker."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """A worker started on an image."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class ImagePlanned:
    """The manifests of an image are known: `blobs` of `total_bytes`, of which the target lacks `missing_bytes`.

    `own_layers` of `own_bytes` are fetched for this image, the others for images before it. Null: all.
    """

    reference: Reference
    blobs: int
    total_bytes: int
    missing_bytes: int
    own_layers: int | None = None
    own_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BlobFinished:
    """A blob was fetched, verified and stored; `layer_of` is the image that a layer was fetched for."""

    digest: Digest
    size: int
    layer_of: Reference | None = None


@dataclass(frozen=True, slots=True)
class WorkerReported:
    """A worker of a cluster has carried out an order: `brought` is False if it could not bring the blob.

    `bytes_fetched` counts what it received from the source, an interrupted transfer included.
    """

    worker: str
    bytes_fetched: int
    brought: bool


@dataclass(frozen=True, slots=True)
class ImageDerived:
    """An image went through occystrap's pipeline: the lines that filters printed, and the findings of its check."""

    reference: Reference
    printed: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """An image has its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ImagesMoved:
    """The tags of images moved during the run, by full names. They are mirrored again, or left if `is_left`."""

    names: tuple[str, ...]
    is_left: bool = False


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed and will be retried in `wait` seconds; `attempt` counts from 1."""

    what: str
    attempt: int
    wait: float
    cause: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class HostPaused:
    """A host gets no requests for `seconds`."""

    host: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class HostResumed:
    """The pause of a host is over: requests go out again, or a host that was down has answered."""

    host: str


@dataclass(frozen=True, slots=True)
class HostPaced:
    """The limits of one kind of endpoints of a host changed notably: `window` concurrent requests, `rate` per second.

    A rate of None is unlimited. `throttled` counts the answers so far that asked for fewer requests, mostly 429.
    """

    host: str
    kind: str
    window: int
    rate: float | None
    throttled: int


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for people. One that is `lasting` belongs to the result of the run: the summary has it, too."""

    message: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The run starts no new images, and finishes those in flight, for a few seconds after a signal."""

    reason: str
    by_signal: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a run, as its report has them.

    `bytes_fetched` are all received bytes, those of failed images included, in a dry run the ones to be fetched.
    """

    mirrored: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    refused: int = 0
    bytes_fetched: int = 0
    bytes_reused: int = 0


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """The numbers of images that are new, have moved to another digest, or are missing at the source."""

    new: int = 0
    moved: int = 0
    missing: int = 0

    def __str__(self) -> str:
        return f"+{self.new:,} new  ~{self.moved:,} moved  -{self.missing:,} missing at source"


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended. `error` ended it early; `complete` is true if everything selected was found and processed.

    `changes` are those since the last complete run, null if none can be compared with this run.
    """

    elapsed: float
    exit_code: int
    error: Failure | None = None
    complete: bool = False
    totals: Totals = Totals()
    changes: ChangeCounts | None = None


Event = (
    RunStarted
    | PageListed
    | ListingFinished
    | TagChecked
    | CandidateChecked
    | CandidateSkipped
    | CheckFailed
    | NameUnmatched
    | TagsRejected
    | DigestTagsSeen
    | ImageQueued
    | ImageStarted
    | ImagePlanned
    | BlobFinished
    | WorkerReported
    | ImageDerived
    | ImageFinished
    | RetryScheduled
    | HostPaused
    | HostResumed
    | ImagesMoved
    | HostPaced
    | Notice
    | StopRequested
    | RunFinished
)

Observer = Callable[[Event], None]
"""A function that is called in the event loop for each event, in order. It must neither block nor raise."""


def ignore(_event: Event) -> None:
    """Ignore an event."""
