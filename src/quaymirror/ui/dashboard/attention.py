"""Events that need attention: a stop, paused hosts, failures; then workers and hosts. Notices are lines above it."""

from __future__ import annotations

from collections.abc import Iterator

from ...progress.failed import FailedImage
from ...progress.hosts import Host
from ...text import counted, shorten_middle
from ..descriptions import pace_text, pause_texts, stopping_text, worker_texts
from .rows import BAD, FAINT, WARN, Row, View
from .transfers import short_name

_MAX_PAUSED = 3
# From this height on hosts are shown with their limits.
_HOSTS_HEIGHT, _MAX_HOSTS, _MAX_WORKERS = 34, 6, 6


def attention(view: View, room: int) -> list[Row]:
    """Use at most a third of `room` for a stop, paused hosts, and the last failures, newest first."""
    if room < 1:
        return []

    quota = max(1, room // 3)
    urgent = [*_stops(view), *_pauses(view)][:quota]
    failures = [_failure(view, failure) for failure in reversed(view.progress.last_failures)]
    others = [*_workers(view), *_hosts(view)]
    shown = max(quota - len(urgent) - min(len(others), quota // 4), 0)
    return [*urgent, *failures[:shown], *others][:quota]


def _failure(view: View, failure: FailedImage) -> Row:
    """Show the reason first; a long name is shortened."""
    row, name = view.row("failed", BAD), short_name(view, failure.name)
    row.add(str(failure), limit=max(row.room - 10, row.room * 2 // 3))
    return row.add("  ").add(shorten_middle(name, max(0, row.room - 2)), FAINT)


def _stops(view: View) -> Iterator[Row]:
    progress = view.progress
    if progress.stop_reason is not None:
        reason = "" if progress.by_signal else f"{progress.stop_reason}; "
        yield view.row("stopping", WARN).add(f"{reason}{stopping_text(progress)}")

    if progress.listing_ended and progress.listing_broke_off:
        yield view.row("listing", WARN).add("broke off: images may be missing")


def _pauses(view: View) -> Iterator[Row]:
    """Show the reason of each pause, which is not cut off as long as the time of the next try fits beside it."""
    for name, pause in view.progress.hosts.paused_at(view.now)[:_MAX_PAUSED]:
        row, reason = view.row("paused", WARN).add(name).add("  "), pause.reason.removeprefix(f"{name}: ")
        times = pause_texts(view.progress, pause, view.now)
        time = next((text for text in times if len(reason) + 2 + len(text) <= row.room), times[-1])
        row.add(reason, limit=row.room - len(time) - 2).add("  ").add(time, FAINT)
        yield row.end(_incidents(view.progress.hosts[name], row.room - 1), FAINT)


def _workers(view: View) -> list[Row]:
    """Return the workers of a cluster in a high frame, those that fetched the most first."""
    if view.height < _HOSTS_HEIGHT:
        return []

    workers = worker_texts(view.progress)
    rows = [view.row("worker").add(name).end(text, FAINT) for name, text in workers[:_MAX_WORKERS]]
    left = len(workers) - len(rows)
    return [*rows, view.row(" ").add(f"{left:,} more", FAINT)] if left else rows


def _hosts(view: View) -> list[Row]:
    """Return the hosts in a high frame, those with the most incidents first; paused ones are shown already."""
    if view.height < _HOSTS_HEIGHT:
        return []

    paused = {name for name, _ in view.progress.hosts.paused_at(view.now)[:_MAX_PAUSED]}
    hosts = sorted(view.progress.hosts.items(), key=lambda named: (-named[1].incidents, named[0]))
    shown = [(name, host) for name, host in hosts if name and name not in paused and (host.paces or host.incidents)]
    return [_host(view, name, host) for name, host in shown[:_MAX_HOSTS]]


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
