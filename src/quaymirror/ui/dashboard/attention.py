"""What a person should look at: a stop, paused hosts, failures, notices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...text import human_duration
from ..descriptions import pace_text
from .rows import BAD, FAINT, FULL_WIDTH, WARN, Row, View

_MAX_PAUSED = 3
# From this height on there is room for hosts that are well, too.
_HOSTS_HEIGHT, _MAX_HOSTS = 40, 6


def attention(view: View, room: int) -> list[Row]:
    """Take a third of `room` at most: a stop, paused hosts, the last failures and notices, newest first."""
    if room < 1:
        return []

    quota = max(1, room // 3)
    urgent = [*_stops(view), *_pauses(view)][:quota]
    failures, others = _failures(view), [*_limited_hosts(view), *_notices(view), *_other_hosts(view)]
    shown = max(quota - len(urgent) - min(len(others), quota // 4), 0)
    return [*urgent, *failures[:shown], *others][:quota]


def _stops(view: View) -> Iterator[Row]:
    state = view.state
    if state.stop_reason is not None:
        yield view.row("stopping", WARN).add(f"{state.stop_reason}; {state.in_work:,} in flight are being finished")

    if state.listing_ended and not state.listing_complete:
        yield view.row("listing", WARN).add("broke off: images may be missing")


def _pauses(view: View) -> Iterator[Row]:
    for pause in view.state.paused_at(view.now)[:_MAX_PAUSED]:
        left = human_duration(math.ceil(pause.until - view.now))
        row = view.row("paused", WARN).add(f"{pause.host}  {left}  ")
        # In a narrow row the reason is what there is room for.
        trouble = _trouble(view, pause.host, row.room // 2) if view.width >= FULL_WIDTH else ""
        yield row.add(pause.reason, FAINT, limit=row.room - len(trouble) - 1).end(trouble, FAINT)


def _limited_hosts(view: View) -> list[Row]:
    """Hosts that let only so many requests a second pass."""
    hosts = [host for host in _hosts(view) if any(pace.rate is not None for pace in view.state.paces_of(host))]
    return [_host(view, host) for host in hosts]


def _other_hosts(view: View) -> list[Row]:
    """All others, those with the most trouble first, where there is much room."""
    if view.height < _HOSTS_HEIGHT:
        return []

    hosts = [host for host in _hosts(view) if all(pace.rate is None for pace in view.state.paces_of(host))]
    return [_host(view, host) for host in hosts[:_MAX_HOSTS]]


def _hosts(view: View) -> list[str]:
    """Every host that is known, those with the most trouble first; in the order of their names if that is equal."""
    state = view.state
    names = {host for host, _ in state.paces} | {host for host in state.troubles if host}
    return sorted(names, key=lambda host: (-sum(state.troubles.get(host, ())) - state.throttled(host), host))


def _host(view: View, host: str) -> Row:
    """What goes to a host now, and what trouble there was: the limits that slow us down are what has to be there."""
    paces = sorted(view.state.paces_of(host), key=lambda pace: (pace.rate is None, pace.kind))
    row = view.row("host").add(host)
    limits = [f"   {pace.kind} {pace_text(pace)}" for pace in paces if pace.rate is not None]
    trouble = _trouble(view, host, row.room - len("".join(limits)) - 1)
    for text in limits:
        row.add(text)

    for pace in paces:
        text = f"   {pace.kind} {pace_text(pace)}"
        if pace.rate is None and len(text) + len(trouble) + 1 < row.room:
            row.add(text, FAINT)

    return row.end(trouble, FAINT)


def _trouble(view: View, host: str, room: int) -> str:
    """Return how often a host had to be asked again, and so on; in short where there is little room."""
    retries, pauses = view.state.troubles.get(host, (0, 0))
    counts = (
        f"{retries:,} {'retry' if retries == 1 else 'retries'}" if retries else "",
        f"{pauses:,} {'pause' if pauses == 1 else 'pauses'}" if pauses else "",
        f"{throttled:,}x 429" if (throttled := view.state.throttled(host)) else "",
    )
    text = ", ".join(filter(None, counts))
    return text if len(text) <= room else counts[-1]


def _failures(view: View) -> list[Row]:
    failures = reversed(view.state.last_failures)
    return [view.row("failed", BAD).add(f"{failure.name}  ").add(str(failure), FAINT) for failure in failures]


def _notices(view: View) -> list[Row]:
    return [view.row("notice").add(notice) for notice in reversed(view.state.last_notices)]
