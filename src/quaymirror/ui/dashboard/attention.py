"""What a person should look at: a stop, paused hosts, failures, notices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..text import human_duration
from .rows import BAD, FAINT, WARN, Row, View

_MAX_PAUSED = 3
_HOSTS_HEIGHT, _MAX_HOSTS = 40, 4


def attention(view: View, room: int) -> list[Row]:
    """Take a third of `room` at most: a stop, paused hosts, the last failures and notices, newest first."""
    if room < 1:
        return []

    quota = max(1, room // 3)
    urgent = [*_stops(view), *_pauses(view)][:quota]
    failures, others = _failures(view), [*_notices(view), *_hosts(view)]
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
        yield view.row("paused", WARN).add(f"{pause.host}  {left}  ").add(pause.reason, FAINT)


def _hosts(view: View) -> list[Row]:
    """Hosts that had to be asked again, where there is much room: by now they may be well."""
    if view.height < _HOSTS_HEIGHT:
        return []

    worst = sorted(view.state.troubles.items(), key=lambda trouble: -sum(trouble[1]))
    return [_host(view, host, *counts) for host, counts in worst[:_MAX_HOSTS] if host]


def _host(view: View, host: str, retries: int, pauses: int) -> Row:
    text = f"{retries:,} {'retry' if retries == 1 else 'retries'}, {pauses:,} {'pause' if pauses == 1 else 'pauses'}"
    return view.row("host").add(f"{host}  ").add(text, FAINT)


def _failures(view: View) -> list[Row]:
    failures = reversed(view.state.last_failures)
    return [view.row("failed", BAD).add(f"{failure.name}  ").add(str(failure), FAINT) for failure in failures]


def _notices(view: View) -> list[Row]:
    return [view.row("notice").add(notice) for notice in reversed(view.state.last_notices)]
