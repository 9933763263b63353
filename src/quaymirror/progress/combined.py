"""Concurrent runs as one, for a display that shows them together."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from heapq import nsmallest
from itertools import chain

from ..errors import ExitCode, most_severe
from ..events import Event, RunFinished, RunStarted
from .hosts import HostEvent, Hosts
from .meters import Meters
from .run import COUNTERS, FAILURES_KEPT, RunProgress


class CombinedProgress:
    """The progress of one run, or the sum of several, as it is now."""

    def __init__(self, runs: Sequence[RunProgress]) -> None:
        self.runs = runs
        self._hosts = Hosts()

    def observe(self, event: Event) -> None:
        """Count an event of a host. Runs that share the host all have it, so it reaches this once."""
        if len(self.runs) > 1 and isinstance(event, HostEvent):
            self._hosts.apply(event, self.runs[0].clock())

    def now(self) -> RunProgress:
        """Return the progress of all runs."""
        return self.runs[0] if len(self.runs) == 1 else _sum(self.runs, self._hosts)


def _sum(runs: Sequence[RunProgress], hosts: Hosts) -> RunProgress:
    begun = [run for run in runs if run.run is not None]
    in_flight = chain.from_iterable(run.meters.in_flight for run in runs)
    total = RunProgress(
        clock=runs[0].clock,
        meters=Meters(sum(run.meters.fetched_bytes for run in runs), in_flight),
        run=_started([run.run for run in begun if run.run is not None]),
        began=min((run.began for run in begun if run.began is not None), default=None),
        began_working=min((run.began_working for run in runs if run.began_working is not None), default=None),
        finished=_finished(begun) if all(run.finished is not None for run in runs) else None,
        hosts=hosts,
        failures=nsmallest(FAILURES_KEPT, chain.from_iterable(run.failures for run in runs)),
        refusals=nsmallest(FAILURES_KEPT, chain.from_iterable(run.refusals for run in runs)),
    )
    for name in COUNTERS:
        setattr(total, name, reduce(operator.add, (getattr(run, name) for run in runs)))

    total.finished_images.largest = sorted(
        chain.from_iterable(run.finished_images.largest for run in runs), key=lambda image: image.bytes
    )
    for run in runs:
        total.samples.extend(run.samples)
        total.work.update(run.work)
        total.by_signal |= run.by_signal
        total.finished_images.last.extend(run.finished_images.last)
        total.last_failures.extend(run.last_failures)
        total.last_notices.extend(run.last_notices)

    _stop(total, runs)
    return total


def _started(starts: Sequence[RunStarted]) -> RunStarted | None:
    """Return the first start, with the jobs, selections and targets of all."""
    if not starts:
        return None

    jobs = tuple(chain.from_iterable(start.jobs for start in starts))
    targets = ", ".join(dict.fromkeys(start.target for start in starts))
    return replace(starts[0], jobs=jobs, target=targets, selections=sum(start.selections for start in starts))


def _finished(runs: Sequence[RunProgress]) -> RunFinished | None:
    ends = [((run.began or 0.0) + run.finished.elapsed, run.finished.exit_code) for run in runs if run.finished]
    if not ends:
        return None

    began = min(run.began or 0.0 for run in runs)
    code = most_severe(ExitCode(code) for _, code in ends)
    return RunFinished(max(end for end, _ in ends) - began, int(code))


def _stop(total: RunProgress, runs: Sequence[RunProgress]) -> None:
    """Stop if all runs stop or have ended; otherwise the others go on, and a notice says so."""
    stopping = [run.stop_reason for run in runs if run.stop_reason is not None and run.finished is None]
    if not stopping:
        return

    if len(stopping) == sum(run.finished is None for run in runs):
        total.stop_reason = stopping[-1]
    else:
        total.last_notices.extend(f"one of {len(runs):,} runs is stopping: {reason}" for reason in stopping)
