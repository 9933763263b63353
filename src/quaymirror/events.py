"""Events of a run.

Events are frozen, small and made of plain values. Received bytes are no events, because an event per chunk would cost
more than the chunk: see `progress.meters`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from .errors import Failure
from .oci import Digest, Reference

__all__ = [
    "BlobFinished",
    "CandidateChecked",
    "CandidateSkipped",
    "CheckFailed",
    "Event",
    "HostPaced",
    "HostPaused",
    "HostResumed",
    "ImageDerived",
    "ImageFinished",
    "ImagePlanned",
    "ImageQueued",
    "ImageStarted",
    "ListingFinished",
    "Notice",
    "Observer",
    "Outcome",
    "PageListed",
    "RetryScheduled",
    "RunFinished",
    "RunStarted",
    "Status",
    "StopRequested",
    "TagChecked",
    "ignore",
]


class Status(Enum):
    """What became of one image."""

    MIRRORED = "mirrored"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one image; there is exactly one for each reference that was selected.

    `bytes_fetched` are what this image caused to cross the network, `bytes_reused` what it needed and was already
    there or fetched for another image; `elapsed` is in seconds. `reason` says why, for what was skipped.
    """

    reference: Reference
    status: Status
    bytes_fetched: int = 0
    bytes_reused: int = 0
    elapsed: float = 0.0
    reason: str | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began. `started` is POSIX time.

    Of named jobs `jobs` has the names; of several `selections` organization, glob and tag are those of the first.
    `limit_rate` (bytes a second) and `max_requests_per_second` are what the user allows of the source, None: no limit.
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


@dataclass(frozen=True, slots=True)
class PageListed:
    """One page of the organization's repositories arrived; `matched` of its `repositories` fit the glob."""

    number: int
    repositories: int
    matched: int
    rejected: int = 0
    """How many entries made no sense and are left out: nobody knows what they stand for."""


@dataclass(frozen=True, slots=True)
class ListingFinished:
    """The listing ended. `complete` is false when it broke off."""

    pages: int
    complete: bool


@dataclass(frozen=True, slots=True)
class TagChecked:
    """A candidate turned out to carry a tag that is selected."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class CandidateChecked:
    """A repository whose name matched was looked at: `images` of it are mirrored; a `TagChecked` follows for each."""

    repository: str
    images: int


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """Whether a repository carries the tag could not be found out: it counts as one image that failed."""

    repository: str
    tag: str
    error: Failure


@dataclass(frozen=True, slots=True)
class CandidateSkipped:
    """A repository whose name matched is not mirrored, and that is no error: it lacks the tag, or is too old.

    `looked_at` is false when the listing alone said so.
    """

    repository: str
    reason: str
    looked_at: bool = True


@dataclass(frozen=True, slots=True)
class ImageQueued:
    """An image waits for a worker."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """A worker took an image."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class ImagePlanned:
    """The manifests are known: `blobs` pieces of content with `total_bytes` in all, `missing_bytes` not yet here."""

    reference: Reference
    blobs: int
    total_bytes: int
    missing_bytes: int


@dataclass(frozen=True, slots=True)
class BlobFinished:
    """A blob was fetched, verified and has its name now."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class ImageDerived:
    """An image went through occystrap's pipeline: lines that its filters printed, and what its own check found."""

    reference: Reference
    printed: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFinished:
    """An image has its outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """Something failed that may work later; `wait` is in seconds, `attempt` counts from 1."""

    what: str
    attempt: int
    wait: float
    cause: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class HostPaused:
    """A host asked for patience: nothing is sent there for `seconds`."""

    host: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class HostResumed:
    """The pause of a host is over: the next request goes out, or a host that was down has answered again."""

    host: str


@dataclass(frozen=True, slots=True)
class HostPaced:
    """How much may go to one kind of endpoints of a host has changed notably: `window` requests at a time, `rate` a
    second (None: as many as there are). `throttled` counts its answers so far that asked for less, 429 mostly.
    """

    host: str
    kind: str
    window: int
    rate: float | None
    throttled: int


@dataclass(frozen=True, slots=True)
class Notice:
    """One line that a person should read, but that changes nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The run takes no new images: what is in flight is being finished."""

    reason: str


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a run, as its report has them.

    `bytes_fetched` are all received bytes, those of failed images included, in a dry run the ones to be fetched.
    """

    mirrored: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_fetched: int = 0
    bytes_reused: int = 0


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended. `error` ended it early; `complete` is true if everything selected was found and processed."""

    elapsed: float
    exit_code: int
    error: Failure | None = None
    complete: bool = False
    totals: Totals = Totals()


Event = (
    RunStarted
    | PageListed
    | ListingFinished
    | TagChecked
    | CandidateChecked
    | CandidateSkipped
    | CheckFailed
    | ImageQueued
    | ImageStarted
    | ImagePlanned
    | BlobFinished
    | ImageDerived
    | ImageFinished
    | RetryScheduled
    | HostPaused
    | HostResumed
    | HostPaced
    | Notice
    | StopRequested
    | RunFinished
)

Observer = Callable[[Event], None]
"""Called in the event loop for each event, in order: it must neither block nor raise."""


def ignore(_event: Event) -> None:
    """Observe nothing."""
