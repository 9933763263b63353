"""Events that need attention: a stop, paused hosts, failures, notices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...progress.hosts import Host
from ...text import counted, human_duration
from ..descriptions import pace_text
from .rows import BAD, FAINT, FULL_WIDTH, WARN, Row, View

_MAX_PAUSED = 3
# From this height on hosts without limits are shown, too.
_HOSTS_HEIGHT, _MAX_HOSTS = 40, 6


def attention(view: View, room: int) -> list[Row]:
    """Use at most a third of `room` for a stop, paused hosts, and the last failures and notices, newest first."""
    if room < 1:
        return []

    quota = max(1, room // 3)
    urgent = [*_stops(view), *_pauses(view)][:quota]
    limited, unlimited = _hosts(view)
    notices = [view.row("notice").add(notice) for notice in reversed(view.progress.last_notices)]
    failures = [
        view.row("failed", BAD).add(f"{failure.name}  ").add(str(failure), FAINT)
        for failure in reversed(view.progress.last_failures)
    ]
    others = [*limited, *notices, *unlimited]
    shown = max(quota - len(urgent) - min(len(others), quota // 4), 0)
    return [*urgent, *failures[:shown], *others][:quota]


def _stops(view: View) -> Iterator[Row]:
    progress = view.progress
    if progress.stop_reason is not None:
        text = f"{progress.stop_reason}; {progress.in_work:,} in flight are being finished"
        yield view.row("stopping", WARN).add(text)

    if progress.listing_ended and progress.listing_broke_off:
        yield view.row("listing", WARN).add("broke off: images may be missing")


def _pauses(view: View) -> Iterator[Row]:
    for name, pause in view.progress.hosts.paused_at(view.now)[:_MAX_PAUSED]:
        left = human_duration(math.ceil(pause.until - view.now))
        row = view.row("paused", WARN).add(f"{name}  {left}  ")
        # A narrow row has room for the reason only.
        incidents = _incidents(view.progress.hosts[name], row.room // 2) if view.width >= FULL_WIDTH else ""
        yield row.add(pause.reason, FAINT, limit=row.room - len(incidents) - 1).end(incidents, FAINT)


def _hosts(view: View) -> tuple[list[Row], list[Row]]:
    """Return the hosts that limit the rate of requests, and in a high frame others; most incidents first."""
    limited: list[Row] = []
    others: list[Row] = []
    for name, host in sorted(view.progress.hosts.items(), key=lambda named: (-named[1].incidents, named[0])):
        if any(pace.rate is not None for pace in host.paces.values()):
            limited.append(_host(view, name, host))
        elif name and (host.paces or host.incidents) and view.height >= _HOSTS_HEIGHT and len(others) < _MAX_HOSTS:
            others.append(_host(view, name, host))

    return limited, others


def _host(view: View, name: str, host: Host) -> Row:
    """Show the limits of a host and its incidents; limits of the rate come first, because they slow the run down."""
    paces = sorted(host.paces.values(), key=lambda pace: (pace.rate is None, pace.kind))
    row = view.row("host").add(name)
    texts = [(f"   {pace.kind} {pace_text(pace)}", pace.rate is not None) for pace in paces]
    incidents = _incidents(host, row.room - sum(len(text) for text, is_limit in texts if is_limit) - 1)
    for text, is_limit in texts:
        if is_limit:
            row.add(text)
        elif len(text) + len(incidents) + 1 < row.room:
            row.add(text, FAINT)

    return row.end(incidents, FAINT)


def _incidents(host: Host, room: int) -> str:
    """Return the number of retries, pauses and 429s; without enough `room` only that of 429s."""
    counts = (
        counted(host.retries, "retry", "retries") if host.retries else "",
        counted(host.pauses, "pause") if host.pauses else "",
        f"{host.throttled:,}x 429" if host.throttled else "",
    )
    text = ", ".join(filter(None, counts))
    return text if len(text) <= room else counts[-1]
