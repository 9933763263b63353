"""Retries, pauses and limits of each host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from ..documents.report import HostJson
from ..events import HostPaced, HostPaused, HostResumed, RetryScheduled
from ..text import one_line
from ..values import dataclass

HostEvent = RetryScheduled | HostPaused | HostResumed | HostPaced

_MAX_HOSTS = 64
_MAX_KINDS = 16
_OTHER = "other hosts"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that a host asked for, `until` a time of the progress' clock.

    `since` is the beginning of the first of several pauses between which the host did not answer.
    """

    until: float
    reason: str
    since: float = 0.0


@dataclass(slots=True)
class Host:
    """Requests to one host that failed or had to wait. Waits are in seconds."""

    retries: int = 0
    retry_wait_s: float = 0.0
    pauses: int = 0
    paused_s: float = 0.0
    paces: dict[str, HostPaced] = field(default_factory=dict)
    """The current limits, by kind of endpoints."""
    pause: Pause | None = None

    @property
    def throttled(self) -> int:
        """Answers that asked for fewer requests: 429, and 503 with Retry-After."""
        return sum(pace.throttled for pace in self.paces.values())

    @property
    def incidents(self) -> int:
        """Retries, pauses and throttled answers together."""
        return self.retries + self.pauses + self.throttled

    def to_json(self) -> HostJson:
        """Return the counts as JSON values."""
        return {
            "retries": self.retries,
            "retry_wait_s": self.retry_wait_s,
            "throttled": self.throttled,
            "pauses": self.pauses,
            "paused_s": self.paused_s,
        }


class Hosts(dict[str, Host]):
    """All hosts by name; from a certain number on, new ones share an entry."""

    def apply(self, event: HostEvent, now: float) -> None:
        """Fold `event`, which happened at `now`, into the counts."""
        name = one_line(event.host)
        host = self.setdefault(name if name in self or len(self) < _MAX_HOSTS else _OTHER, Host())
        match event:
            case RetryScheduled():
                host.retries += 1
                host.retry_wait_s += event.wait
            case HostPaused():
                host.pauses += 1
                host.paused_s += event.seconds
                since = host.pause.since if host.pause is not None else now
                host.pause = Pause(now + event.seconds, one_line(event.reason), since)
            case HostResumed():
                host.pause = None
            case HostPaced():
                kind = one_line(event.kind)
                if kind in host.paces or len(host.paces) < _MAX_KINDS:
                    host.paces[kind] = replace(event, host=name, kind=kind)

    @property
    def retries(self) -> int:
        """Retries of all hosts."""
        return sum(host.retries for host in self.values())

    def paused_at(self, now: float) -> list[tuple[str, Pause]]:
        """Return the pauses that last at `now`, with their hosts, the longest first."""
        pauses = [(name, host.pause) for name, host in self.items() if host.pause and host.pause.until > now]
        return sorted(pauses, key=lambda pause: -pause[1].until)

    def with_incidents(self) -> Mapping[str, Host]:
        """Return the hosts that had retries, pauses or throttled answers, by name."""
        return {name: host for name, host in sorted(self.items()) if host.incidents}
