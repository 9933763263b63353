"""Descriptions of events, runs and limits, as texts that are safe to print."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

from .. import events
from ..events import Event, HostPaced, Outcome, RunStarted, Status
from ..progress.failed import FailedImage, explain
from ..progress.forecast import expected_images, likely_images, seconds_left
from ..progress.hosts import Pause
from ..progress.rates import Speeds
from ..progress.run import RunProgress
from ..text import counted, escape_controls, human_bytes, human_duration, human_rate, one_line

_LONG_SECONDS = 10.0
# The part of a limit from which on it counts as reached.
_NEARLY = 0.85


def describe(event: Event) -> tuple[str, str]:  # noqa: C901  (a flat table, one entry per class of event)
    """Return a word and a text for `event`, each one line; "" if nothing is to be said about it."""
    match event:
        case events.RunStarted():
            word, text = "started", _start(event)
        case events.ImageFinished(outcome):
            word, text = outcome.status.value, _outcome(outcome)
        case events.CheckFailed():
            word, text = "failed", failure_text(FailedImage.of(event), with_url=True)
        case events.CandidateSkipped():
            word, text = "skipped", f"{event.repository}: {event.reason}"
        case events.NameUnmatched():
            word, text = "unmatched", unmatched_text(event)
        case events.TagChecked():
            word, text = "found", event.reference.name
        case events.HostPaused():
            word, text = "paused", f"{event.host} for {human_duration(event.seconds)}: {event.reason}"
        case events.ImagesMoved(names, is_left):
            verb = "have moved again, and are not checked any more" if is_left else "moved during the run"
            word, text = "moved", f"{counted(len(names), 'tag')} {verb}: {', '.join(names)}"
        case events.HostResumed():
            word, text = "resumed", event.host
        case events.HostPaced():
            word, text = "limits", f"of {event.host}: {event.kind} {pace_text(event)}"
        case events.RetryScheduled():
            failed = f"attempt {event.attempt} failed: {event.cause}"
            word, text = "retry", f"{event.what} in {human_duration(event.wait)}, {failed}"
        case events.ListingFinished():
            word, text = "listed", counted(event.pages, "page") + ("" if event.complete else "; the listing broke off")
        case events.Notice():
            word, text = "notice", event.message
        case events.StopRequested():
            word, text = "stopping", event.reason
        case events.RunFinished():
            error = f": {explain(event.error)}" if event.error else ""
            changes = "" if event.changes is None else f", {event.changes}"
            took = human_duration(event.elapsed)
            word, text = "finished", f"after {took}, exit code {event.exit_code}{changes}{error}"
        case _:
            word, text = "", ""

    return word, one_line(text)


def unmatched_text(event: events.NameUnmatched) -> str:
    """Return a name that matched nothing, with the nearest existing ones."""
    near = ", ".join(event.nearest)
    return f"{event.name}; nearest: {near}" if near else event.name


def failure_text(failed: FailedImage, *, with_url: bool) -> str:
    """Return the reason of a failure, which comes first so that it is never cut off, and the image."""
    return f"{failed}  {failed.name}" + (f"  {failed.url}" if with_url and failed.url else "")


def _outcome(outcome: Outcome) -> str:
    if outcome.status is Status.FAILED:
        return failure_text(FailedImage.of(outcome), with_url=True)

    return f"{outcome.reference.name}  {outcome_text(outcome)}"


def outcome_text(outcome: Outcome) -> str:
    """Return the details of a finished image that did not fail, which follow its status and name."""
    if outcome.status in (Status.SKIPPED, Status.REFUSED):
        return one_line(outcome.reason or "")

    digest = outcome.reference.digest
    parts = [] if digest is None else [f"{digest.algorithm}:{digest.short}"]
    if outcome.status is Status.MIRRORED:
        fetched, reused = human_bytes(outcome.bytes_fetched), human_bytes(outcome.bytes_reused)
        parts.append(f"{fetched} fetched, {reused} reused, {human_duration(outcome.elapsed)}")

    return "  ".join(parts)


def _start(run: RunStarted) -> str:
    words = f"{subject(run)} from {run.server} to {run.target}, run {run.run_id}"
    limits = limits_text(run)
    return escape_controls(words) + (", dry run" if run.dry_run else "") + (f", {limits}" if limits else "")


def subject(run: RunStarted) -> str:
    """Return the jobs of a run, if they have names, and its first selection."""
    more = f" and {run.selections - 1:,} more" if run.selections > 1 else ""
    jobs = f"{', '.join(run.jobs)}: " if run.jobs else ""
    selected = f"{run.organization}/{run.glob}:{run.tag}".removeprefix("/")  # some sources have no organizations
    return one_line(f"{jobs}{selected}{more}")


def stopping_text(progress: RunProgress) -> str:
    """Return what a run that stops still does, and how to end it at once."""
    if progress.in_work == 0:
        return "nothing is in flight"

    if not progress.by_signal:
        return f"finishing {counted(progress.in_work, 'image')} in flight"

    return "up to 10 s for what is nearly done; Ctrl-C again stops now"


def time_left(progress: RunProgress, speeds: Speeds, now: float) -> float | None:
    """Return the seconds until the run ends; None if they are not known, or if the run stops or its source is down."""
    paused = progress.hosts.paused_at(now)
    is_waiting = bool(progress.meters.in_flight) or any(now - pause.since >= _LONG_SECONDS for _, pause in paused)
    is_stalled = is_waiting and speeds.idle >= _LONG_SECONDS
    if progress.finished is not None or progress.stop_reason is not None or is_stalled:
        return None

    return seconds_left(progress, speeds.steady, now)


def limiting_text(progress: RunProgress, speeds: Speeds) -> str:
    """Return what limits the run; "" if nothing in particular is known. Pauses of hosts are not part of it."""
    if progress.run is None or progress.finished is not None:
        return ""

    return next(_limits(progress, progress.run, speeds), "")


def limit_kind(progress: RunProgress, speeds: Speeds) -> str:
    """Return what limits the run, or the host that it waits for, without numbers: one of a few texts."""
    paused = progress.hosts.paused_at(progress.clock())
    return f"{paused[0][0]} paused" if paused else limiting_text(progress, speeds).partition(",")[0]


def pause_texts(progress: RunProgress, pause: Pause, now: float) -> list[str]:
    """Return when requests to a host are tried again, and since when it has not answered, the longest text first.

    Short pauses, which are normal while the rate adapts, have no beginning.
    """
    left = human_duration(math.ceil(pause.until - now))
    if now - pause.since < _LONG_SECONDS or progress.run is None or progress.began is None:
        return [f"next try in {left}", left]

    moment = datetime.fromtimestamp(progress.run.started + pause.since - progress.began).astimezone()
    return [f"since {moment:%H:%M}, next try in {left}", f"since {moment:%H:%M}, {left}", left]


def _limits(progress: RunProgress, run: RunStarted, speeds: Speeds) -> Iterator[str]:
    if progress.meters.in_flight and speeds.idle >= _LONG_SECONDS:
        yield f"nothing received for {human_duration(speeds.idle)}"

    if run.limit_rate is not None and (speeds.current or 0) >= _NEARLY * run.limit_rate:
        yield f"your limit of {human_rate(run.limit_rate)}"

    unchecked = progress.checked < progress.matched
    is_waiting = progress.in_work > progress.planned_in_work
    paused = dict(progress.hosts.paused_at(progress.clock()))
    for name, host in sorted(progress.hosts.items()):
        if name in paused:
            continue

        for kind, is_needed, what in (("api", unchecked, "API"), ("manifests", is_waiting, "registry")):
            pace = host.paces.get(kind)
            if pace is not None and pace.rate is not None and is_needed:
                yield f"the {what} of {name}, {pace.rate:,.{0 if pace.rate >= 10 else 1}f} requests/s"


def pace_text(pace: HostPaced) -> str:
    """Return the limits of one kind of endpoints: `4.8/s, 4 at once`."""
    rate = "" if pace.rate is None else f"{pace.rate:,.{0 if pace.rate >= 10 else 1}f}/s, "
    return f"{rate}{pace.window:,} at once"


def worker_texts(progress: RunProgress) -> list[tuple[str, str]]:
    """Return the workers of a cluster with what each brought, the one that fetched the most first."""
    workers = sorted(progress.worker_blobs, key=lambda name: (-progress.worker_bytes[name], name))
    return [
        (name, f"{counted(progress.worker_blobs[name], 'blob')}, {human_bytes(progress.worker_bytes[name])}")
        for name in workers
    ]


def limits_text(run: RunStarted) -> str:
    """Return the limits that the user set for the source, "" if none."""
    limits = [] if run.limit_rate is None else [human_rate(run.limit_rate)]
    if run.max_requests_per_second is not None:
        limits.append(f"{run.max_requests_per_second:g} requests/s")

    return f"at most {', '.join(limits)}" if limits else ""


def total_text(progress: RunProgress, *, more: str = "+", about: str = "~") -> str:
    """Return the number of images: `120+` while repositories are listed, `~300` while some are unchecked."""
    likely, known = likely_images(progress), progress.known_images
    if expected_images(progress) is None:
        return f"{known:,}{more}"

    return f"{about}{likely:,}" if likely > known else f"{known:,}"
