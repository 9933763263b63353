"""Transfer rates from samples of a byte counter. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import field
from itertools import islice

from ..values import dataclass


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes per second over the last seconds and the last minute, and their history; None: not known yet."""

    current: float | None = None
    steady: float | None = None
    history: tuple[float, ...] = ()
    """One value per five seconds, oldest first."""
    idle: float = 0.0
    """Seconds since the last byte."""
    images: dict[str, float] = field(default_factory=dict)
    """Bytes per second of each image in work, by full name."""


class Rates:
    """Samples of a byte counter, taken as often as the caller likes."""

    CURRENT_SECONDS = 8.0
    STEADY_SECONDS = 60.0
    BUCKET_SECONDS = 5.0
    IMAGE_SECONDS = 2.0
    # Ten samples per second are enough, and bound the memory.
    _PERIOD = 0.1

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(self.STEADY_SECONDS / self._PERIOD) + 2)
        self._bucket: tuple[float, int] | None = None
        self._grown: tuple[float, int] | None = None
        self._images: dict[str, float] = {}
        self._counts: dict[str, tuple[float, int]] = {}
        self._history: deque[float] = deque(maxlen=240)

    def sample(self, now: float, count: int) -> None:
        """Record that `count` bytes had been received at `now`."""
        if self._samples and now - self._samples[-1][0] < self._PERIOD:
            return

        if self._grown is None or count != self._grown[1]:
            self._grown = now, count

        # The time before the first byte would make every mean too low.
        if len(self._samples) == 1 and count == self._samples[0][1]:
            self._samples.clear()

        self._samples.append((now, count))
        # The first sample outside stays: it is the far end of the window.
        while len(self._samples) > 2 and now - self._samples[1][0] >= self.STEADY_SECONDS:
            self._samples.popleft()

        self._fill_buckets(now, count)

    def sample_images(self, now: float, counts: Mapping[str, int]) -> None:
        """Record the bytes that each image in work had received at `now`; images that are not named are forgotten."""
        for name, count in counts.items():
            then, before = self._counts.get(name, (now, count))
            if now - then >= self.IMAGE_SECONDS:
                rate = max(0, count - before) / (now - then)
                self._images[name] = rate if name not in self._images else (self._images[name] + rate) / 2
                then, before = now, count

            self._counts[name] = then, before

        for name in self._counts.keys() - counts.keys():
            del self._counts[name]
            self._images.pop(name, None)

    @property
    def speeds(self) -> Speeds:
        """The rates at the last sample."""
        idle = self._samples[-1][0] - self._grown[0] if self._samples and self._grown else 0.0
        current, steady = self._over(self.CURRENT_SECONDS), self._over(self.STEADY_SECONDS)
        return Speeds(current, steady, tuple(self._history), idle, dict(self._images))

    def _over(self, window: float) -> float | None:
        if not self._samples:
            return None

        now, count = self._samples[-1]
        earlier = islice(reversed(self._samples), 1, None)
        # If no sample is as old as the window, the oldest one has to do.
        then, before = next((sample for sample in earlier if now - sample[0] >= window), self._samples[0])
        return (count - before) / (now - then) if now - then >= 1 else None

    def _fill_buckets(self, now: float, count: int) -> None:
        start, before = self._bucket or (now, count)
        full = int((now - start) / self.BUCKET_SECONDS)
        if full:
            # After a gap each bucket gets the mean of the whole gap.
            self._history.extend([(count - before) / (now - start)] * min(full, self._history.maxlen or full))
            start, before = now, count

        self._bucket = (start, before)
