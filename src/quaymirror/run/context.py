"""What the tasks of one run share: how it is asked to end, and what will be said of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import anyio

from ..errors import Failure, LockHeld, QuaymirrorError, most_severe
from ..events import (
    CandidateSkipped,
    CheckFailed,
    Event,
    HostPaced,
    HostPaused,
    ImageDerived,
    ImageFinished,
    ListingFinished,
    Notice,
    Observer,
    Outcome,
    PageListed,
    RetryScheduled,
    TagChecked,
)
from ..progress.meters import Meters
from ..selection.selection import Selection
from ..settings import Options
from .report import HostTrouble

# How often to look whether another run has ended.
_LOCK_SECONDS = 0.5


class Stop:
    """How a run is asked from outside to end early. Either way, what was complete is there to stay."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._asked = anyio.Event()
        self._at_once = anyio.Event()

    def request(self, reason: str) -> None:
        """Ask to begin nothing new and to finish what is in flight; `reason` is for people, the first one counts."""
        if self.reason is None:
            self.reason = reason
            self._asked.set()

    def at_once(self, reason: str) -> None:
        """Ask to drop what is in flight, too: the next run resumes it."""
        self.request(reason)
        self._at_once.set()

    async def wait(self) -> None:
        """Wait until somebody asks."""
        await self._asked.wait()

    async def wait_at_once(self) -> None:
        """Wait until somebody can't wait."""
        await self._at_once.wait()


@dataclass(slots=True)
class Tally:
    """What the report will say, gathered from the events as they pass."""

    outcomes: list[Outcome] = field(default_factory=list)
    failed_checks: list[CheckFailed] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hosts: defaultdict[str, HostTrouble] = field(default_factory=lambda: defaultdict(HostTrouble))
    throttled: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What each kind of endpoints of a host has said of itself so far."""
    repositories: int = 0
    matched: int = 0
    rejected: int = 0
    listings: int = 0
    """How many selections were listed to their end."""
    found: int = 0
    fatal: Failure | None = None
    empty: Failure | None = None

    def __call__(self, event: Event) -> None:
        """Take note of `event`."""
        match event:
            case PageListed():
                self.repositories += event.repositories
                self.matched += event.matched
                self.rejected += event.rejected
            case ListingFinished():
                self.listings += event.complete
            case CandidateSkipped():
                self.skipped[event.reason] += 1
            case CheckFailed():
                self.failed_checks.append(event)
            case RetryScheduled() | HostPaused() | HostPaced():
                self._note_trouble(event)
            case TagChecked():
                self.found += 1
            case ImageDerived():
                self.findings[event.reference.full_name] = event.findings
            case ImageFinished():
                self.outcomes.append(event.outcome)
            case _:
                pass

    def fail(self, error: QuaymirrorError) -> None:
        """Record an error that ended the run; the most severe one is kept."""
        failure = Failure.of(error)
        self.fatal = failure if self.fatal is None else most_severe([self.fatal, failure])

    def _note_trouble(self, event: RetryScheduled | HostPaused | HostPaced) -> None:
        match event:
            case RetryScheduled():
                self.hosts[event.host].retries += 1
                self.hosts[event.host].retry_wait_s += event.wait
            case HostPaused():
                self.hosts[event.host].pauses += 1
                self.hosts[event.host].paused_s += event.seconds
            case HostPaced():
                before = self.throttled[event.host, event.kind]
                self.throttled[event.host, event.kind] = event.throttled
                # A pace alone is no trouble.
                if event.throttled > before:
                    self.hosts[event.host].throttled += event.throttled - before


@dataclass(slots=True)
class Run:
    """What the tasks of one run share."""

    selections: tuple[Selection, ...]
    settings: Options
    observer: Observer
    tally: Tally
    meters: Meters
    stop: Stop
    run_id: str
    started: float
    jobs: tuple[str, ...] = ()
    waits: bool = False

    def abort(self, error: QuaymirrorError) -> None:
        """Stop the run because of `error`: start nothing new. The report shows the most severe such error."""
        self.tally.fail(error)
        self.stop.request(error.message)

    async def wait_for_lock(self, held: LockHeld) -> None:
        """Be patient while another run is at work, until somebody asks to stop.

        :raises LockHeld: when nobody wants to wait.
        """
        if not self.settings.target.wait or self.stop.reason is not None:
            raise held

        if not self.waits:
            self.waits = True
            self.observer(Notice(f"{held.message}: waiting for it to end"))

        with anyio.move_on_after(_LOCK_SECONDS):
            await self.stop.wait()

    def finish(self, outcome: Outcome) -> None:
        """An image has its outcome."""
        self.meters.reused_bytes += outcome.bytes_reused
        self.observer(ImageFinished(outcome))
