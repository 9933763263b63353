"""The course of a run in a bounded number of points."""

from __future__ import annotations

from collections.abc import Callable

from ..values import dataclass
from .rates import Rates, Speeds
from .run import RunProgress

_MAX_POINTS = 600


@dataclass(frozen=True, slots=True)
class Point:
    """The progress of a run `at` seconds after it began."""

    at: float
    done: int
    failed: int
    bytes_fetched: int
    limit: str = ""
    """The limit of the run at this time, in words."""


class Timeline:
    """Points of a run, taken at most every quarter of a second, and less often in a long run."""

    def __init__(self, progress: RunProgress, limit_of: Callable[[RunProgress, Speeds], str] | None = None) -> None:
        self._progress = progress
        self._limit_of = limit_of
        self._rates = Rates()
        self._period = 0.25
        self.points: list[Point] = []

    def __call__(self, _event: object) -> None:
        """Take a point if the last one is old enough, or if the run has ended."""
        run = self._progress
        now = run.elapsed(run.clock())
        if not self.points or now - self.points[-1].at >= self._period or run.finished is not None:
            self._rates.sample(now, run.meters.fetched_bytes)
            limit = self._limit_of(run, self._rates.speeds) if self._limit_of is not None else ""
            self.points.append(Point(now, run.done, run.failed, run.bytes_fetched, limit))

        if len(self.points) > _MAX_POINTS:
            self.points = self.points[::2]
            self._period *= 2
