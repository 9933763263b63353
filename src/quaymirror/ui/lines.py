"""A run as plain lines for logs, pipes and screen readers: no colours, no cursor control."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from .. import events
from ..events import Event, Outcome, Status
from ..progress.combined import CombinedProgress
from ..progress.failed import FailedImage
from ..progress.rates import Rates, Speeds
from ..progress.run import RunProgress
from ..text import counted, escape_controls, human_bytes, human_duration, human_rate, one_line
from .descriptions import describe, failure_text, outcome_text, stopping_text, time_left, total_text, worker_texts

# The longest of the words at the start of a line.
_WORD = 9
# Names are aligned from the first line on; a longer name widens the column up to the maximum.
_USUAL_NAME = 40
_MAX_NAME = 64


class Lines:
    """An observer that writes a line per finished image, and a progress line every 30 seconds.

    `write` gets one line at a time, its newline included. Skipped repositories are one line at the end; retries are
    lines only if `verbose`.
    """

    HEARTBEAT_SECONDS = 30.0

    def __init__(
        self,
        progress: CombinedProgress,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        *,
        verbose: bool = False,
    ) -> None:
        self._progress = progress
        self._write = write
        self._clock = clock
        self._verbose = verbose
        self._rates = Rates()
        self._paused: set[str] = set()
        self._name_width = _USUAL_NAME
        self._last_beat = clock()

    def __call__(self, event: Event) -> None:
        """Write the line of `event`, if it has one."""
        match event:
            case events.ImageFinished(outcome) if outcome.status is not Status.SKIPPED:
                self._image(outcome)
            case events.CheckFailed():
                self._fail(event)
            case events.HostPaused(host):
                self._paused.add(host)
                self._say(*describe(event))
            case events.HostResumed(host) if host in self._paused:
                self._paused.remove(host)
                self._say(*describe(event))
            case events.RetryScheduled() if self._verbose:
                self._say(*describe(event))
            case events.RunStarted() | events.Notice():
                self._say(*describe(event))
            case events.ListingFinished() | events.StopRequested():
                self._say(*_transition(event, self._progress.now()))
            case events.RunFinished():
                self._workers()
                self._say(*_transition(event, self._progress.now()))
            case _:
                pass

    def tick(self) -> None:
        """Sample the transfer rate, and write a progress line if the last one is old enough."""
        progress = self._progress.now()
        self._rates.sample(self._clock(), progress.meters.fetched_bytes)
        if self._clock() - self._last_beat >= self.HEARTBEAT_SECONDS:
            self._last_beat = self._clock()
            self._say("progress", progress_text(progress, self._rates.speeds, self._clock()))

    async def run(self) -> None:
        """Tick once per second until the runs have ended or this is cancelled."""
        while self._progress.now().finished is None:
            self.tick()
            await anyio.sleep(1)

    def _fail(self, failed: Outcome | events.CheckFailed) -> None:
        self._say("failed", failure_text(FailedImage.of(failed), with_url=self._verbose))

    def _image(self, outcome: Outcome) -> None:
        if outcome.status is Status.FAILED:
            self._fail(outcome)
            return

        name = escape_controls(outcome.reference.name)
        self._name_width = max(self._name_width, min(len(name), _MAX_NAME))
        self._say(outcome.status.value, f"{name:<{self._name_width}}  {outcome_text(outcome)}")

    def _workers(self) -> None:
        progress = self._progress.now()
        for name, text in worker_texts(progress) if progress.finished else ():
            self._say("worker", f"{name}  {text}")

    def _say(self, word: str, text: str) -> None:
        if text:
            self._write(f"{word:<{_WORD}}  {text}\n")


def _transition(
    event: events.ListingFinished | events.StopRequested | events.RunFinished, progress: RunProgress
) -> tuple[str, str]:
    """Return the word and the text of an event that concerns the run as a whole."""
    match event:
        case events.ListingFinished():
            listed = counted(progress.listed, "repository", "repositories")
            match = "matches" if progress.matched == 1 else "match"
            text = f"{listed} on {counted(progress.pages, 'page')}, {progress.matched:,} {match}"
            return "listed", f"{text}; the listing broke off" if progress.listing_broke_off else text
        case events.StopRequested():
            return "stopping", f"{one_line(event.reason)}; {stopping_text(progress)}"
        case events.RunFinished():
            return "skipped", _skipped(progress) if progress.finished and progress.skipped else ""


def _skipped(progress: RunProgress) -> str:
    reasons = (progress.skip_reasons + progress.image_skip_reasons).most_common()
    words = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    return f"{counted(progress.skipped, 'repository', 'repositories')}: {words}"


def progress_text(progress: RunProgress, speeds: Speeds, now: float) -> str:
    """Return the progress of a run at `now` in one line."""
    total = total_text(progress, more=" or more", about="about ")
    parts = [
        f"{progress.done:,} of {total} images done",
        f"{progress.failed:,} failed",
        f"{progress.skipped:,} skipped",
        *([f"{progress.in_work:,} in flight"] if progress.finished is None else []),
        f"{human_bytes(progress.bytes_fetched)} {'to fetch' if progress.is_dry_run else 'fetched'}",
    ]
    if speeds.current is not None and not progress.is_dry_run:
        parts[-1] += f" at {human_rate(speeds.current)}"

    if progress.stop_reason is not None and progress.finished is None:
        return ", ".join([*parts, "stopping"])

    left = time_left(progress, speeds, now)
    return ", ".join(parts if left is None else [*parts, f"{human_duration(left)} left"])
