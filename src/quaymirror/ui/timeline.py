"""How a run went over time: a bounded number of points, whatever it takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..events import Event, RunFinished
from ..progress.meters import Progress
from .state import RunState

_MOST_POINTS = 600


@dataclass(frozen=True, slots=True)
class Point:
    """How far a run was `at` seconds after it began."""

    at: float
    done: int
    failed: int
    bytes_fetched: int


class Timeline:
    """An observer that notes how far the run is, now and then. The state is somebody else's to keep up to date."""

    def __init__(self, state: RunState, meters: Progress) -> None:
        self.state = state
        self._meters = meters
        self._period = 0.25
        self.points: list[Point] = []

    def __call__(self, event: Event) -> None:
        """Note a point if the last one is long enough ago, or this is the end."""
        now = self.state.elapsed(self.state.clock())
        if not self.points or now - self.points[-1].at >= self._period or isinstance(event, RunFinished):
            self.points.append(Point(now, self.state.done, self.state.failed, self._meters.fetched_bytes))

        if len(self.points) > _MOST_POINTS:
            self.points = self.points[::2]
            self._period *= 2
