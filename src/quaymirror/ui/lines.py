"""A run as plain lines, for logs, pipes and screen readers: no colours, no cursor, nothing that is ever rewritten."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from ..events import (
    CheckFailed,
    Event,
    HostPaused,
    HostResumed,
    ImageFinished,
    ListingFinished,
    Notice,
    Outcome,
    RetryScheduled,
    RunFinished,
    RunStarted,
    Status,
    StopRequested,
)
from ..progress.meters import Progress
from ..text import escape_controls, human_bytes, human_duration, human_rate, one_line
from .descriptions import ImageFailure, limits_text, subject
from .state import Rates, RunState

__all__ = ["Lines", "outcome_text", "progress_text"]

# As wide as the longest of the words that lines begin with.
_WORD = 9
# Names are aligned from the first line on; a longer one moves those that follow.
_USUAL_NAME = 40
# Names are aligned up to here; one that is longer pushes its own line only.
_MAX_NAME = 64


class Lines:
    """An observer that writes a line for each image that is done, and now and then how far the run is.

    `write` gets one line at a time, its newline included; `clock` counts seconds and need not be the time of day.
    Repositories that are skipped are no lines, only a total. `verbose` tells of retries, too.
    """

    HEARTBEAT_SECONDS = 30.0

    def __init__(
        self,
        meters: Progress,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        *,
        runs: int = 1,
        verbose: bool = False,
    ) -> None:
        self.state = RunState(clock, runs)
        self._rates = Rates(meters, clock=clock)
        self._meters = meters
        self._write = write
        self._clock = clock
        self._verbose = verbose
        self._name_width = _USUAL_NAME
        self._last_beat = clock()

    def __call__(self, event: Event) -> None:
        """Count `event`, and write its line if it has one."""
        was_paused = isinstance(event, HostResumed) and one_line(event.host) in self.state.paused
        self.state.apply(event)
        match event:
            case HostResumed(host) if was_paused:
                self._say("resumed", one_line(host))
            case ImageFinished(outcome) if outcome.status is not Status.SKIPPED:
                self._image(outcome)
            case CheckFailed():
                failure = ImageFailure.of_check(event)
                self._say("failed", f"{failure.name:<{self._name_width}}  {failure}")
            case RetryScheduled() if self._verbose:
                self._say("retry", _retry(event))
            case RunStarted() | ListingFinished() | HostPaused() | Notice() | StopRequested():
                self._say(*_transition(event, self.state))
            case RunFinished() if self.state.finished and self.state.skipped:
                self._say("skipped", _skipped(self.state))
            case _:
                pass

    def tick(self) -> None:
        """Look at the meters; write how far the run is if the last such line is long enough ago."""
        self._rates.sample()
        if self._clock() - self._last_beat >= self.HEARTBEAT_SECONDS:
            self._last_beat = self._clock()
            self._say("progress", progress_text(self.state, self._rates, self._meters))

    async def run(self) -> None:
        """Tick once a second until the run has finished or this is cancelled."""
        while self.state.finished is None:
            self.tick()
            await anyio.sleep(1)

    def _image(self, outcome: Outcome) -> None:
        name = escape_controls(outcome.reference.name)
        self._name_width = max(self._name_width, min(len(name), _MAX_NAME))
        self._say(outcome.status.value, f"{name:<{self._name_width}}  {outcome_text(outcome)}")

    def _say(self, word: str, text: str) -> None:
        self._write(f"{word:<{_WORD}}  {text}".rstrip() + "\n")


def outcome_text(outcome: Outcome) -> str:
    """Return what there is to say about an image that is done, after its status and name."""
    if outcome.status is Status.FAILED:
        return str(ImageFailure.of(outcome))

    digest = outcome.reference.digest
    parts = [] if digest is None else [f"{digest.algorithm}:{digest.short}"]
    if outcome.status is Status.MIRRORED:
        parts.append(
            f"{human_bytes(outcome.bytes_fetched)} fetched, {human_bytes(outcome.bytes_reused)} reused, "
            f"{human_duration(outcome.elapsed)}"
        )

    return "  ".join(parts)


def _transition(
    event: RunStarted | ListingFinished | HostPaused | Notice | StopRequested, state: RunState
) -> tuple[str, str]:
    match event:
        case RunStarted():
            return "started", _selection(event)
        case ListingFinished():
            return "listed", _listing(state)
        case HostPaused():
            return "paused", f"{one_line(event.host)} for {human_duration(event.seconds)}: {one_line(event.reason)}"
        case Notice():
            return "notice", one_line(event.message)
        case StopRequested():
            return "stopping", f"{one_line(event.reason)}; {state.in_work:,} images in flight are being finished"


def _selection(run: RunStarted) -> str:
    words = f"{subject(run)} from {run.server} to {run.target}, run {run.run_id}"
    limits = limits_text(run)
    return escape_controls(words) + (", dry run" if run.dry_run else "") + (f", {limits}" if limits else "")


def _listing(state: RunState) -> str:
    pages = "page" if state.pages == 1 else "pages"
    text = f"{state.listed:,} repositories on {state.pages:,} {pages}, {state.matched:,} match"
    return text if state.listing_complete else f"{text}; the listing broke off"


def _retry(event: RetryScheduled) -> str:
    failed = f"attempt {event.attempt} failed: {one_line(event.cause)}"
    return f"{one_line(event.what)} in {human_duration(event.wait)}, {failed}"


def _skipped(state: RunState) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in state.skip_reasons.most_common())
    return f"{state.skipped:,} repositories: {reasons}"


def progress_text(state: RunState, rates: Rates, meters: Progress) -> str:
    """Return how far a run is, in one line."""
    total = state.total_text(more=" or more", about="about ")
    parts = [
        f"{state.done:,} of {total} images done",
        f"{state.failed:,} failed",
        f"{state.skipped:,} skipped",
    ]
    parts += [f"{state.in_work:,} in flight", f"{human_bytes(meters.fetched_bytes)} fetched"]
    rate, eta = rates.current, None if state.finished else rates.eta(state)
    if rate is not None:
        parts[-1] += f" at {human_rate(rate)}"

    return ", ".join(parts if eta is None else [*parts, f"{human_duration(eta)} left"])
