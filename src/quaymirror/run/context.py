"""The state that the tasks of one run share, and the handle that stops a run."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from ..documents.report import WorkerJson
from ..errors import ExitCode, Failure, LockHeld, QuaymirrorError, most_severe
from ..events import Event, Notice, Observer, ignore
from ..progress.run import RunProgress
from ..selection.selection import Selection
from ..settings import Options
from ..shards.plan import Division, PlanDraft
from ..store.records import ImageRecord
from ..targets.kinds import TargetSpec
from ..values import dataclass
from .accepted import AcceptedFailures
from .shared import Engine

if TYPE_CHECKING:
    from ..trust.judge import Judge

# The period of checks whether another run has ended.
_LOCK_SECONDS = 0.5


class Stop:
    """A handle to end a run early. Finished images stay in the mirror."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.exit_code: ExitCode | None = None
        self._asked = anyio.Event()
        self._at_once = anyio.Event()

    def request(self, reason: str, exit_code: ExitCode | None = None) -> None:
        """Start nothing new, and finish the work in flight.

        `reason` is for people; the first one counts. `exit_code` is that of the run if it ends incomplete.
        """
        if self.reason is None:
            self.reason = reason
            self._asked.set()

        self.exit_code = self.exit_code or exit_code

    def at_once(self, reason: str, exit_code: ExitCode | None = None) -> None:
        """Drop the work in flight, too: the next run resumes it."""
        self.request(reason, exit_code)
        self._at_once.set()

    async def wait(self) -> None:
        """Wait for any request."""
        await self._asked.wait()

    async def wait_at_once(self) -> None:
        """Wait for a request to drop the work in flight."""
        await self._at_once.wait()


@dataclass(slots=True)
class Run:
    """The state that the tasks of one run share. `listener` gets each event after the run has counted it.

    `fatal` is the most severe error that ended the run, `empty` the error of a selection without images. `failure`
    is the error that prevented a report.
    """

    selections: tuple[Selection, ...]
    options: Options
    spec: TargetSpec
    engine: Engine | None = None
    jobs: tuple[str, ...] = ()
    listener: Observer = ignore
    progress: RunProgress = field(default_factory=RunProgress)
    stop: Stop = field(default_factory=Stop)
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    started: float = field(default_factory=time.time)
    fatal: Failure | None = None
    empty: Failure | None = None
    accepted: AcceptedFailures = field(default_factory=AcceptedFailures)
    division: Division | None = None
    """The share of a plan that the run carries out; None for a run by itself."""
    draft: PlanDraft | None = None
    """The plan that the run makes, instead of mirroring anything."""
    pushed: Sequence[ImageRecord] = ()
    """The images of a shard in its state, after the run."""
    judge: Judge | None = None
    """The judge of the signature policy, if there is one."""
    workers: dict[str, WorkerJson] = field(default_factory=dict)
    """The totals of the workers of a cluster, by their addresses."""
    is_waiting: bool = False
    failure: Failure | None = None
    close: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    """Called after the run, before another one begins on the same target."""

    @property
    def state_directory(self) -> Path:
        """The directory of the target's state."""
        return self.spec.state_directory(self.options)

    def emit(self, event: Event) -> None:
        """Count `event`, and pass it on."""
        self.progress.apply(event)
        self.listener(event)

    def fail(self, error: QuaymirrorError) -> None:
        """Record an error that ends the run."""
        failure = Failure.of(error)
        self.fatal = failure if self.fatal is None else most_severe([self.fatal, failure])

    def abort(self, error: QuaymirrorError) -> None:
        """Record an error that ends the run, and start nothing new."""
        self.fail(error)
        self.stop.request(error.message)

    async def wait_for_lock(self, held: LockHeld) -> None:
        """Wait a moment for another run to end.

        :raises LockHeld: if the run should not wait, or has been stopped.
        """
        if not self.options.target.wait or self.stop.reason is not None:
            raise held

        if not self.is_waiting:
            self.is_waiting = True
            self.emit(Notice(f"{held.message}: waiting for it to end"))

        with anyio.move_on_after(_LOCK_SECONDS):
            await self.stop.wait()
