"""The speeds of transfers; one that is much slower than the others from its host is given up.

A body that trickles never triggers the timeout for silence. Over a slow link all are slow, and none is given up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field

from ..values import dataclass

# A transfer is too slow if it is below these bytes per second, or this share of the others, for this long.
_SLOW_BYTES_PER_SECOND = 1024
_SLOW_SHARE = 20
_SLOW_SECONDS = 60.0
# Transfers of fewer bytes say nothing about speed; those under way count after some seconds.
_LEAST_BYTES = 32 * 1024
_LEAST_SECONDS = 10.0
# Shorter transfers than this are bounded by latency and buffers, and count as if they took as long.
_SHORT_SECONDS = 1.0
_REMEMBERED = 50


@dataclass(slots=True)
class _Host:
    finished: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    running: list[SpeedWatch] = field(default_factory=list)


class Speeds:
    """The transfers from each host."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    @contextmanager
    def watch(self, host: str, name: str) -> Iterator[SpeedWatch]:
        """Watch one transfer from `host` during the context; messages call it `name`."""
        at = self._hosts.get(host)
        if at is None:
            at = self._hosts[host] = _Host()

        watch = SpeedWatch(at, name, self._clock)
        at.running.append(watch)
        try:
            yield watch
        finally:
            at.running.remove(watch)
            watch.finish()


class SpeedWatch:
    """One transfer, in windows of a minute."""

    def __init__(self, host: _Host, name: str, clock: Callable[[], float]) -> None:
        self._host = host
        self._name = name
        self._clock = clock
        self._began = self._since = clock()
        self._bytes = 0
        self._earlier = 0
        self._held = 0.0
        self._rate: float | None = None
        self.complaint: str = ""
        """The reason for which the transfer is given up."""

    def received(self, count: int, *, held: float) -> bool:
        """Count bytes; return False if they come too slowly. `held` are all seconds that this side has waited."""
        self._bytes += count
        elapsed = self._clock() - self._since - held + self._held
        if elapsed < _SLOW_SECONDS:
            return True

        rate = self._rate = self._bytes / elapsed
        others = self._others()
        if self._is_slow(rate, others):
            compared = "" if others is None else f"; others from there bring {others:,.0f} per second"
            self.complaint = f"{self._name}: only {self._bytes:,} bytes in {elapsed:.0f} s{compared}"
            return False

        self._since, self._earlier, self._bytes, self._held = self._clock(), self._earlier + self._bytes, 0, held
        return True

    def finish(self) -> None:
        """Record the speed of the whole transfer."""
        total = self._earlier + self._bytes
        if total >= _LEAST_BYTES and not self.complaint:
            self._host.finished.append(total / max(_SHORT_SECONDS, self._clock() - self._began - self._held))

    def rate(self) -> float | None:
        """Return the bytes per second in this window, or in the last one at its beginning, None if it is too early."""
        elapsed = self._clock() - self._since
        return self._rate if elapsed < _LEAST_SECONDS else self._bytes / elapsed

    def _others(self) -> float | None:
        running = [watch.rate() for watch in self._host.running if watch is not self]
        rates = [*self._host.finished, *(rate for rate in running if rate is not None)]
        return sorted(rates)[len(rates) // 2] if rates else None

    def _is_slow(self, rate: float, others: float | None) -> bool:
        if others is None:
            return rate < _SLOW_BYTES_PER_SECOND

        return rate < others / _SLOW_SHARE or rate < _SLOW_BYTES_PER_SECOND <= others
